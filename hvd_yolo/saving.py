"""The checkpoints of a run, written while training goes on."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hvd_yolo import checkpoint
from hvd_yolo.comm import Comm, agree
from hvd_yolo.config import Config, to_yaml
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.errors import AGAINST_DIVERGENCE, InputError
from hvd_yolo.evaluate import Table
from hvd_yolo.evaluate.keeping import packed
from hvd_yolo.report import Report
from hvd_yolo.snapshot import Snapshot
from hvd_yolo.state import TrainState, share_state
from hvd_yolo.stopping import StopRequest
from hvd_yolo.watchdog import pulse_of

logger = logging.getLogger("hvd_yolo.saving")

_MOST_ROLLBACKS = 3


class Checkpoints:
    """What rank 0 writes into the folder `checkpoints` of a run; on other ranks nothing.

    A save takes a copy of the state, and a thread of its own writes it; the next one waits for it,
    and so does the end of the process. What cannot be written is told, and training goes on or is
    asked to stop, as checkpoint.on_failure says.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        dataset: Dataset,
        comm: Comm,
        report: Report,
        stop: StopRequest,
        state: TrainState,
    ) -> None:
        """state: the one that the run begins with, or goes on from."""
        self._is_last_bad = state.bad_updates > 0
        self._folder = folder
        self._options = config.checkpoint
        self._most = config.eval.max_dets[-1]
        self._comm = comm
        self._report = report
        self._fixed = {
            "config": to_yaml(config),
            "names": list(dataset.names),
            "category_ids": list(dataset.category_ids),
        }
        self._thread: threading.Thread | None = None
        self._fault: InputError | None = None
        self._crash: Exception | None = None
        # Of the best evaluation, where there was no room for best.pt.
        self._missed: tuple[dict[str, Any], Table | None] | None = None
        self._stop = stop
        stop.before_exit = self.wait

    def save(self, state: TrainState, best: Table | None = None) -> None:
        """Begins to write last.pt, with all that evaluating the state or going on from it needs; at
        the end of an epoch epoch_NNN.pt too, where that is kept; before them, with the evaluation
        that was the best, best.pt and evaluation.npz, for last.pt remembers that they were written.
        Every rank, for an elastic job commits what it saves."""
        if self._comm.is_elastic:
            state.commit(self._comm, self._report.metrics_bytes)
        if not self._comm.is_main or (self._fault and self._options.on_failure == "stop"):
            return
        every = self._options.every_epochs
        is_kept = every and state.images_seen == 0 and state.epoch % every == 0
        names = (
            ["best.pt"] * (best is not None)
            + [f"epoch_{state.epoch:03}.pt"] * bool(is_kept)
            + ["last.pt"]
        )
        self.wait()
        if best is not None:
            self._missed = None
        # An elastic job has the copy already.
        committed = state.committed.training if self._comm.is_elastic else None
        take = Snapshot(state.state_dict()).result if committed is None else lambda: committed
        fixed = {**self._fixed, "metrics_bytes": self._report.metrics_bytes}
        # A state that may have diverged must not push out the one to go back to.
        is_bad = state.bad_updates > 0
        keep = 1 if is_bad and self._is_last_bad else self._options.keep
        self._is_last_bad = is_bad
        self._thread = threading.Thread(
            target=self._write, args=(take, fixed, names, keep, best), name="checkpoint"
        )
        self._thread.start()

    def roll_back(self, state: TrainState, reason: str) -> None:
        """Makes what `state` has learnt that of the last checkpoint without a bad update, and
        leaves it at the images it has come to; every rank. Raises InputError on all of them where
        there is none, or it was done three times before."""
        if state.rollbacks == _MOST_ROLLBACKS:
            raise InputError(
                f"{reason}, and the run has gone back {_MOST_ROLLBACKS} times: {AGAINST_DIVERGENCE}"
            )
        self.settle()
        with agree(self._comm):
            if self._comm.is_main:
                past = self._last_good()
                state.load_trained(past)
                message = f"{reason}: back to the weights after update {past['updates']}"
                logger.warning("%s, on to the images that come next", message)
                self._report.event(state.updates, "rolled back", message)
        state.bad_updates = 0
        state.rollbacks += 1
        share_state(state, self._comm)

    def _last_good(self) -> dict[str, Any]:
        for file in checkpoint.kept_names(self._folder / "last.pt", self._options.keep):
            try:
                training = checkpoint.load(file)["training"]
            except InputError as error:
                logger.error("%s", error)
                continue
            if not training["bad_updates"]:
                return training
        raise InputError(
            "the run has diverged, and no checkpoint of before is there to go back to: write some "
            "with checkpoint.every_updates"
        )

    def wait(self) -> None:
        """Until nothing is being written any more; raises what ended the writing, if that was no
        fault of the disk."""
        written = -1
        while self._thread is not None and self._thread.is_alive():
            # However slow the disk, this rank gets on while there is more on it.
            if (more := self._bytes_written()) != written:
                pulse_of(self._comm).at("writing a checkpoint")
            written = more
            self._thread.join(1)
        if self._crash is not None:
            raise self._crash

    def _bytes_written(self) -> int:
        sizes = []
        for file in self._folder.glob(".*.writing"):
            # It may have become the checkpoint by now.
            with suppress(FileNotFoundError):
                sizes.append(file.stat().st_size)
        return sum(sizes)

    def settle(self, is_last: bool = False) -> None:
        """Until all is on the disk; every rank calls it. Raises InputError on all of them when the
        last save failed, if there will be none after it or checkpoint.on_failure is stop."""
        self.wait()
        with agree(self._comm):
            if self._fault is not None and (is_last or self._options.on_failure == "stop"):
                raise self._fault

    def _write(
        self,
        take: Callable[[], dict[str, Any]],
        fixed: dict[str, Any],
        names: list[str],
        keep: int,
        best: Table | None,
    ) -> None:
        self._fault = None
        try:
            # Here a GPU is waited for, and not by the thread that trains.
            training = take()
        except Exception as error:
            self._crash = error
            return
        content = {**fixed, "weights": training["ema"], "training": training}
        jobs = [(name, content, best) for name in names]
        if self._missed is not None:
            jobs.insert(0, ("best.pt", *self._missed))
        for name, saved, table in jobs:
            try:
                checkpoint.save(self._folder / name, saved, keep if name == "last.pt" else 1)
                if name == "best.pt":
                    self._write_table(table)
                    self._missed = None
            except InputError as error:
                logger.error("%s", error)
                self._fault = error
                if name == "best.pt":
                    self._missed = saved, table
                if self._options.on_failure == "stop":
                    self._stop.ask("a checkpoint that could not be written")
                # last.pt would say that what comes before it is written.
                return
            except Exception as error:
                self._crash = error

    def _write_table(self, best: Table) -> None:
        file = self._folder.parent / "evaluation.npz"
        try:
            checkpoint.save_bytes(file, packed(best, tuple(self._fixed["names"]), self._most))
        except InputError as error:
            # A report does without it, and not with that of another evaluation.
            logger.error("%s", error)
            file.unlink(missing_ok=True)
