"""How far the hosts' clocks are apart."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hvd_yolo.comm import Comm
from hvd_yolo.doctor.facts import Facts, leaders
from hvd_yolo.doctor.findings import Finding, on

_ROUNDS = 5

# Times of change of files on a shared disk, and the logs of several hosts, are compared in seconds.
_MOST_SECONDS = 1.0


@dataclass
class Clock:
    """A rank's clock runs `ahead` seconds before that of rank 0, give or take `error`."""

    ahead: float
    error: float


def measure(comm: Comm) -> list[Clock]:
    """The clock of each rank; every rank calls it.

    Cristian 1989: rank 0 asks, the others read their clocks, rank 0 hears that all did; the answer
    belongs to the middle of the round trip, give or take half of it. The quickest round counts.
    """
    rows = []
    for _ in range(_ROUNDS):
        comm.barrier()
        asked = time.time()
        comm.broadcast(torch.zeros(1))
        read = time.time()
        comm.barrier()
        rows.append((asked, read, time.time()))
    # (ranks, rounds, 3)
    times = torch.stack(comm.gather(torch.tensor(rows, dtype=torch.float64)))
    asked, _, heard = times[0].unbind(1)
    best = int((heard - asked).argmin())
    error = float(heard[best] - asked[best]) / 2
    ahead = times[:, best, 1] - (asked[best] + error)
    return [Clock(0.0, 0.0), *(Clock(seconds, error) for seconds in ahead[1:].tolist())]


def judge(facts: list[Facts], clocks: list[Clock]) -> Iterator[Finding]:
    """Hosts whose clock is off for sure."""
    for found in leaders(facts):
        clock = clocks[found.rank]
        if abs(clock.ahead) - clock.error > _MOST_SECONDS:
            yield on(
                [found], "warning", "clock-skew",
                f"the clock of {found.host} is {abs(clock.ahead):.1f} s "
                f"{'ahead of' if clock.ahead > 0 else 'behind'} that of {facts[0].host}",
                "chronyc makestep, or timedatectl set-ntp true, on both",
            )  # fmt: skip
