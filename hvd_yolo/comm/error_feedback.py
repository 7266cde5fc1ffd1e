"""Lossy compression of gradients with error feedback: PowerSGD and top-k.

What a compressor leaves out is kept and added to the next gradient (Karimireddy et al. 2019, Error
feedback fixes SignSGD), so nothing is lost, only late. What is still kept at a checkpoint is summed
over ranks and shared out evenly: PowerSGD is linear in it, so the sum is all that matters, and it
fits any number of ranks. A gradient that is not finite on any rank is passed on as NaN, and what
was kept of its bucket is forgotten; which of both it is stays on the device, for asking would make
the host wait for a GPU.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hvd_yolo.comm.buckets import Engine, views_in
from hvd_yolo.comm.traffic import is_low_rank, num_kept


class ErrorFeedback:
    """What a rank has not sent yet of a bucket, (n), and where its parameters are in it."""

    def __init__(
        self, engine: Engine, name: str, named: Mapping[str, Tensor], kept: Mapping[str, Tensor]
    ) -> None:
        self._engine = engine
        self._name = name
        self._named = dict(named)
        like = next(iter(named.values()))
        self._error = like.new_zeros(sum(p.numel() for p in named.values()))
        for key, view in zip(named, views_in(self._error, named.values()), strict=True):
            if f"error.{key}" in kept:
                view.copy_(kept[f"error.{key}"])
        self._error /= engine.size

    def rescale(self, factor: Tensor) -> None:
        """Of the gradient's unit."""
        self._error.mul_(factor)

    def settle(self) -> dict[str, Tensor]:
        """The sum over ranks of what was not sent, by parameter; each rank goes on with an equal
        share of it."""
        total = self._engine.start_sum(self._error, f"{self._name}.error")()
        self._error = total / self._engine.size
        views = views_in(total, self._named.values())
        return {f"error.{key}": view.clone() for key, view in zip(self._named, views, strict=True)}


