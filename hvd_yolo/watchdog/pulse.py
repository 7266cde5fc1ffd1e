"""What a rank is doing, told to whoever asks when it stands still."""

import math
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor

from hvd_yolo.comm import Comm
from hvd_yolo.memory import resident

T = TypeVar("T")

# Of the memory of a GPU; each takes as long as launching some kernels.
_SECONDS_BETWEEN_READINGS = 1.0


class Mark(NamedTuple):
    """count: collectives that the rank has entered, which all ranks do in one order; phase: what it
    does since the moment `since` (time.monotonic()); is_waiting: for other ranks, in that
    collective; is_computing: it says nothing for long, and gets on while it takes a core."""

    count: int
    phase: str
    is_waiting: bool
    since: float
    is_computing: bool = False


class Pulse:
    """The last mark, and what the rank has done so far: updates, seconds it waited for images and
    for other ranks; and the bytes that it holds of the memory of its GPU. Written by the thread
    that trains, read by the one that watches, which never calls CUDA: where a kernel hangs, so
    would the thread that is to tell."""

    def __init__(self, device: torch.device | None = None) -> None:
        """device: where the rank computes."""
        self.gpu_memory = 0
        self._device = device if device is not None and device.type == "cuda" else None
        self._memory_read = -math.inf
        self.mark = Mark(0, "the start", False, time.monotonic())
        self.updates = 0
        self.data_wait = 0.0
        self.comm_wait = 0.0

    def add(self, updates: int, data_wait: float, comm_wait: float) -> None:
        """An update is made, the number `updates` of the run, with so many seconds of waits."""
        self.updates = updates
        self.data_wait += data_wait
        self.comm_wait += comm_wait
        now = time.monotonic()
        if self._device is not None and now - self._memory_read > _SECONDS_BETWEEN_READINGS:
            self._memory_read = now
            self.gpu_memory = torch.cuda.memory_reserved(self._device)

    def at(self, phase: str, is_computing: bool = False) -> None:
        """The rank has come to this; said again, that it is getting on with it."""
        self.mark = Mark(self.mark.count, phase, False, time.monotonic(), is_computing)

    def wait(self, collective: str) -> str:
        """The rank waits for the others, until at() is called; returns the phase it was in."""
        phase = self.mark.phase
        self.mark = Mark(self.mark.count + 1, collective, True, time.monotonic())
        return phase

    @contextmanager
    def waiting(self, collective: str) -> Iterator[None]:
        """Inside, the rank waits for the others."""
        is_computing = self.mark.is_computing
        phase = self.wait(collective)
        try:
            yield
        finally:
            self.at(phase, is_computing)


def pulse_of(comm: Comm) -> "Pulse":
    """The pulse of a watched comm, or one that nobody looks at."""
    return comm.pulse if isinstance(comm, WatchedComm) else Pulse()


def marked(batches: Iterable[T], comm: Comm, phase: str) -> Iterator[T]:
    """The batches; while one is waited for the rank loads images, and with each it gets on with the
    phase."""
    pulse = pulse_of(comm)
    pulse.at(f"loading images for {phase}")
    for batch in batches:
        pulse.at(phase)
        yield batch
        pulse.at(f"loading images for {phase}")
    pulse.at(f"the end of {phase}", is_computing=True)


class Life(TypedDict):
    """What a rank does, and has done so far. memory: bytes that it holds, gpu_memory: of its GPU;
    age: seconds since it last got on, silence: since rank 0 heard of it."""

    rank: int
    host: str
    updates: int
    data_wait: float
    comm_wait: float
    memory: int
    gpu_memory: int
    phase: str
    is_waiting: bool
    age: float
    silence: float


def life(comm: Comm, pulse: Pulse) -> Life:
    """That of this rank."""
    mark = pulse.mark
    return Life(
        rank=comm.rank, host=socket.gethostname(), updates=pulse.updates,
        data_wait=pulse.data_wait, comm_wait=pulse.comm_wait, memory=resident(),
        gpu_memory=pulse.gpu_memory,
        phase=mark.phase, is_waiting=mark.is_waiting, age=time.monotonic() - mark.since,
        silence=0.0,
    )  # fmt: skip


class WatchedComm:
    """The comm it is given, which tells a pulse when it waits for other ranks."""

    def __init__(
        self, comm: Comm, pulse: Pulse, others: Callable[[], list[Life]] | None = None
    ) -> None:
        """others: what is known of other ranks."""
        self._comm = comm
        self.pulse = pulse
        self._others = others

    def lives(self) -> list[Life]:
        """What is known now of the ranks, in their order, without a word to them: of all on rank 0,
        of a rank itself on others and where ranks are not watched."""
        own = life(self._comm, self.pulse)
        others = self._others() if self._others else []
        return sorted([own, *others], key=lambda rank: rank["rank"])

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the comm has)
        return getattr(self._comm, name)

    @contextmanager
    def reduced_gradients(
        self, optimizer: torch.optim.Optimizer, beside: Callable[[], Tensor]
    ) -> Iterator[Tensor]:
        """See Comm."""
        phase = self.pulse.wait("the sum of gradients")
        with self._comm.reduced_gradients(optimizer, beside) as sums:
            # NCCL of torch.distributed lets the host go on; who then waits for ever for the update
            # says so too, see Step.
            self.pulse.at(phase)
            yield sums

    def settle_compression(self) -> Mapping[str, Tensor]:
        """See Comm."""
        with self.pulse.waiting("the sum of unsent gradients"):
            return self._comm.settle_compression()

    def adasum(self, tensors: Sequence[Tensor]) -> None:
        """See Comm."""
        with self.pulse.waiting("an Adasum"):
            self._comm.adasum(tensors)

    def sum(self, tensor: Tensor) -> Tensor:
        """See Comm."""
        with self.pulse.waiting(f"a sum of {tensor.numel()} numbers"):
            return self._comm.sum(tensor)

    def mean(self, tensor: Tensor) -> Tensor:
        """See Comm."""
        with self.pulse.waiting(f"a mean of {tensor.numel()} numbers"):
            return self._comm.mean(tensor)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """See Comm."""
        with self.pulse.waiting("a gather"):
            return self._comm.gather(tensor)

    def exchange(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """See Comm."""
        with self.pulse.waiting("an exchange"):
            return self._comm.exchange(parts)

    def broadcast(self, tensor: Tensor, root: int = 0) -> Tensor:
        """See Comm."""
        with self.pulse.waiting("a broadcast"):
            return self._comm.broadcast(tensor, root)

    def barrier(self) -> None:
        """See Comm."""
        with self.pulse.waiting("a barrier"):
            self._comm.barrier()
