"""What the host learns of an update: at once on a CPU; on a GPU one update later, so that the
device never waits for the host."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from hvd_yolo.comm import Comm
from hvd_yolo.watchdog import pulse_of


class Stopwatch:
    """The seconds that ranks wait for ranks in an update: on a GPU with others those of its stream,
    known when the device has done the update."""

    def __init__(self, comm: Comm) -> None:
        self._is_timing_device = comm.device.type == "cuda" and comm.size > 1
        self._marks: list[float | torch.cuda.Event] = []

    def start(self) -> None:
        """Now it begins, whatever was timed before."""
        self._marks = [self._now()]

    def stop(self) -> None:
        """Now it ends."""
        self._marks.append(self._now())

    def seconds(self) -> float:
        """Between the two; waits for nothing."""
        start, end = self._marks
        if isinstance(start, float):
            return end - start
        return start.elapsed_time(end) / 1000

    def _now(self) -> "float | torch.cuda.Event":
        if not self._is_timing_device:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@dataclass
class Outcome:
    """An update on its way to the host, and what the host knows already.

    update: its number; image_ids: of this rank; is_local: no rank knows of the others'; data_wait:
    seconds; stopwatch: of the wait for other ranks; values: see Outcomes.post.
    """

    update: int
    image_ids: list[int]
    is_local: bool
    data_wait: float
    stopwatch: Stopwatch
    values: Tensor
    event: torch.cuda.Event | None = None

    @property
    def is_finite(self) -> bool:
        """Whether the gradient was finite, so that the update was made."""
        return not self.values[0]

    @property
    def has_bad_loss(self) -> bool:
        """Whether a loss of this rank was not finite."""
        return bool(self.values[1])

    @property
    def grad_norm(self) -> float:
        """Before it was clipped."""
        return float(self.values[2])

    @property
    def wishes(self) -> list[bool]:
        """What any rank wished, as in Wishes."""
        return (self.values[3:] > 0).tolist()


class Outcomes:
    """The updates whose outcome is not read yet, at most one after read() on a GPU and none on a
    CPU. Every rank reads the same ones at the same time."""

    def __init__(self, comm: Comm) -> None:
        self._comm = comm
        self._most = int(comm.device.type == "cuda")
        self._waiting: list[Outcome] = []

    def post(self, outcome: Outcome) -> None:
        """Sends the values (n), on the device, to the host: 1 where the gradient was not finite, 1
        where a loss of this rank was not, the norm of the gradient, and the wishes."""
        if self._most:
            outcome.values = to_host(outcome.values)
            outcome.event = torch.cuda.Event()
            outcome.event.record()
        self._waiting.append(outcome)

    def read(self, is_last: bool = False) -> list[Outcome]:
        """The outcomes that are due, the oldest first; is_last: all there are."""
        num_due = len(self._waiting) - (0 if is_last else self._most)
        due, self._waiting = self._waiting[: max(num_due, 0)], self._waiting[max(num_due, 0) :]
        if due and due[-1].event is not None:
            # Other ranks too are waited for here: torch's NCCL lets the host go on before.
            has_others = self._comm.size > 1
            pulse = pulse_of(self._comm)
            with pulse.waiting("the sum of gradients") if has_others else nullcontext():
                due[-1].event.synchronize()
        return due


def to_device(numbers: Sequence[float], device: torch.device) -> Tensor:
    """The numbers as float64 (n) on the device, without a wait for it."""
    if device.type != "cuda":
        return torch.tensor(numbers, dtype=torch.float64, device=device)
    # The allocator gives page-locked memory to nobody else while a copy reads it.
    locked = torch.tensor(numbers, dtype=torch.float64, pin_memory=True)
    return locked.to(device, non_blocking=True)


def to_host(values: Tensor) -> Tensor:
    """A page-locked copy of values on a GPU, which is there when the stream has come so far."""
    locked = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return locked.copy_(values, non_blocking=True)
