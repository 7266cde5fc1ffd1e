"""tensorboard/ in the run's folder."""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO

from hvd_yolo.report.loggers.lines import Entry, Run, curves, measured

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event


class TensorBoard:
    """Scalars train/loss, train/losses.box, eval/AP, ... over updates, in float32.

    When a run goes on a new file is written from metrics.jsonl, whose first event makes a
    TensorBoard that looks on forget what it has seen, and the old one is removed. Written record by
    record, not through a SummaryWriter: that one has a thread of its own, and a disk that is full
    would be told of late or not at all.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._folder = run.folder / "tensorboard"

    def open(self) -> None:
        """See Store."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder.mkdir(exist_ok=True)
        old = list(self._folder.glob("events.out.tfevents.*.hvd_yolo"))
        # TensorBoard reads the files of a folder in the order of their names.
        path = self._folder / f"events.out.tfevents.{time.time_ns()}.hvd_yolo"
        self._file: BinaryIO = open(path, "xb")  # noqa: SIM115 (open as long as the run)
        self._records = RecordWriter(self._file)
        self._add([Event(wall_time=time.time(), file_version="brain.Event:2")])
        start = SessionLog(status=SessionLog.START)
        self._add([Event(wall_time=time.time(), step=0, session_log=start)])
        self.write(self._run.kept())
        for file in old:
            file.unlink()

    def write(self, entries: Sequence[Entry]) -> None:
        """See Store."""
        self._add(map(_event, measured(entries)))

    def close(self, outcome: str) -> None:
        """See Store."""
        self._file.close()

    def _add(self, events: "Iterable[Event]") -> None:
        for event in events:
            self._records.write(event.SerializeToString())
        self._file.flush()


def _event(entry: Entry) -> "Event":
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [
        Summary.Value(tag=name, simple_value=value) for name, value in curves(entry.line).items()
    ]
    summary = Summary(value=values)
    return Event(wall_time=entry.line["time"], step=entry.line["step"], summary=summary)
