"""What one rank of benchmarks/many_ranks.py runs: hvd_yolo.train, with its collectives, label files
and connections counted.

    python -m benchmarks.many_ranks_rank FOLDER [--key value of hvd_yolo.train ...]

Writes FOLDER/rank<N>.json. A phase is the part of hvd_yolo that calls a collective, and lasts from
the end of the collective before it: what a rank computes on its way there, and its wait. So the
phases of a rank add up to the time from the start of the launcher to the end of the training.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

# The time at which the launcher was started, on the clock of this machine.
STARTED_VARIABLE = "MANY_RANKS_STARTED"
COLLECTIVES = ("sum", "mean", "gather", "exchange", "broadcast", "barrier")
# What passes the collectives of others on.
BETWEEN = ("hvd_yolo.comm", "hvd_yolo.watchdog.pulse")
# Detections of an image, as a detector of 300 has after NMS on crowded images.
NUM_DETECTIONS, IMAGE_SIZE = 100, 64


class TinyDetector(nn.Module):
    """One linear map of the mean color: a loss, and always the same number of detections."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.linear = nn.Linear(3, 64)

    def forward(
        self, images: Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation."""
        values = self.linear(images.mean((2, 3)))
        if targets is not None:
            return {"loss": values.square().mean()}
        corner = torch.arange(NUM_DETECTIONS, device=images.device) % (IMAGE_SIZE // 2)
        boxes = torch.stack((corner, corner, corner + 8, corner + 8), 1).float()
        labels = torch.arange(NUM_DETECTIONS, device=images.device) % self.num_classes
        scores = torch.linspace(0.1, 0.9, NUM_DETECTIONS, device=images.device)
        return [{"boxes": boxes, "scores": scores, "labels": labels} for _ in images]


def build(num_classes: int) -> TinyDetector:
    """For --model."""
    return TinyDetector(num_classes)


class Record:
    """Seconds, calls and bytes by phase and kind of collective, in the order of first calls."""

    def __init__(self, began: float) -> None:
        self.rows: dict[str, dict[str, float]] = {}
        self.num_label_files = 0
        self._last = began

    def add(self, phase: str, kind: str, received: int) -> None:
        """Ends a phase now."""
        now = time.time()
        start = {"seconds": 0.0, "calls": 0, "bytes": 0}
        row = self.rows.setdefault(f"{phase} ({kind})", start)
        row["seconds"] += now - self._last
        row["calls"] += 1
        row["bytes"] += received
        self._last = now

    def count_open(self, event: str, arguments: tuple) -> None:
        """An audit hook: counts label files."""
        if event == "open" and "/labels/" in str(arguments[0]):
            self.num_label_files += 1

    def counted(self, kind: str, collective: Callable) -> Callable:
        """The collective, which adds a row for its caller."""

        def call(*arguments: object) -> object:
            result = collective(*arguments)
            tensors = result if isinstance(result, list) else [result]
            received = sum(x.nbytes for x in tensors if isinstance(x, Tensor))
            self.add(_caller(sys._getframe(1)), kind, received)
            return result

        return call


def _caller(frame: FrameType | None) -> str:
    """The part of hvd_yolo, outside comm/, that calls for the collective: module and function."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        is_between = name.startswith(BETWEEN) or frame.f_code.co_name.startswith("<")
        if name.startswith("hvd_yolo.") and not is_between:
            return f"{name.removeprefix('hvd_yolo.')}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "comm.connect"


def num_sockets() -> int:
    """Sockets that this process has open."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(descriptor))
        except FileNotFoundError:
            # The descriptor of the listing itself.
            continue
    return sum(link.startswith("socket:") for link in links)


def main() -> None:
    """Trains, and writes the record."""
    folder, *arguments = sys.argv[1:]
    record = Record(float(os.environ[STARTED_VARIABLE]))
    sys.addaudithook(record.count_open)
    from hvd_yolo import start, train

    record.add("launcher, imports", "none", 0)
    sockets = {"before": num_sockets()}
    connect = start.connect

    def counted_connect(*options: object, **more: object) -> object:
        comm = connect(*options, **more)
        record.add("comm.connect", "all", 0)
        sockets["connected"] = num_sockets()
        for kind in COLLECTIVES:
            setattr(comm, kind, record.counted(kind, getattr(comm, kind)))
        sockets["comm"] = comm
        return comm

    start.connect = counted_connect
    step_type = train.Step
    update = step_type.update

    def timed_update(self: object, *values: object) -> object:
        sockets.setdefault("training", num_sockets())
        result = update(self, *values)
        record.add("step.update", "gradients", 0)
        return result

    step_type.update = timed_update
    train.main(arguments)
    comm = sockets.pop("comm")
    record.add("end", "none", 0)
    result = {
        "rank": comm.rank, "size": comm.size, "rows": record.rows, "sockets": sockets,
        "label_files": record.num_label_files, "gradient_bytes": comm.sent_bytes,
    }  # fmt: skip
    Path(folder, f"rank{comm.rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    from hvd_yolo import cli

    cli.run(lambda _: main())
