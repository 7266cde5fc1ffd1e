"""Host-device synchronizations by place, operators and copies by name."""

import collections
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.pretend_cuda.extension import extension

# The code whose lines are counted: the first frame in this package.
WATCHED = f"{os.sep}{os.environ.get('PRETEND_CUDA_WATCH', 'hvd_yolo')}{os.sep}"
# torch.cuda.set_sync_debug_mode's numbers.
WARN, ERROR = 1, 2
# What torch's own debug mode knows of: not events, not torch.cuda.synchronize().
_DEBUGGED = ("H2D", "D2H", "operator", "stream")


class Sync(NamedTuple):
    """kind: H2D or D2H (a blocking copy, item()), operator, event, stream, device; place: file:line
    function."""

    kind: str
    operator: str
    place: str


syncs: collections.Counter[Sync] = collections.Counter()
debug_mode = [0]


def place() -> str:
    """The innermost line of the watched package that is running; in the backward pass, whose
    threads run no Python, the forward line of the node where anomaly mode recorded it, or the
    node's name."""
    frame = sys._getframe(1)
    while frame is not None:
        if WATCHED in frame.f_code.co_filename:
            name = frame.f_code.co_filename.rpartition(WATCHED)[2]
            return f"{name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return _backward_place() or _outside_place()


def _outside_place() -> str:
    for entry in reversed(traceback.extract_stack()[:-2]):
        if "pretend_cuda" not in entry.filename and f"{os.sep}torch{os.sep}" not in entry.filename:
            return f"({Path(entry.filename).name}:{entry.lineno} {entry.name})"
    return "(no Python frame)"


def _backward_place() -> str:
    import torch

    node = torch._C._current_autograd_node()
    if node is None:
        return ""
    # What torch.autograd.detect_anomaly() leaves in a node: the forward pass's stack.
    for line in reversed(node.metadata.get("traceback_", [])):
        if WATCHED in line:
            file, _, rest = line.partition('", line ')
            number, _, function = rest.partition(", in ")
            return (
                f"{file.rpartition(WATCHED)[2]}:{number} {function.split()[0]} "
                f"(backward, {node.name()})"
            )
    return f"(backward, {node.name()})"


def _on_sync(kind: str, operator: str, detail: str) -> bool:
    operator = operator.removeprefix("aten::")
    syncs[Sync(kind, operator, place())] += 1
    if debug_mode[0] == WARN and kind in _DEBUGGED:
        warnings.warn(f"called a synchronizing CUDA operation: {operator} {detail}", stacklevel=2)
    return not (debug_mode[0] == ERROR and kind in _DEBUGGED)


def listen() -> None:
    """Counts from now on; PRETEND_CUDA_REPORT=FILE writes the counts there at exit, one file per
    rank where FILE has {rank}."""
    extension().set_sync_listener(_on_sync)


def report() -> dict:
    """All counts so far as JSON can hold them."""
    return {
        "syncs": [[*sync, number] for sync, number in sorted(syncs.items(), key=_by_place)],
        "launches": extension().launches(),
        "copies": extension().copies(),
        "pinned": extension().pinned_memory(),
    }


def _by_place(entry: tuple[Sync, int]) -> tuple[str, str, str]:
    sync = entry[0]
    return sync.place, sync.kind, sync.operator


def write_report(file: str) -> None:
    """The counts as JSON."""
    rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("HOROVOD_RANK")
    rank = rank or os.environ.get("RANK") or "0"
    Path(file.format(rank=rank)).write_text(json.dumps(report(), indent=1))


@contextmanager
def counted_syncs() -> Iterator[collections.Counter[str]]:
    """Synchronizations by place, of what runs inside; complete at the end."""
    before = syncs.copy()
    found: collections.Counter[str] = collections.Counter()
    yield found
    for sync, number in (syncs - before).items():
        found[f"{sync.place}: {sync.operator} ({sync.kind})"] += number


@contextmanager
def counted_launches() -> Iterator[collections.Counter[str]]:
    """Operators that reached the device inside, by name; complete at the end."""
    before = collections.Counter(extension().launches())
    found: collections.Counter[str] = collections.Counter()
    yield found
    found.update(collections.Counter(extension().launches()) - before)
