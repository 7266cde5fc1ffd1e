"""Ranks 0 and 1 on host a, 2 and 3 on host b, of which one goes wrong: `four_ranks.py FAULT RANK
TIMEOUT`. The hosts are one, with two names; so rank 2 is a relay as on a host of its own."""

import ctypes
import os
import signal
import socket
import sys
import time

import torch

from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from hvd_yolo.watchdog import watched

# CLONE_NEWUTS of linux/sched.h.
_NEW_NAMES = 0x04000000


def go_wrong(fault: str) -> None:
    """As a rank does it."""
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "sleep":
        time.sleep(60)
    elif fault == "fail":
        raise ValueError("planted")


def main(fault: str, culprit: int, timeout: float) -> None:
    """Sums for a while, then goes wrong on one rank."""
    comm = connect(CommConfig(), "cpu")
    assert ctypes.CDLL(None).unshare(_NEW_NAMES) == 0
    socket.sethostname("a" if comm.rank < 2 else "b")
    try:
        with watched(comm, timeout, lambda kind, _: print(f"kind: {kind}", flush=True)) as comm:
            for number in range(30):
                if number == 25 and comm.rank == culprit:
                    go_wrong(fault)
                comm.sum(torch.ones(2))
                time.sleep(0.05)
                if number == 25 and comm.is_main:
                    names = [f"{life['rank']}{life['host']}" for life in comm.lives()]
                    print("heard of:", *names, flush=True)
    except ValueError:
        # Its process does not end, as at an orderly exit that waits for others.
        time.sleep(60)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
