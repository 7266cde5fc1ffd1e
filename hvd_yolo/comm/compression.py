"""Gradients made small, and the reducer that sends them so."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_yolo.comm.buckets import (
    Bucket,
    Compressor,
    Engine,
    Reducer,
    equal_runs,
)
from hvd_yolo.comm.error_feedback import PowerSgd, TopK
from hvd_yolo.config import CommConfig


def make_reducer(
    engine: Engine,
    model: nn.Module,
    passes: int,
    options: CommConfig,
    kept: Mapping[str, Tensor],
) -> Reducer:
    """The reducer of a model's trained parameters; `kept` is what settle() of an earlier one gave.

    The last layers go into the first bucket, for their gradients come first.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    names = {p: name for name, p in named}
    buckets = []
    trained = [p for _, p in reversed(named)]
    for i, run in enumerate(equal_runs(trained, [p.numel() for p in trained], options.groups)):
        its_own = {names[p]: p.detach() for p in run}
        compressor = _compressor(engine, f"bucket{i}", its_own, options, kept)
        buckets.append(Bucket(run, compressor, Dense(engine, f"bucket{i}.whole")))
    return Reducer(engine, buckets, passes)


def _compressor(
    engine: Engine,
    name: str,
    named: Mapping[str, Tensor],
    options: CommConfig,
    kept: Mapping[str, Tensor],
) -> Compressor:
    if engine.size == 1:
        return Dense(engine, name)
    if options.compression == "powersgd":
        return PowerSgd(engine, name, named, options.powersgd_rank, kept)
    if options.compression == "topk":
        return TopK(engine, name, named, options.topk_share, kept)
    if options.compression == "bf16" and not engine.adds_bfloat16:
        return TwoHalves(engine, name)
    if options.compression == "bf16":
        return Dense(engine, name, torch.bfloat16)
    return Dense(engine, name, torch.float16 if options.compression == "fp16" else None)


class Dense:
    """The plain sum, sent in `dtype` and added in it by the engine."""

    def __init__(self, engine: Engine, name: str, dtype: torch.dtype | None = None) -> None:
        self._engine = engine
        self._name = name
        self._dtype = dtype

    def start(self, gradient: Tensor) -> None:
        """One message."""
        self._original = gradient.dtype
        sent = gradient if self._dtype is None else gradient.to(self._dtype)
        self._wait = self._engine.start_sum(sent, self._name)

    def follow(self) -> None:
        """No second message."""

    def finish(self) -> Tensor:
        """The sum, in the gradient's own precision."""
        return self._wait().to(self._original)

    def rescale(self, factor: Tensor) -> None:
        """Nothing is kept."""

    def settle(self) -> dict[str, Tensor]:
        """Nothing is kept."""
        return {}


class TwoHalves:
    """The sum in bfloat16 over engines that cannot add it well: Horovod has no such type, and Gloo
    rounds at every rank.

    The two halves of a ring's sum, one after the other: each rank is sent its part of every
    gradient, adds the parts in float32, and sends the rounded sum to all. bfloat16 travels as
    int16. As many bytes as a sum of 2-byte numbers, and rounded twice, whatever the number of
    ranks.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name

    def start(self, gradient: Tensor) -> None:
        """The first half, (n) padded to equal parts."""
        self._length, self._original = len(gradient), gradient.dtype
        padded = F.pad(gradient.bfloat16(), (0, -len(gradient) % self._engine.size))
        parts = padded.view(torch.int16)
        self._wait = self._engine.start_exchange(parts, f"{self._name}.parts")

    def follow(self) -> None:
        """The second half."""
        own = self._wait().view(torch.bfloat16).float().sum(0).bfloat16().view(torch.int16)
        self._wait = self._engine.start_gather(own, f"{self._name}.sums")

    def finish(self) -> Tensor:
        """The sum."""
        joined = self._wait().flatten().view(torch.bfloat16)
        return joined[: self._length].to(self._original)

    def rescale(self, factor: Tensor) -> None:
        """Nothing is kept."""

    def settle(self) -> dict[str, Tensor]:
        """Nothing is kept."""
        return {}
