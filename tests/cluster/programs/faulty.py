"""hvd_yolo.train in which one rank goes wrong at update 5: `faulty.py FAULT RANK OPTIONS...`."""

import os
import signal
import sys
import time

import torch

from hvd_yolo import cli, step, train


def stop(_):
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep(_):
    time.sleep(1000)


def fail(_):
    raise ValueError("planted")


def skip(comm):
    """As code that asks a rank's own data whether it takes part: here the others do."""


def not_a_number(_):
    """From here on, in FaultyStep."""


FAULTS = {
    "nan": not_a_number, "nan for ever": not_a_number, "stop": stop, "sleep": sleep, "fail": fail,
    "skip": skip,
}  # fmt: skip


class FaultyStep(step.Step):
    """The real step, but for the fault."""

    def update(self, state, batches):
        if state.updates == 5:
            if self._comm.rank == RANK:
                FAULTS[FAULT](self._comm)
            elif FAULT == "skip":
                self._comm.sum(torch.ones(3))
        return super().update(state, batches)

    def _divided(self, losses, state):
        is_bad = state.updates == 5 if FAULT == "nan" else state.updates >= 5
        if FAULT.startswith("nan") and is_bad and self._comm.rank == RANK:
            losses.terms["box"] = losses.terms["box"] * float("nan")
            next(state.model.buffers()).data.fill_(float("nan"))
        return super()._divided(losses, state)


if __name__ == "__main__":
    FAULT, RANK = sys.argv.pop(1), int(sys.argv.pop(1))
    train.Step = FaultyStep
    cli.run(train.main)