class PowerSgd(ErrorFeedback):
    """Vogels et al. 2019, PowerSGD, algorithms 1 and 2, with warm start.

    A parameter (o, ...) is a matrix of o rows. P = sum over ranks of M Q, orthonormal columns of P,
    Q = sum over ranks of M^T P, and the gradient is P Q^T; the next update starts from this Q. What
    a rank keeps is M - P (P^T M), its own part, the sums of which are the algorithm's. Parameters
    that two factors would make larger go as they are, with P.

    Everything travels as float16, which buys twice the rank for the same bytes: P only has to span
    about the right columns, and what a rank's own rounding takes from Q and from whole parameters
    is kept too. Columns of Q are made unit vectors before the product, else its size would be that
    of a gradient squared. A gradient beyond float16, 65504, counts as not finite.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        named: Mapping[str, Tensor],
        rank: int,
        kept: Mapping[str, Tensor],
    ) -> None:
        super().__init__(engine, name, named, kept)
        self._rank = rank
        sizes = [p.numel() for p in named.values()]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self._low, self._whole, self._q = [], [], []
        for (key, p), start in zip(named.items(), starts, strict=True):
            if is_low_rank(p.shape, rank):
                self._low.append((key, start, p.shape[0], p.numel() // p.shape[0]))
                q = kept.get(f"factor.{key}")
                same = q is not None and q.shape[1] == rank
                self._q.append(q.to(p) if same else _first_factor(p, key, rank))
            else:
                self._whole.append((start, p.numel()))

    def start(self, gradient: Tensor) -> None:
        """The products P, and what is sent whole."""
        self._error += gradient
        p = [
            (m @ F.normalize(q, dim=0)).flatten()
            for m, q in zip(self._matrices(self._error), self._q, strict=True)
        ]
        whole = [self._error[start : start + length] for start, length in self._whole]
        sent = torch.cat(p + whole).half()
        self._own_whole = sent[sum(map(len, p)) :].to(gradient, copy=True)
        self._wait = self._engine.start_sum(sent, f"{self._name}.p")

    def follow(self) -> None:
        """The products Q. What the two factors hold is no longer kept."""
        arrived = self._wait().to(self._error)
        self._is_lost = arrived.isfinite().all().logical_not()
        arrived.masked_fill_(self._is_lost, 0.0)
        lengths = [num_rows * self._rank for _, _, num_rows, _ in self._low]
        *p, self._whole_sum = arrived.split([*lengths, len(self._own_whole)])
        self._p = _orthonormal([x.view(-1, self._rank) for x in p])
        matrices = self._matrices(self._error)
        own = [(m.T @ p).half() for m, p in zip(matrices, self._p, strict=True)]
        for m, p, q in zip(matrices, self._p, own, strict=True):
            m.addmm_(p, q.T.to(m), alpha=-1)
        for whole, sent in zip(*self._wholes(self._error, self._own_whole), strict=True):
            whole.sub_(sent)
        if own:
            sent = torch.cat([q.flatten() for q in own])
            self._wait = self._engine.start_sum(sent, f"{self._name}.q")

    def finish(self) -> Tensor:
        """P Q^T of every matrix, and the plain sums."""
        total = torch.empty_like(self._error)
        is_lost = self._is_lost
        if self._low:
            arrived = self._wait().to(self._error)
            is_lost = is_lost | arrived.isfinite().all().logical_not()
            lengths = [columns * self._rank for _, _, _, columns in self._low]
            factors = [x.view(-1, self._rank) for x in arrived.split(lengths)]
            for m, p, q in zip(self._matrices(total), self._p, factors, strict=True):
                torch.mm(p, q.T, out=m)
            self._q = [
                torch.where(is_lost, old, q) for old, q in zip(self._q, factors, strict=True)
            ]
        for whole, summed in zip(*self._wholes(total, self._whole_sum), strict=True):
            whole.copy_(summed)
        self._error.masked_fill_(is_lost, 0.0)
        return total.masked_fill_(is_lost, math.nan)

    def settle(self) -> dict[str, Tensor]:
        """The unsent sums and the factors Q, which are the same on all ranks."""
        factors = zip(self._low, self._q, strict=True)
        return super().settle() | {f"factor.{key}": q.clone() for (key, *_), q in factors}

    def _matrices(self, flat: Tensor) -> list[Tensor]:
        return [
            flat[start : start + rows * columns].view(rows, columns)
            for _, start, rows, columns in self._low
        ]

    def _wholes(self, flat: Tensor, sent: Tensor) -> tuple[list[Tensor], Sequence[Tensor]]:
        """The parameters that go as they are, in the bucket and in what is sent of it."""
        lengths = [length for _, length in self._whole]
        return [flat[start : start + length] for start, length in self._whole], sent.split(lengths)


class TopK(ErrorFeedback):
    """The largest entries of a bucket, by magnitude, of every rank (Lin et al. 2018, Deep Gradient
    Compression, section 3, without its momentum correction and clipping)."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        named: Mapping[str, Tensor],
        share: float,
        kept: Mapping[str, Tensor],
    ) -> None:
        super().__init__(engine, name, named, kept)
        self._count = num_kept(len(self._error), share)

    def start(self, gradient: Tensor) -> None:
        """Places and values in one message, as integers of the values' width."""
        self._error += gradient
        places = self._error.abs().topk(self._count, sorted=False).indices
        values = self._error[places]
        self._error.index_fill_(0, places, 0.0)
        integers = torch.int64 if values.dtype == torch.float64 else torch.int32
        sent = torch.cat((places.to(integers), values.view(integers)))
        self._wait = self._engine.start_gather(sent, f"{self._name}.top")

    def follow(self) -> None:
        """No second message."""

    def finish(self) -> Tensor:
        """The sum of what all ranks sent, zeros elsewhere."""
        total = torch.zeros_like(self._error)
        for places, values in self._wait().view(self._engine.size, 2, -1):
            total.index_add_(0, places.long(), values.contiguous().view(total.dtype))
        is_lost = total.isfinite().all().logical_not()
        self._error.masked_fill_(is_lost, 0.0)
        return total.masked_fill_(is_lost, math.nan)


def _first_factor(p: Tensor, name: str, rank: int) -> Tensor:
    """(columns, rank): Gaussian numbers, a function of the parameter's name alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(p.numel() // p.shape[0], rank, generator=generator, dtype=p.dtype).to(p)


def _orthonormal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Orthonormal bases (o, r) of the columns of each matrix (o, r); those of one height at once.

    By Householder's reflections: columns that depend on others, as of a gradient of zeros, become
    some other orthonormal columns and not zeros, which would never grow again. Each rank computes
    them from the same bits; processors of different makes may come to different last digits.
    """
    bases: list[Tensor] = [torch.empty(0)] * len(matrices)
    for height in {len(matrix) for matrix in matrices}:
        alike = [i for i, matrix in enumerate(matrices) if len(matrix) == height]
        found = torch.linalg.qr(torch.stack([matrices[i] for i in alike])).Q
        for i, basis in zip(alike, found, strict=True):
            bases[i] = basis
    return bases
