"""What the ranks do: ranks.jsonl, a line at train lines, and ranks.json, now."""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hvd_yolo.report.loggers.lines import Entry, Run, replace_text

logger = logging.getLogger("hvd_yolo.report")

BEAT_SECONDS = 2.0

# Of what is known of a rank, what a line of ranks.jsonl keeps.
COUNTS = ("rank", "host", "updates", "data_wait", "comm_wait", "memory", "gpu_memory")

Lives = Callable[[], Sequence[Mapping[str, Any]]]


# A line of ranks.jsonl has an entry for each rank: of so many ranks on there is not a line for each
# train line, but so many entries a minute.
_RANKS_WITHOUT_LIMIT = 8
_ENTRIES_A_MINUTE = 1200
# And the longer a run, the fewer, so that the file of a month can be read.
_SECONDS_WITHOUT_LIMIT = 600
_SHARE_OF_RUN = 1 / 5000


def seconds_between(num_ranks: int, seconds: float) -> float:
    """Seconds between two lines of ranks.jsonl, `seconds` after the start."""
    limited = max(0, num_ranks - _RANKS_WITHOUT_LIMIT)
    long = max(0, seconds - _SECONDS_WITHOUT_LIMIT)
    return max(60 * limited / _ENTRIES_A_MINUTE, long * _SHARE_OF_RUN)


class RanksFile:
    """ranks.jsonl; lines of updates that are made again are cut off when a run goes on. The first
    line and the last are always there, those between as seconds_between() says."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._path = run.folder / "ranks.jsonl"
        self._written = -math.inf
        self._unwritten: dict[str, Any] | None = None

    def open(self) -> None:
        """See Store."""
        last = max(
            (e.line["step"] for e in self._run.kept() if e.line["kind"] == "train"), default=0
        )
        if not self._path.is_file():
            return
        with open(self._path, "rb+") as file:
            end = 0
            for line in file:
                # A kill may leave a part of a line.
                if not line.endswith(b"\n") or json.loads(line)["step"] > last:
                    break
                end += len(line)
            file.truncate(end)

    def write(self, entries: Sequence[Entry]) -> None:
        """See Store."""
        lines = []
        for entry in entries:
            line = {k: v for k, v in entry.line.items() if k != "kind"}
            seconds = line["seconds"]
            if seconds - self._written >= seconds_between(len(line["ranks"]), seconds):
                self._written, self._unwritten = seconds, None
                lines.append(line)
            else:
                self._unwritten = line
        self._append(lines)

    def close(self, outcome: str) -> None:
        """See Store."""
        if self._unwritten is not None:
            self._append([self._unwritten])

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


class Heartbeat:
    """ranks.json, replaced every two seconds by a thread that nobody waits for, so that a disk that
    stands still or is full stops no run; what it tells when the run ends stays."""

    def __init__(self, folder: Path, total_updates: int, step: int, lives: Lives) -> None:
        self._path = folder / "ranks.json"
        self._total_updates = total_updates
        self._step = step
        self._lives = lives
        self._rate = (0.0, 0.0)
        self._state = "running"
        self._has_failed = False
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="ranks.json", daemon=True)
        self._thread.start()

    def pace(self, step: int, images_per_s: float, seconds_per_update: float) -> None:
        """As the last train line has it."""
        self._step, self._rate = step, (images_per_s, seconds_per_update)

    def close(self, outcome: str, seconds: float) -> None:
        """Writes how the run ended, or gives up after so many seconds."""
        self._state = outcome
        self._is_over.set()
        self._thread.join(seconds)

    def _beat(self) -> None:
        while not self._is_over.is_set():
            self._write()
            self._is_over.wait(BEAT_SECONDS)
        self._write()

    def _write(self) -> None:
        ranks = [dict(rank) for rank in self._lives()]
        images_per_s, seconds_per_update = self._rate
        now = {
            "time": time.time(), "state": self._state,
            "step": max([self._step, *(rank["updates"] for rank in ranks)]),
            "total_updates": self._total_updates, "images_per_s": images_per_s,
            "seconds_per_update": seconds_per_update, "ranks": ranks,
        }  # fmt: skip
        try:
            replace_text(self._path, json.dumps(now) + "\n")
        except OSError as error:
            if not self._has_failed:
                logger.error("%s cannot be written, tried on: %s", self._path, error)
            self._has_failed = True
