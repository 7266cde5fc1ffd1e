"""A text file for Prometheus, by way of node_exporter's textfile collector.

Both its own text format and OpenMetrics read it:
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hvd_yolo.report.loggers.lines import Entry, Run, numbers, replace_text

_Sample = tuple[dict[str, Any], float]

# Gauge, its text, and the number of a train line that it is.
_TRAIN = {
    "update": ("Updates of the weights so far.", "step"),
    "epoch": ("Passes over the training images so far.", "epoch"),
    "total_loss": ("Training loss, the sum of its terms.", "loss"),
    "learning_rate": ("Learning rate of the last update.", "lr"),
    "gradient_norm": ("Global norm of the gradient of the last update.", "grad_norm"),
    "images_per_second": ("Training images a second over all ranks.", "images_per_s"),
    "data_wait_ratio": (
        "Share of the time in which ranks waited for images, their mean.",
        "data_wait",
    ),
    "comm_wait_ratio": (
        "Share of the time in which ranks waited for others, their mean.",
        "comm_wait",
    ),
}


class OpenMetrics:
    """Gauges with the label run, the folder of the run; replaced whole at each line.

    A run that stands still, or was killed, has hvd_yolo_running 1 and a
    hvd_yolo_last_line_timestamp_seconds that grows old; one that has ended has hvd_yolo_running 0:
    alert on hvd_yolo_running == 1 and time() - hvd_yolo_last_line_timestamp_seconds > 600.
    """

    def __init__(self, file: Path, run: Run) -> None:
        self._file = file
        self._run = run
        self._last: dict[str, Mapping[str, Any]] = {}
        self._is_running = True

    def open(self) -> None:
        """See Store."""
        self.write(self._run.kept())

    def write(self, entries: Sequence[Entry]) -> None:
        """See Store."""
        self._last.update({entry.line["kind"]: entry.line for entry in entries})
        replace_text(self._file, exposition(self._gauges(), str(self._run.folder.absolute())))

    def close(self, outcome: str) -> None:
        """See Store."""
        self._is_running = outcome == "regrouped"
        self.write([])

    def _gauges(self) -> Iterator[tuple[str, str, list[_Sample]]]:
        train, evaluation = self._last.get("train", {}), self._last.get("eval", {})
        for name, (text, key) in _TRAIN.items():
            if key in train:
                yield name, text, [({}, numbers(train)[key])]
        terms = numbers(train.get("losses", {}))
        if terms:
            samples = [({"term": term}, value) for term, value in terms.items()]
            yield "loss", "Terms of the training loss.", samples
        left_out = ("step", "epoch", "time", "seconds")
        found = [({"metric": k}, v) for k, v in numbers(evaluation).items() if k not in left_out]
        if found:
            yield "eval", "What the last evaluation found.", found
        for key in ("memory", "gpu_memory"):
            ranks = self._last.get("ranks", {"ranks": []})["ranks"]
            held = [({"rank": r["rank"], "host": r["host"]}, r[key]) for r in ranks]
            if held:
                what = "GPU memory" if key == "gpu_memory" else "Memory"
                yield f"rank_{key}_bytes", f"{what} that a rank holds.", held
        yield "planned_updates", "Updates of the whole run.", [({}, self._run.total_updates)]
        yield "running", "1 until the run has ended.", [({}, int(self._is_running))]
        if times := [line["time"] for line in self._last.values() if "time" in line]:
            text = "When the run last wrote a line, seconds since 1970."
            yield "last_line_timestamp_seconds", text, [({}, max(times))]


def exposition(gauges: Iterator[tuple[str, str, list[_Sample]]], run: str) -> str:
    """The text; of each gauge its name without the prefix hvd_yolo_, its help and its samples, each
    labels and a value."""
    lines = []
    for name, text, samples in gauges:
        full = f"hvd_yolo_{name}"
        lines += [f"# HELP {full} {text}", f"# TYPE {full} gauge"]
        for labels, value in samples:
            pairs = ",".join(f'{k}="{_escaped(v)}"' for k, v in {"run": run, **labels}.items())
            lines.append(f"{full}{{{pairs}}} {_number(value)}")
    return "\n".join([*lines, "# EOF", ""])


def _escaped(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    """As both formats spell it: NaN, +Inf and -Inf are theirs."""
    return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(str(value), repr(value))
