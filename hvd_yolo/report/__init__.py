"""What a run tells: the console and the files of its folder. It receives numbers on rank 0 and
cannot steer."""

import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from hvd_yolo.comm import elastic
from hvd_yolo.config import ReportConfig
from hvd_yolo.errors import InputError, Stopped
from hvd_yolo.evaluate import Evaluation
from hvd_yolo.report.console import Console
from hvd_yolo.report.loggers import SECONDS_IN_HASTE, Loggers, Run
from hvd_yolo.report.loggers.lines import whole_lines
from hvd_yolo.report.loggers.ranks import COUNTS, Heartbeat, Lives
from hvd_yolo.tally import Window

__all__ = ["Report", "slow_data_remedy"]

logger = logging.getLogger("hvd_yolo.report")

# A larger share of the time spent waiting for images, or for other ranks, is told. Not of the first
# line after a start, which has the loader's start in it.
_MOST_WAIT = 0.05
_MOST_COMM_WAIT = 0.25
_SECONDS_TO_DRAW = 900.0
_COMM_REMEDY = (
    "`python -m hvd_yolo.doctor`, started the same way, tells whether a link or a rank is slow; "
    "--train.accumulate 4 or --comm.compression bf16 sends less"
)


class Report:
    """The console, metrics.jsonl and the loggers of a run, which it ends when it is left; on every
    rank but 0 it does nothing.

    metrics.jsonl holds one JSON object a line. Its fields of time (images_per_s, data_wait,
    comm_wait, seconds since the start, time in seconds since 1970) differ from run to run, all
    others are a function of config and seed.
    """

    TIMES = ("images_per_s", "data_wait", "comm_wait", "seconds", "time")

    def __init__(
        self,
        folder: Path,
        is_main: bool,
        is_launched: bool,
        metrics_bytes: int,
        total_updates: int,
        data_remedy: str,
        stores: ReportConfig,
        options: Mapping[str, Any],
    ) -> None:
        """Goes on after `metrics_bytes` of metrics.jsonl: lines of updates that are made again are
        cut off, also where `stores` has them. data_remedy: what to do when the ranks wait for
        images, said once. options: of the run, by their full keys."""
        self._is_main = is_main
        self._started = time.monotonic()
        self._line_started = self._started
        self._last_step = -1
        self._is_first_line = True
        self._data_remedy = data_remedy
        self._comm_remedy = _COMM_REMEDY
        self._has_told_undefined = False
        if not is_main:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        try:
            self._file = os.fdopen(os.open(folder / "metrics.jsonl", flags, 0o644), "ab")
        except OSError as error:
            raise InputError(f"{folder}/metrics.jsonl cannot be written: {error}") from error
        self._console = Console(total_updates, is_launched)
        kept = whole_lines(folder / "metrics.jsonl", metrics_bytes)
        self._file.truncate(kept)
        self._file.seek(0, 2)
        self._draws = stores.plots and importlib.util.find_spec("matplotlib") is not None
        if self._draws != stores.plots:
            self.say("report.plots: matplotlib is not installed, so there will be no report.html: "
                     "pip install 'hvd_yolo[plots]'")  # fmt: skip
        self._run = Run(folder, options, total_updates, kept)
        # Not the console, for scorers are silenced by another sys.stdout, for all threads.
        self._loggers = Loggers(stores, self._run, logger.warning)
        self._lives: Lives | None = None
        self._heartbeat: Heartbeat | None = None

    def watch(self, lives: Lives) -> None:
        """From here on ranks.json and ranks.jsonl tell what the ranks do; lives: what is known of
        each now, called by other threads too. See WatchedComm.lives()."""
        if self._is_main:
            self._lives = lives
            folder, total = self._run.folder, self._run.total_updates
            self._heartbeat = Heartbeat(folder, total, max(self._last_step, 0), lives)

    @property
    def metrics_bytes(self) -> int:
        """How much of metrics.jsonl is written; a checkpoint remembers it."""
        return self._file.tell() if self._is_main else 0

    def say(self, message: str) -> None:
        """One message on the console."""
        if self._is_main:
            self._console.say(message)

    def train(self, epoch: float, step: int, lr: float, grad_norm: float, window: Window) -> None:
        """A line for the updates since the last one; epoch: passes over the data so far."""
        now = time.monotonic()
        elapsed, self._line_started = now - self._line_started, now
        if not self._is_main:
            return
        made = max(1, step - max(self._last_step, 0))
        # The first line after a restart tells of updates that were made before it, too.
        images_per_s = window.images * min(1.0, made / window.updates) / elapsed
        line = {
            "kind": "train", "epoch": epoch, "step": step, "images": round(window.images), "lr": lr,
            "loss": sum(window.losses.values()), "losses": window.losses, "grad_norm": grad_norm,
            "sent_bytes": window.sent_bytes, "images_per_s": images_per_s,
            "data_wait": window.data_wait / elapsed, "comm_wait": window.comm_wait / elapsed,
            "seconds": now - self._started, "time": time.time(),
        }  # fmt: skip
        self._write(line)
        seconds_per_update = elapsed / made
        self._console.train(line, seconds_per_update)
        if self._lives is not None:
            ranks = [{key: rank[key] for key in COUNTS} for rank in self._lives()]
            lived = {"kind": "ranks", "step": step, "seconds": line["seconds"],
                     "time": line["time"], "ranks": ranks}  # fmt: skip
            self._loggers.put(lived, 0)
        if self._heartbeat is not None:
            self._heartbeat.pace(step, line["images_per_s"], seconds_per_update)
        self._last_step = step
        if not self._is_first_line:
            self._tell_waits(line["data_wait"], line["comm_wait"])
        self._is_first_line = False

    def _tell_waits(self, data_wait: float, comm_wait: float) -> None:
        """Once each, and on the console alone: metrics.jsonl is, but for its fields of time, the
        same in each run."""
        if self._data_remedy and data_wait > _MOST_WAIT:
            self.say(f"waited {data_wait:.0%} of the time for images: {self._data_remedy}")
            self._data_remedy = ""
        if self._comm_remedy and comm_wait > _MOST_COMM_WAIT:
            self.say(f"waited {comm_wait:.0%} of the time for other ranks: {self._comm_remedy}")
            self._comm_remedy = ""

    def evaluation(self, epoch: float, step: int, found: Evaluation) -> None:
        """What evaluate() found, and the images it could not read; training time does not count
        it."""
        self._line_started += found.seconds
        if self._is_main:
            line = {"kind": "eval", "epoch": epoch, "step": step, **found.metrics}
            self._write({**line, "seconds": found.seconds, "time": time.time()})
            self._console.evaluation(line, found.seconds)
            self._tell_undefined(line)

    def _tell_undefined(self, line: dict[str, Any]) -> None:
        """Once: that no evaluation can be the best by a number that has no objects behind it."""
        metric = self._run.options.get("eval.metric", "AP")
        if line.get(metric, 0.0) is None and not self._has_told_undefined:
            self._has_told_undefined = True
            self.say(
                f"eval.metric {metric} is undefined: the val split has no objects for it, so no "
                "best.pt is chosen and training is not stopped early"
            )

    def event(self, step: int, event: str, reason: str) -> None:
        """What happened to the run after so many updates, in metrics.jsonl until it goes on."""
        if self._is_main:
            line = {"kind": "event", "step": step, "event": event, "reason": reason}
            self._write({**line, "time": time.time()})

    def resumed_at(self, step: int) -> None:
        """Time per update is counted from here."""
        self._last_step = step

    def close(self, outcome: str) -> None:
        """Ends the progress bar, the file and the loggers, for which it waits so long as is fair.
        outcome: finished, which is drawn, stopped, regrouped or failed."""
        if not self._is_main:
            return
        try:
            self._file.close()
        except OSError as error:
            logger.error("metrics.jsonl: its end is lost: %s", error)
        page = self._run.folder / "report.html"
        is_new = not (self._is_first_line and page.is_file())
        try:
            if outcome == "finished" and self._draws and is_new:
                self._draw()
        finally:
            self._console.close()
            if self._heartbeat is not None:
                self._heartbeat.close(outcome, SECONDS_IN_HASTE)
            self._loggers.close(outcome)

    def __enter__(self) -> "Report":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        outcomes = {type(None): "finished", Stopped: "stopped"}
        goes_on = elastic.begins_again_after(error)
        self.close("regrouped" if goes_on else outcomes.get(type(error), "failed"))

    def _draw(self) -> None:
        """Plots and report.html, by a process of its own, with memory of its own; what goes wrong
        there is told, for the run has succeeded."""
        command = [sys.executable, "-m", "hvd_yolo.report", str(self._run.folder)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS_TO_DRAW, check=False
            )
        except subprocess.TimeoutExpired:
            logger.error(
                "report.html is not drawn within %d s: `python -m hvd_yolo.report %s` takes longer",
                _SECONDS_TO_DRAW, self._run.folder,
            )  # fmt: skip
            return
        if done.returncode:
            logger.error("report.html is not drawn: %s", done.stderr.strip()[-2000:])
        else:
            self.say(f"report: {done.stdout.strip()}")

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(_finite(line)).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            # A report cannot steer: a disk that is full ends no training.
            logger.error("metrics.jsonl: a line is lost: %s", error)
        self._loggers.put(line, self._file.tell())


def slow_data_remedy(cache: str, num_workers: int) -> str:
    """What helps ranks that wait for images, with `loader.cache` and the workers of a rank as they
    are."""
    remedies = [
        f"--workers {num_workers + 1} or more (now {num_workers} a rank) if there are idle cores",
        "fewer augmentations (--augment.mosaic 0 takes one image in place of four)",
    ]
    if cache == "none":
        remedies.insert(0, "--loader.cache ram, or disk if that is too small")
    return "; ".join(remedies)


def _finite(value: Any) -> Any:  # noqa: ANN401
    """JSON has no NaN and no infinity: they become strings."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
