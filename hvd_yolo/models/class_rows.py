"""Which outputs of a head belong to which class."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class ClassRows(NamedTuple):
    """A convolution and its output channels (N, K) that belong to classes: column k those of class
    k."""

    layer: nn.Conv2d
    channels: Tensor


def all_rows(layer: nn.Conv2d) -> ClassRows:
    """Those of a convolution whose outputs are the classes."""
    return ClassRows(layer, torch.arange(layer.out_channels)[None])
