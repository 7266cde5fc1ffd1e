"""The checkpoints of a run, written while training goes on."""

import logging
import threading
from pathlib import Path
from typing import Any

import torch

from hvd_yolo import checkpoint
from hvd_yolo.comm import Comm, agree
from hvd_yolo.config import Config, to_yaml
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.errors import InputError
from hvd_yolo.report import Report
from hvd_yolo.state import TrainState
from hvd_yolo.stopping import StopRequest
from hvd_yolo.watchdog import pulse_of

logger = logging.getLogger("hvd_yolo.saving")


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
    ) -> None:
        self._folder = folder
        self._options = config.checkpoint
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
        self._stop = stop
        stop.before_exit = self.wait

    def save(self, state: TrainState, is_best: bool = False) -> None:
        """Begins to write last.pt, with all that evaluating the state or going on from it needs; at
        the end of an epoch epoch_NNN.pt too, where that is kept; before them best.pt, for last.pt
        remembers that it was written."""
        if not self._comm.is_main or (self._fault and self._options.on_failure == "stop"):
            return
        every = self._options.every_epochs
        is_kept = every and state.images_seen == 0 and state.epoch % every == 0
        names = ["best.pt"] * is_best + [f"epoch_{state.epoch:03}.pt"] * bool(is_kept) + ["last.pt"]
        self.wait()
        content = {
            **self._fixed,
            "weights": state.ema.module.state_dict(),
            "training": state.state_dict(),
            "metrics_bytes": self._report.metrics_bytes,
        }
        self._thread = threading.Thread(
            target=self._write, args=(_copied(content, {}), names), name="checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written any more; raises what ended the writing, if that was no
        fault of the disk."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(1)
            # However slow the disk, this rank does not stand still.
            pulse_of(self._comm).at("writing a checkpoint")
        if self._crash is not None:
            raise self._crash

    def settle(self) -> None:
        """Until all is on the disk; every rank calls it. Raises InputError on all of them when the
        last save failed."""
        self.wait()
        with agree(self._comm):
            if self._fault is not None:
                raise self._fault

    def _write(self, content: dict[str, Any], names: list[str]) -> None:
        self._fault = None
        for name in names:
            keep = self._options.keep if name == "last.pt" else 1
            try:
                checkpoint.save(self._folder / name, content, keep)
            except InputError as error:
                logger.error("%s", error)
                self._fault = error
                if self._options.on_failure == "stop":
                    self._stop.ask("a checkpoint that could not be written")
                # last.pt would say that what comes before it is written.
                return
            except Exception as error:
                self._crash = error


def _copied(value: Any, copies: dict[tuple, torch.Tensor]) -> Any:  # noqa: ANN401
    """The same containers with copies of their tensors on the CPU, one for those that are the same
    memory."""
    if isinstance(value, torch.Tensor):
        key = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in copies:
            copies[key] = value.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(value, dict):
        return {key: _copied(item, copies) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item, copies) for item in value)
    return value
