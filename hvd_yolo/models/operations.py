"""How much a model computes."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_operations(model: nn.Module, size: int, batch_norm: int = 8) -> int:
    """Floating point operations of the evaluation of one image of size x size pixels.

    Two for a multiplication with its addition in convolutions and matrix products, one for a bias,
    and `batch_norm` for an element of BatchNorm: 8 as in the tables of Ultralytics ("GFLOPs",
    unfused), 4 as in those of YOLOX. Nothing is computed: the model is copied to the meta device.
    Suppression is not counted.
    """
    model = copy.deepcopy(model).to("meta").eval()
    counts = []
    for module in model.modules():
        has_bias = isinstance(module, nn.Conv2d) and module.bias is not None
        if has_bias or isinstance(module, nn.BatchNorm2d):
            each = batch_norm if isinstance(module, nn.BatchNorm2d) else 1
            module.register_forward_hook(
                lambda _module, _inputs, output, each=each: counts.append(each * output.numel())
            )
    dtype = next(model.parameters()).dtype
    images = torch.zeros(1, 3, size, size, device="meta", dtype=dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.predict(images)
    return counter.get_total_flops() + sum(counts)
