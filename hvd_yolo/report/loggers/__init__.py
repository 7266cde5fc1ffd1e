"""Loggers: where the lines of a run go beside metrics.jsonl, which remains the truth. Each has a
thread of its own that nobody waits for, so none can stall or fail a run."""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hvd_yolo.config import ReportConfig
from hvd_yolo.report.loggers.csv_file import CsvFile
from hvd_yolo.report.loggers.lines import Entry, Run, Store
from hvd_yolo.report.loggers.mlflow import Mlflow
from hvd_yolo.report.loggers.openmetrics import OpenMetrics
from hvd_yolo.report.loggers.ranks import RanksFile
from hvd_yolo.report.loggers.sqlite import Sqlite
from hvd_yolo.report.loggers.tensorboard import TensorBoard
from hvd_yolo.report.loggers.wandb import WeightsAndBiases

__all__ = ["SECONDS_IN_HASTE", "Logger", "Loggers", "Run"]

# So many lines may wait for a logger. MLflow takes seconds to set up its database.
MOST_WAITING = 2000

# Lines that come faster are written together: some stores take as long for one as for many.
SECONDS_BETWEEN = 1.0

# When a run ends, for what is left to write; to finish with a server; and from the start of a short
# run, to open at all.
# Where a run has failed, its launcher is about to kill this process; where hosts have come or gone,
# the other ranks wait.
SECONDS_IN_HASTE = 2.0
SECONDS_TO_CLOSE = 10.0
SECONDS_TO_SEND = 60.0
SECONDS_TO_OPEN = 60.0

_METRICS = ("train", "eval", "event")


class Logger:
    """A store and its thread."""

    def __init__(
        self, name: str, store: Store, kinds: frozenset[str], say: Callable[[str], None]
    ) -> None:
        """kinds: of the lines that it takes; say: tells, once, that it is dropped, and why."""
        self._sends = isinstance(store, Mlflow | WeightsAndBiases)
        self.name = name
        self._store = store
        self._kinds = kinds
        self._say = say
        self._waiting: queue.Queue[Entry | str] = queue.Queue(MOST_WAITING)
        self._is_dropped = threading.Event()
        self._is_ending = threading.Event()
        self._is_closing = False
        self._started = time.monotonic()
        self._opened: float | None = None
        self._dropping = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Hands on a line, if it is of a kind that the store takes."""
        if entry.line["kind"] in self._kinds:
            self._put(entry)

    def end(self, outcome: str) -> None:
        """No line comes any more; see Store.close()."""
        self._put(outcome)
        self._is_ending.set()

    def wait(self, ended: float, outcome: str) -> None:
        """Until the store is closed, or it is given up, for the run has ended at `ended`
        (time.monotonic())."""
        while self._thread.is_alive() and time.monotonic() < self._deadline(ended, outcome):
            self._thread.join(0.1)
        if self._thread.is_alive():
            self._drop("it does not end")

    def _deadline(self, ended: float, outcome: str) -> float:
        if outcome == "stopped":
            return ended + SECONDS_TO_CLOSE
        if outcome != "finished":
            return ended + SECONDS_IN_HASTE
        if self._opened is None:
            return max(ended + SECONDS_TO_CLOSE, self._started + SECONDS_TO_OPEN)
        if self._is_closing and self._sends:
            return ended + SECONDS_TO_SEND
        return max(ended, self._opened) + SECONDS_TO_CLOSE

    def _put(self, item: Entry | str) -> None:
        if self._is_dropped.is_set():
            return
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self._drop(f"it does not answer, {MOST_WAITING} lines wait for it")

    def _drop(self, reason: str) -> None:
        with self._dropping:
            if not self._is_dropped.is_set():
                self._is_dropped.set()
                self._say(f"{self.name} is dropped, the run goes on without it: {reason}")

    def _work(self) -> None:
        # SystemExit: of a library that thinks it may end the process.
        try:
            self._store.open()
            self._opened = time.monotonic()
            while not self._is_dropped.is_set():
                items = [self._waiting.get()]
                while not self._waiting.empty():
                    items.append(self._waiting.get())
                if entries := [item for item in items if isinstance(item, Entry)]:
                    self._store.write(entries)
                    self._is_ending.wait(SECONDS_BETWEEN)
                if isinstance(items[-1], str):
                    self._is_closing = True
                    self._store.close(items[-1])
                    return
        except (Exception, SystemExit) as error:
            first = next(iter(str(error).strip().splitlines()), "")
            self._drop(f"{type(error).__name__}: {first}")


class Loggers:
    """Those that a run's options ask for, on rank 0."""

    def __init__(self, options: ReportConfig, run: Run, say: Callable[[str], None]) -> None:
        stores = _stores(options, run)
        kinds = {"ranks.jsonl": {"ranks"}, "report.openmetrics": {*_METRICS, "ranks"}}
        self._loggers = [
            Logger(name, store, frozenset(kinds.get(name, _METRICS)), say)
            for name, store in stores.items()
        ]

    def put(self, line: Mapping[str, Any], end: int) -> None:
        """Hands a line to all; end: how long metrics.jsonl is with it."""
        entry = Entry(line, end)
        for logger in self._loggers:
            logger.put(entry)

    def close(self, outcome: str) -> None:
        """Waits, so long as is fair, until each has written all."""
        ended = time.monotonic()
        for logger in self._loggers:
            logger.end(outcome)
        for logger in self._loggers:
            logger.wait(ended, outcome)


def _stores(options: ReportConfig, run: Run) -> dict[str, Store]:
    stores: dict[str, Store] = {"ranks.jsonl": RanksFile(run)}
    if options.csv:
        stores["report.csv"] = CsvFile(run)
    if options.sqlite:
        stores["report.sqlite"] = Sqlite(Path(options.sqlite), run)
    if options.tensorboard:
        stores["report.tensorboard"] = TensorBoard(run)
    if options.openmetrics:
        stores["report.openmetrics"] = OpenMetrics(Path(options.openmetrics), run)
    if options.mlflow:
        stores["report.mlflow"] = Mlflow(options.mlflow, run)
    if options.wandb:
        # Less than what it is waited for.
        stores["report.wandb"] = WeightsAndBiases(options.wandb, 0.8 * SECONDS_TO_SEND, run)
    return stores
