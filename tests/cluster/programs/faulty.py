"""hvd_yolo.train in which one rank goes wrong at update 5: `faulty.py FAULT RANK OPTIONS...`."""

import ctypes
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from hvd_yolo import cli, step, train


def stop(_):
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep(_):
    time.sleep(1000)


def hold_gil(_):
    """As a call into C that waits and lets no other thread of Python run."""
    ctypes.PyDLL(None).sleep(1000)


def fail(_):
    raise ValueError("planted")


def skip(comm):
    """As code that asks a rank's own data whether it takes part: here the others do."""


def another_shape(comm):
    """As a head of another number of classes: see FaultyStep."""
    comm.sum(torch.ones(3))


def fill_disk(_):
    """All that is free beside the run and what it is writing, until update 10."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()
    (FOLDER / "filler").write_bytes(bytes(shutil.disk_usage(FOLDER).free - (1 << 20)))


def not_a_number(_):
    """From here on, in FaultyStep."""


FAULTS = {
    "nan": not_a_number, "nan twice": not_a_number, "nan for ever": not_a_number, "stop": stop,
    "sleep": sleep, "gil": hold_gil, "fail": fail, "skip": skip, "shape": another_shape,
    "full disk": fill_disk,
}  # fmt: skip


# The first update, and the first one that is good again.
NOT_A_NUMBER = {"nan": (5, 6), "nan twice": (5, 7), "nan for ever": (5, 1 << 30)}


class FaultyStep(step.Step):
    """The real step, but for the fault."""

    def update(self, state, batches):
        if state.updates == 5:
            if self._comm.rank == RANK:
                FAULTS[FAULT](self._comm)
            elif FAULT == "skip":
                self._comm.sum(torch.ones(3))
            elif FAULT == "shape":
                self._comm.sum(torch.ones(4))
        if state.updates == 10 and FAULT == "full disk" and self._comm.is_main:
            (FOLDER / "filler").unlink()
        return super().update(state, batches)

    def _divided(self, losses, state):
        first, end = NOT_A_NUMBER.get(FAULT, (0, 0))
        if first <= state.updates < end and self._comm.rank == RANK:
            losses.terms["box"] = losses.terms["box"] * float("nan")
            next(state.model.buffers()).data.fill_(float("nan"))
        return super()._divided(losses, state)


if __name__ == "__main__":
    FAULT, RANK = sys.argv.pop(1), int(sys.argv.pop(1))
    FOLDER = Path(sys.argv[sys.argv.index("--output") + 1])
    train.Step = FaultyStep
    cli.run(train.main)
