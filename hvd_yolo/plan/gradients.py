"""In which groups a model's gradients are reduced, and when in the backward pass each is there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hvd_yolo.comm.buckets import equal_runs
from hvd_yolo.models import YOLO, largest_stride

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One parameter: its shape, and its work, in any unit, the same for all layers of a model."""

    shape: Shape
    work: float


@dataclass(frozen=True)
class Group:
    """Parameters whose gradients are reduced together. release: the share of the backward pass
    after which the last of them is there."""

    shapes: tuple[Shape, ...]
    release: float


def model_layers(model: nn.Module) -> list[Layer]:
    """The trained parameters in forward order. The work of a convolution's weight is its
    multiply-adds, found with one small image; of a model that is not built in, nobody knows how to
    call it, and the work of a parameter is its length."""
    work = {p: float(p.numel()) for p in model.parameters()}
    if isinstance(model, YOLO):
        work = dict.fromkeys(work, 0.0) | _multiply_adds(model)
    return [Layer(tuple(p.shape), work[p]) for p in model.parameters() if p.requires_grad]


def uniform_layers(num_parameters: int) -> list[Layer]:
    """Layers for a model of which the number of parameters is all that is known: 3 x 3 convolutions
    of 256 channels, and as much work in each."""
    shape = (256, 256, 3, 3)
    count = max(1, round(num_parameters / math.prod(shape)))
    exact = (256, num_parameters / count / 256)
    return [Layer(tuple(round(side) for side in exact), 1.0)] * count


def group_gradients(layers: Sequence[Layer], count: int) -> list[Group]:
    """At most `count` runs of about equal length, as comm.groups makes them, the first released
    first: the backward pass goes through the layers from the last to the first."""
    runs = equal_runs(layers, [math.prod(layer.shape) for layer in layers], count)
    work = sum(layer.work for layer in layers)
    groups, before = [], 0.0
    for run in runs:
        groups.append(Group(tuple(layer.shape for layer in run), 1.0 - before / work))
        before += sum(layer.work for layer in run)
    return groups[::-1]


def _multiply_adds(model: YOLO) -> dict[Tensor, float]:
    """Of each convolution's weight, for one image of twice the largest stride."""
    found: dict[Tensor, float] = {}

    def _count(layer: nn.Conv2d, _: tuple[Tensor, ...], output: Tensor) -> None:
        positions = output.shape[-1] * output.shape[-2]
        found[layer.weight] = found.get(layer.weight, 0.0) + layer.weight.numel() * positions

    hooks = [
        module.register_forward_hook(_count)
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    side = 2 * largest_stride(model)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return found
