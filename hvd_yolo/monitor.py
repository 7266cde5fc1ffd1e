"""`python -m hvd_yolo.monitor RUN`: what all ranks of a run do, live, from its files alone: on any
host that sees them, and after the run too."""

import json
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hvd_yolo import cli
from hvd_yolo.config import parse
from hvd_yolo.config.monitor_verb import MonitorConfig
from hvd_yolo.errors import InputError
from hvd_yolo.json_lines import JsonLines
from hvd_yolo.report.console import duration
from hvd_yolo.report.loggers.ranks import BEAT_SECONDS
from hvd_yolo.report.runs import best_by, metric_of, number
from hvd_yolo.watchdog.watch import seconds_between_beats

# Rates and waits are those of so many lines of ranks.jsonl.
_LINES = 10
# ranks.json is written every two seconds; a network file system shows it some seconds later.
_SECONDS_OF_SILENCE = 10.0

_Line = Mapping[str, Any]
_HEAD = ("rank", "host", "updates/s", "data wait", "comm wait", "memory", "GPU", "heard", "for",
         "phase")  # fmt: skip


class Monitor:
    """What the files of a run say; look() reads what is new in them."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError when the folder is no run."""
        if not any((folder / name).is_file() for name in ("config.yaml", "metrics.jsonl")):
            raise InputError(
                f"run {folder}: no run is there (no config.yaml, no metrics.jsonl); name the "
                "--output of a training"
            )
        self._folder = folder
        self._metrics = JsonLines(folder / "metrics.jsonl")
        self._counts = JsonLines(folder / "ranks.jsonl")
        self._ranks: deque[_Line] = deque(maxlen=_LINES + 1)
        self._last: dict[str, _Line] = {}
        self._evals: list[_Line] = []
        self._metric = ""
        self._now: _Line = {}
        self._changed: float | None = None

    def look(self) -> None:
        """Reads on."""
        is_cut, lines = self._metrics.new()
        if is_cut:
            self._last, self._evals = {}, []
        for line in lines:
            self._last[line["kind"]] = line
            if line["kind"] == "eval":
                self._evals.append(line)
        if any(line["kind"] == "eval" for line in lines):
            self._metric = metric_of(self._folder)
        is_cut, lines = self._counts.new()
        if is_cut:
            self._ranks.clear()
        for line in lines:
            # The clock of a process: the run was started again.
            if self._ranks and line["seconds"] < self._ranks[-1]["seconds"]:
                self._ranks.clear()
            self._ranks.append(line)
        before, self._now = self._now, _read(self._folder / "ranks.json") or self._now
        if before and before != self._now:
            self._changed = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the last sign of life. Of this host's own clock as soon as there was one,
        for those of two hosts differ."""
        if self._changed is not None:
            return time.monotonic() - self._changed
        told = [line["time"] for line in (*self._last.values(), self._now) if "time" in line]
        return abs(time.time() - max(told)) if told else 0.0

    @property
    def state(self) -> str:
        """running, finished, stopped, regrouped or failed, as the run said last; empty where it
        never did."""
        return self._now.get("state", "")

    @property
    def is_silent(self) -> bool:
        """Whether it should be running and has said nothing for long."""
        return self.state in ("running", "") and self.age > _SECONDS_OF_SILENCE

    def text(self, width: int, height: int) -> str:
        """What is known, in so many columns and lines; where not all ranks fit, those that have
        been still for longest."""
        head = [line[:width] for line in self._head()]
        ranks = self._now.get("ranks") or (self._ranks[-1]["ranks"] if self._ranks else [])
        room = max(1, height - len(head) - 3)
        late = 5 * seconds_between_beats(len(ranks))
        shown = ranks
        if len(ranks) > room:
            shown = sorted(ranks, key=lambda rank: _stillness(rank, late))[-room:]
        rows = [_HEAD, *(self._row(rank) for rank in sorted(shown, key=lambda rank: rank["rank"]))]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip()[:width] for row in rows]
        if len(shown) < len(ranks):
            table.append(f"{len(ranks) - len(shown)} more ranks, which got on more lately")
        return "\n".join([*head, "", *(table if ranks else [])]) + "\n"

    def _head(self) -> Iterator[str]:
        yield f"{self._folder}: {self._life()}"
        train = self._last.get("train")
        if train is None:
            yield "no update is reported yet"
        else:
            step = max(train["step"], self._now.get("step", 0))
            total = self._now.get("total_updates")
            of = f"/{total}" if total else ""
            text = (
                f"epoch {train['epoch']:.2f}  update {step}{of}  loss {float(train['loss']):.3f}  "
                f"lr {train['lr']:.2e}  {train['images_per_s']:.1f} img/s"
            )
            left = self._now.get("seconds_per_update", 0) * ((total or 0) - step)
            yield text + (f"  {duration(left)} left" if left and self.state == "running" else "")
        if self._evals:
            yield self._scores()
        if event := self._last.get("event"):
            reason = event["reason"].splitlines()[0] if event["reason"] else ""
            yield f"last event, after update {event['step']}: {event['event']}: {reason}"

    def _scores(self) -> str:
        """The last evaluation and the best, by what the run calls best."""
        metric, last = self._metric, self._evals[-1]
        best = best_by(metric, self._evals)
        value = "undefined" if last.get(metric) is None else f"{number(last[metric]):.4f}"
        text = f"{metric} {value} at epoch {last['epoch']:.2f}"
        if best is None:
            return text
        return f"{text}, best {number(best[metric]):.4f} at epoch {best['epoch']:.2f}"

    def _life(self) -> str:
        if self.is_silent:
            return f"no sign of life for {self.age:.0f} s"
        return {"": "alive", "running": "alive"}.get(self.state, self.state)

    def _row(self, rank: _Line) -> Sequence[str]:
        """Under _HEAD; heard: how long ago, for: how long it has been in that phase."""
        heard, still, phase = "", "", ""
        # Lines of ranks.jsonl have no phase, and a run that has ended is in none.
        if "phase" in rank and self.state == "running":
            heard = f"{rank['silence'] + self.age:.0f} s"
            still = f"{rank['age']:.0f} s"
            phase = f"waits for {rank['phase']}" if rank["is_waiting"] else rank["phase"]
        memory = [f"{rank[key] / 1e9:.2f} GB" for key in ("memory", "gpu_memory")]
        rates = self._rates(rank["rank"])
        return (str(rank["rank"]), rank["host"], *rates, *memory, heard, still, phase)

    def _rates(self, rank: int) -> Sequence[str]:
        """Updates a second, and the shares of the time that the rank waited for images and for
        others, over the last lines."""
        told = [(line["seconds"], r) for line in self._ranks for r in line["ranks"]
                if r["rank"] == rank]  # fmt: skip
        if len(told) < 2:
            return ("", "", "")
        (start, first), (end, last) = told[0], told[-1]
        seconds = max(end - start, 1e-9)
        waits = (f"{(last[key] - first[key]) / seconds:.0%}" for key in ("data_wait", "comm_wait"))
        return (f"{(last['updates'] - first['updates']) / seconds:.2f}", *waits)


def _stillness(rank: _Line, late: float) -> tuple[float, bool, float]:
    """Larger for who is more likely to be what the others wait for; late: after so many seconds
    without a word a rank is."""
    return rank.get("silence", 0.0) // late, not rank.get("is_waiting"), rank.get("age", 0.0)


def _read(file: Path) -> _Line | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Not there yet, or replaced just now by another host of a network file system.
        return None


def main(argv: Sequence[str]) -> None:
    """Shows the table again and again until the run is finished, or, where nobody looks, once."""
    words = ["--run", argv[0], *argv[1:]] if argv and not argv[0].startswith("-") else argv
    config = parse(MonitorConfig, words, "hvd_yolo.monitor")
    if not config.run:
        raise InputError("run is missing: name the folder of a run, monitor RUN")
    monitor = Monitor(Path(config.run))
    monitor.look()
    if config.once or not sys.stdout.isatty():
        if monitor.is_silent and monitor.state:
            # The clocks of two hosts may differ: does it still write?
            time.sleep(1.5 * BEAT_SECONDS)
            monitor.look()
        print(monitor.text(1 << 20, 1 << 20), end="", flush=True)
        return
    try:
        while True:
            size = shutil.get_terminal_size()
            # To the upper left, then clear what is below.
            print(f"\x1b[H\x1b[J{monitor.text(size.columns, size.lines)}", end="", flush=True)
            if monitor.state == "finished":
                return
            time.sleep(config.every)
            monitor.look()
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    cli.run(main)
