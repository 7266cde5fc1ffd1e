"""The exponential moving average of a model's weights."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hvd_yolo.comm.batch_norm import other_buffers


class Ema:
    """The exponential moving average of a model's weights and floating-point buffers, as a model of
    its own; other buffers are copied.

    The decay builds up as decay * (1 - exp(-updates / tau)), so that the first, poor weights are
    soon forgotten; decay 0 makes it a copy. It computes on each rank the same from the same
    weights: no collective.
    """

    def __init__(self, model: nn.Module, decay: float, tau: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.tau = tau
        # By module and name, for a model may put another tensor into the place of a buffer.
        self._places = _places(self.module)

    @torch.no_grad()
    def update(self, model: nn.Module, updates: int) -> None:
        """Takes in the weights after the given number of updates, counted from 1."""
        share = 1 - self.decay * (1 - math.exp(-updates / self.tau))
        mine, theirs = list(self.module.modules()), list(model.modules())
        kinds: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
        for index, name, kind in self._places:
            averages, values = kinds.setdefault(kind, ([], []))
            averages.append(_tensor_at(mine[index], name))
            values.append(_tensor_at(theirs[index], name))
        for kind, (averages, values) in kinds.items():
            if kind == "average":
                torch._foreach_lerp_(averages, values, share)
            elif kind == "copy":
                torch._foreach_copy_(averages, values)
            else:
                _average_unless_equal(averages, values, share)


def _places(module: nn.Module) -> list[tuple[int, str, str]]:
    """Where the tensors of the state dict lie: the number of the module, the name in it, and how
    the tensor is updated; each tensor once."""
    others = {id(buffer) for buffer in other_buffers(module).values()}
    places: dict[int, tuple[int, str, str]] = {}
    for index, part in enumerate(module.modules()):
        saved = {
            name: buffer
            for name, buffer in part._buffers.items()
            if name not in part._non_persistent_buffers_set
        }
        for name, tensor in {**part._parameters, **saved}.items():
            if tensor is None:
                continue
            kind = "average" if tensor.is_floating_point() else "copy"
            kind = "unless equal" if id(tensor) in others else kind
            places.setdefault(id(tensor), (index, name, kind))
    return list(places.values())


def _tensor_at(module: nn.Module, name: str) -> Tensor:
    return module._parameters[name] if name in module._parameters else module._buffers[name]


def _average_unless_equal(
    averages: Sequence[Tensor], values: Sequence[Tensor], share: float
) -> None:
    """The average of buffers that may hold infinite constants, as masks do, which would become
    NaN."""
    for average, value in zip(averages, values, strict=True):
        average.copy_(torch.where(average == value, average, average.lerp(value, share)))
