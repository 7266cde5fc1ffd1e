"""The twin for one process: no Horovod, no MPI, and the same code everywhere else."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from hvd_yolo.config import CommConfig, Sharing


class SingleComm:
    """A job of one rank; every collective is the identity. See Comm for what the methods
    promise."""

    name = "single"
    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    is_main = True
    sent_bytes = 0
    is_elastic = False
    has_news = False

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.own_cpus = 1
        self.settings: dict[str, str] = {}

    def distribute(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        passes: int,
        options: CommConfig,
        kept: Mapping[str, Tensor],
    ) -> torch.optim.Optimizer:
        """The optimizer itself: nothing is sent, so nothing is compressed."""
        return optimizer

    def share_gradients(self, sharing: Sharing) -> None:
        """This rank's own gradients are the sums."""

    def reduced_gradients(
        self, optimizer: torch.optim.Optimizer, beside: Callable[[], Tensor]
    ) -> AbstractContextManager[Tensor]:
        """Gradients are whole already; a parameter without one gets zeros, as on many ranks."""
        zero_missing_gradients(optimizer)
        return nullcontext(beside())

    def rescale_unsent(self, factor: Tensor) -> None:
        """Nothing was left unsent."""

    def settle_compression(self) -> dict[str, Tensor]:
        """Nothing was left unsent."""
        return {}

    def adasum(self, tensors: Sequence[Tensor]) -> None:
        """One rank's tensors are their own sum."""

    def sum(self, tensor: Tensor) -> Tensor:
        """A copy."""
        return tensor.clone()

    def stream_sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """A copy."""
        return tensor.clone()

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The one part."""
        return [tensor.clone()]

    def exchange(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """What it has for itself."""
        return [parts[0].clone()]

    def broadcast(self, tensor: Tensor, root: int = 0) -> Tensor:
        """A copy."""
        return tensor.clone()

    def barrier(self) -> None:
        """Nobody to wait for."""


def zero_missing_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Gives zeros to every trained parameter that no backward pass reached."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is None and p.requires_grad:
                p.grad = torch.zeros_like(p)
