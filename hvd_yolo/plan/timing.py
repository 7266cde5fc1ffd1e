"""How long an update takes on N ranks: compute, what is left of the communication when the backward
pass has ended, and the wait for the slowest. Pure arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from hvd_yolo.comm.traffic import is_low_rank, update_bytes
from hvd_yolo.plan.gradients import Group
from hvd_yolo.plan.links import Link

# Ways around the ring, of N - 1 hops each, of a group's first message and of the second, which is
# sent when the backward pass has ended (comm/compression.py): a sum is a reduce-scatter and an
# allgather; bf16 makes these two messages, PowerSGD sums twice, top-k is an allgather.
_TURNS = {"none": (2, 0), "fp16": (2, 0), "bf16": (1, 1), "powersgd": (2, 2), "topk": (1, 0)}
# From the least lossy on: a later one must be faster by more than this to be called the best.
COMPRESSIONS = tuple(_TURNS)
_WORTH = 0.02


@dataclass(frozen=True)
class Work:
    """An update of one rank by itself.

    seconds: its length; images: those of it; backward: the share of it in which gradients appear
    (of its last pass); threads: cores it keeps busy; jitter: standard deviation over mean of its
    length; overhead: what hooks and launches of many ranks add, as a share; groups: of its
    gradients, the first released first.
    """

    seconds: float
    images: float
    backward: float
    threads: int
    jitter: float
    overhead: float
    groups: Sequence[Group]


@dataclass(frozen=True)
class Cluster:
    """Hosts of ranks_per_host ranks. inner: their links within a host, outer: across; cores: those
    that `sharing` ranks share, infinite where each has what it was measured with; loader_rate:
    images a second that a core makes ready, infinite where they are free."""

    inner: Link
    outer: Link
    ranks_per_host: int = 1
    cores: float = math.inf
    sharing: int = 1
    loader_rate: float = math.inf


@dataclass(frozen=True)
class Compression:
    """powersgd_rank and topk_share: as in training; seconds: that it takes for each byte of the
    float32 gradients."""

    name: str
    powersgd_rank: int
    topk_share: float
    seconds: float


@dataclass(frozen=True)
class Prediction:
    """An update on `size` ranks. seconds: its length; exposed: of it, communication that the
    backward pass does not hide; wait: of it, waiting for the slowest; sent: bytes a rank sends for
    gradients or weights."""

    size: int
    compression: str
    reduction: str
    seconds: float
    exposed: float
    wait: float
    sent: float


class _Message(NamedTuple):
    """Of a group: bytes a rank sends, and seconds of the first and of the second message."""

    sent: float
    first: float
    second: float


@cache
def largest_of(count: int) -> float:
    """Expected largest of so many standard normal variables, by the trapezoidal rule."""
    # The mean of a variable with distribution F is the integral of 1 - F(x) - F(-x) over x > 0.
    x = np.linspace(0.0, 9.0, 9001)
    below = np.array([NormalDist().cdf(value) for value in x])
    heights = 1 - below**count - (1 - below) ** count
    return float((heights.sum() - heights[0] / 2) * x[1])


def exposed_seconds(
    releases: Sequence[float], durations: Sequence[float], backward: float
) -> float:
    """What is left of the reductions when the backward pass, of so many seconds, has ended: each
    starts when its group is released (seconds) and the one before it is through."""
    free = 0.0
    for release, duration in zip(releases, durations, strict=True):
        free = max(free, release) + duration
    return max(0.0, free - backward)


def reduction_seconds(sent: float, size: int, link: Link, turns: int, crowd: float) -> float:
    """A ring: the bytes that a rank sends, at the rate of the link or of the cores that move them,
    and a latency each hop; crowd: ranks that a core moves bytes for."""
    rate = max(1 / link.bandwidth, crowd * link.cpu)
    return sent * rate + turns * (size - 1) * link.latency


def predict(
    work: Work, cluster: Cluster, compression: Compression, size: int, reduction: str, every: int
) -> Prediction:
    """The update of `size` ranks with one compression, reduced by `reduction` (ring or
    hierarchical); weights are averaged every `every` updates where that is above 1."""
    sharing = min(size, cluster.sharing)
    slow = max(1.0, sharing * work.threads / cluster.cores)
    on_host = min(size, cluster.ranks_per_host)
    loading = on_host * work.images / (cluster.loader_rate * cluster.cores)
    alone = max(work.seconds * slow, loading)
    if size == 1:
        return Prediction(1, compression.name, reduction, alone, 0.0, 0.0, 0.0)
    compute = alone * (1 + work.overhead)
    pace = _pace(cluster, size)
    messages = _messages(work.groups, cluster, compression, size, reduction)
    sent = sum(message.sent for message in messages)
    if every > 1:
        # Weights are averaged after an update, with no backward pass beside it.
        exposed, stolen = (pace.start + sum(m.first + m.second for m in messages)) / every, 0.0
    else:
        moving = sharing * sent * pace.cpu
        spare = max(0.0, cluster.cores - sharing * work.threads)
        exposed, stolen = _overlap(
            work, compute, messages, pace.start, moving, spare, cluster.cores
        )
    bytes_of_gradients = 4 * sum(math.prod(s) for group in work.groups for s in group.shapes)
    compute += stolen + compression.seconds * bytes_of_gradients * slow / every
    wait = alone * _spread(work, cluster, size) / math.sqrt(every)
    # The sums of the losses travel beside the last gradients: a ring of their own.
    sums = 2 * (size - 1) * pace.latency / every
    total = compute + wait + exposed + sums
    return Prediction(size, compression.name, reduction, total, exposed, wait, sent / every)


def _overlap(
    work: Work,
    compute: float,
    messages: Sequence[_Message],
    start: float,
    moving: float,
    spare: float,
    cores: float,
) -> tuple[float, float]:
    """Seconds of communication that are exposed, and seconds by which moving bytes lengthens the
    backward pass; moving: core-seconds of it on the cores a rank shares, of which `spare` compute
    nothing."""
    first = [message.first for message in messages]
    second = sum(message.second for message in messages)
    # Ranks agree on a message while the one before is on its way.
    second += start if second else 0.0
    exposed, stolen = 0.0, 0.0
    # What is hidden takes cores from the backward pass, and the longer that is, the more it hides.
    for _ in range(5):
        backward = compute * work.backward + stolen
        releases = [group.release * backward + start for group in work.groups]
        exposed = exposed_seconds(releases, first, backward) + second
        hidden = 1 - exposed / max(sum(first) + second, 1e-12)
        if math.isfinite(cores):
            stolen = max(0.0, moving * hidden - spare * backward) / cores
    return exposed, stolen


def best(predictions: Sequence[Prediction]) -> Prediction:
    """The fastest, but of several within 2 % of it the least lossy, and a ring before a hierarchy
    that gains nothing."""
    fastest = min(p.seconds for p in predictions)
    near = [p for p in predictions if p.seconds <= fastest * (1 + _WORTH)]
    least = min(COMPRESSIONS.index(p.compression) for p in near)
    same = [p for p in near if COMPRESSIONS.index(p.compression) == least]
    return min(same, key=lambda p: (p.seconds, p.reduction != "ring"))


def can_be_hierarchical(cluster: Cluster, compression: str, size: int) -> bool:
    """Whether there are hosts of several ranks each, and the messages are sums."""
    on_host = cluster.ranks_per_host
    return 1 < on_host < size and size % on_host == 0 and compression not in ("bf16", "topk")


def _messages(
    groups: Sequence[Group],
    cluster: Cluster,
    compression: Compression,
    size: int,
    reduction: str,
) -> list[_Message]:
    """What a rank sends of each group.

    A ring over all ranks crosses each host's link once each way, whatever its ranks. In a hierarchy
    each rank of a host reduces its part with its like on the other hosts; together they send over
    the host's link, and cores move, what one rank would.
    """
    crowd = min(size, cluster.sharing) / cluster.cores
    if reduction == "ring":
        ways = [(size, _pace(cluster, size), crowd)]
    else:
        on_host = cluster.ranks_per_host
        across = (size // on_host, cluster.outer, crowd / on_host)
        ways = [(on_host, cluster.inner, crowd), across]
    options = (compression.name, compression.powersgd_rank, compression.topk_share)
    first_turns, second_turns = _TURNS[compression.name]
    found = []
    for group in groups:
        share = _first_share(group, compression)
        first = second = 0.0
        for count, link, senders in ways:
            sent = update_bytes(group.shapes, count, *options)
            first += reduction_seconds(sent * share, count, link, first_turns, senders)
            second += reduction_seconds(sent * (1 - share), count, link, second_turns, senders)
        found.append(_Message(update_bytes(group.shapes, size, *options), first, second))
    return found


def _first_share(group: Group, compression: Compression) -> float:
    """The share of a group's bytes that goes with its first message. Of PowerSGD these are the
    factors P, of as many rows as the matrices, and what goes whole."""
    if compression.name == "bf16":
        return 0.5
    if compression.name != "powersgd":
        return 1.0
    rank = compression.powersgd_rank
    first = second = 0
    for shape in group.shapes:
        if is_low_rank(shape, rank):
            first += rank * shape[0]
            second += rank * math.prod(shape[1:])
        else:
            first += math.prod(shape)
    return first / (first + second)


def _pace(cluster: Cluster, size: int) -> Link:
    """The link that sets the pace of a ring over all ranks."""
    if size <= cluster.ranks_per_host:
        return cluster.inner
    if cluster.ranks_per_host == 1 or cluster.outer.bandwidth <= cluster.inner.bandwidth:
        return cluster.outer
    return Link(
        "inner and outer", cluster.inner.bandwidth,
        max(cluster.inner.latency, cluster.outer.latency),
        max(cluster.inner.start, cluster.outer.start),
        max(cluster.inner.cpu, cluster.outer.cpu), "",
    )  # fmt: skip


def _spread(work: Work, cluster: Cluster, size: int) -> float:
    """How much longer than the mean the slowest rank takes, as a share, if each draws its length
    from a normal distribution of its own. Ranks that share too few cores end together: who is early
    leaves its cores to the others."""
    sharing = min(size, cluster.sharing)
    if sharing * work.threads > cluster.cores:
        return work.jitter / math.sqrt(sharing) * largest_of(math.ceil(size / sharing))
    return work.jitter * largest_of(size)
