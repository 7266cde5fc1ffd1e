"""Which outputs of a head belong to which class."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class ClassRows(NamedTuple):
    """A convolution with outputs for the classes: `num_groups` groups of channels, one an anchor,
    in each `num_others` that belong to no class, and one a class behind them."""

    layer: nn.Conv2d
    num_groups: int = 1
    num_others: int = 0

    def num_channels(self, num_classes: int) -> int:
        """Of such a convolution for so many classes."""
        return self.num_groups * (self.num_others + num_classes)

    def channels(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """The channels (num_groups, num_classes) of so many classes, column k those of class k; and
        (num_groups, num_others) the others."""
        every = torch.arange(self.num_channels(num_classes)).view(self.num_groups, -1)
        return every[:, self.num_others :], every[:, : self.num_others]
