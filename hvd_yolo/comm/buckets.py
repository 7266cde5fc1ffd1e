"""Gradients summed over ranks in a few flat buckets, while the backward pass goes on.

What hvd.DistributedOptimizer does for plain sums, for everything that is not one: compressions that
take two messages, torch.distributed, and updates in which a rank keeps its gradients to itself.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from hvd_yolo.config import Sharing

T = TypeVar("T")
Wait = Callable[[], Tensor]


class Engine(Protocol):
    """Collectives that have begun when the call returns. All ranks call them in one order.

    Each returns a function that waits and gives the result. The tensor given must not be touched
    before. adds_bfloat16: whether start_sum() takes bfloat16.
    """

    size: int
    adds_bfloat16: bool

    def start_sum(self, tensor: Tensor, name: str) -> Wait:
        """The elementwise sum over ranks, in the memory of `tensor` (n)."""
        ...

    def start_gather(self, tensor: Tensor, name: str) -> Wait:
        """(size, n): the tensors (n) of all ranks."""
        ...

    def start_exchange(self, tensor: Tensor, name: str) -> Wait:
        """(size, n / size): of every rank's tensor (n), the part that is this rank's."""
        ...


class Compressor(Protocol):
    """How one bucket's gradients become their sum over ranks, in two steps that all ranks take.

    A bucket is (n), the gradients of its parameters one after the other, each in the order its
    parameter has in memory.
    """

    def start(self, gradient: Tensor) -> None:
        """Takes this rank's gradient and begins to send it."""
        ...

    def follow(self) -> None:
        """Begins the second message, if there is one, once the first has arrived."""
        ...

    def finish(self) -> Tensor:
        """(n): the sum, or what the compression makes of it; the same bits on all ranks."""
        ...

    def rescale(self, factor: Tensor) -> None:
        """Multiplies what this rank keeps from update to update."""
        ...

    def settle(self) -> dict[str, Tensor]:
        """Makes what this rank keeps from update to update one for all ranks, and returns it, as
        the constructor takes it back: what a checkpoint must hold."""
        ...


class Bucket:
    """A run of parameters whose gradients are sent together, by either of two compressors."""

    def __init__(
        self, parameters: Sequence[Tensor], compressor: Compressor, whole: Compressor
    ) -> None:
        self.parameters = list(parameters)
        self.compressor = compressor
        self.whole = whole
        self.num_missing = 0

    def gradient(self) -> Tensor:
        """(n): the gradients, zeros for a parameter without one."""
        return torch.cat(
            [
                p.new_zeros(p.numel()) if p.grad is None else in_memory_order(p.grad)
                for p in self.parameters
            ]
        )

    def spread(self, total: Tensor) -> None:
        """Makes each parameter's gradient a view of the sum (n)."""
        for p, view in zip(self.parameters, views_in(total, self.parameters), strict=True):
            p.grad = view


class Reducer:
    """Sends each bucket when all of its gradients have come from `passes` backward passes.

    sharing: see Comm.share_gradients; is_eager False: nothing is sent before finish(). Buckets are
    sent in one order on all ranks, which torch.distributed asks for.
    """

    def __init__(self, engine: Engine, buckets: Sequence[Bucket], passes: int) -> None:
        self.sharing: Sharing = "compressed"
        self.is_eager = True
        self._engine = engine
        self._buckets = list(buckets)
        self._passes = passes
        self._passes_made = {p: 0 for bucket in buckets for p in bucket.parameters}
        self._home = {p: bucket for bucket in buckets for p in bucket.parameters}
        self._num_sent = 0
        self._reset()
        for p in self._home:
            p.register_post_accumulate_grad_hook(self._count_pass)

    def finish(self, beside: Callable[[], Tensor]) -> Tensor:
        """Sends what is left, passes this rank did not make counting as zeros, and gives every
        parameter the sum as its gradient; or its own, or zeros, when nothing is sent. Returns the
        sum of `beside()`, or its own."""
        if self.sharing != "own":
            for bucket in self._buckets[self._num_sent :]:
                self._compressor(bucket).start(bucket.gradient())
            for bucket in self._buckets:
                self._compressor(bucket).follow()
            wait = start_beside(self._engine, beside())
            for bucket in self._buckets:
                bucket.spread(self._compressor(bucket).finish())
        else:
            for p in self._home:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            wait = beside
        self._reset()
        return wait()

    def rescale(self, factor: Tensor) -> None:
        """Multiplies what all compressors keep."""
        for bucket in self._buckets:
            bucket.compressor.rescale(factor)

    def settle(self) -> dict[str, Tensor]:
        """What all compressors keep, made one for all ranks."""
        kept: dict[str, Tensor] = {}
        for bucket in self._buckets:
            kept |= bucket.compressor.settle()
        return kept

    def _reset(self) -> None:
        self._num_sent = 0
        self._passes_made = dict.fromkeys(self._passes_made, 0)
        for bucket in self._buckets:
            bucket.num_missing = len(bucket.parameters)

    def _count_pass(self, p: Tensor) -> None:
        self._passes_made[p] += 1
        if self._passes_made[p] == self._passes:
            self._home[p].num_missing -= 1
            is_sending = self.is_eager and self.sharing != "own"
            while is_sending and self._num_sent < len(self._buckets):
                bucket = self._buckets[self._num_sent]
                if bucket.num_missing:
                    break
                self._compressor(bucket).start(bucket.gradient())
                self._num_sent += 1

    def _compressor(self, bucket: Bucket) -> Compressor:
        return bucket.whole if self.sharing == "whole" else bucket.compressor


def start_beside(engine: Engine, tensor: Tensor) -> Wait:
    """The sum over ranks of what travels with an update's gradients.

    By a name of its own, and of its length: what Horovod has no record of makes all ranks talk, and
    Horovod 0.28.1 stands still when that happens while some have sent a group of gradients and
    others have not.
    """
    return engine.start_sum(tensor, f"beside{len(tensor)}")


def equal_runs(items: Sequence[T], lengths: Sequence[int], count: int) -> list[list[T]]:
    """The items, in the order given, in at most `count` runs of about equal length."""
    share = sum(lengths) / count
    runs: list[list[T]] = [[]]
    filled = 0
    for item, length in zip(items, lengths, strict=True):
        if filled >= share * len(runs) and len(runs) < count:
            runs.append([])
        runs[-1].append(item)
        filled += length
    return runs


def views_in(flat: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    """Each parameter's part of a bucket (n), with its shape and order in memory."""
    views, start = [], 0
    for p in parameters:
        views.append(flat.as_strided(p.shape, p.stride(), start))
        start += p.numel()
    return views


def in_memory_order(tensor: Tensor) -> Tensor:
    """The dense run of numbers that a tensor is in memory, (n): channels_last stays as it is, which
    no engine takes otherwise."""
    return tensor.as_strided((tensor.numel(),), (1,))
