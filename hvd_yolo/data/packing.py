"""How a pack is made: one process plans it, all write what they can claim.

Claims are locks of the file system: a process that dies gives its own back, and what it left is
begun anew.
"""

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.data.image_files import NETWORK_THREADS
from hvd_yolo.errors import InputError

logger = logging.getLogger(__name__)

# What can become of an item.
WAITING, WRITTEN, LEFT_OUT = 0, 1, 2

# Items that are claimed together.
_CHUNK = 64

_SECONDS_A_LINE = 10.0

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Place:
    """Where packs of this node lie, and the threads that make them.

    is_kept: on a disk, for the next run too; else in memory, until the last process has left. free:
    tells how many bytes a pack may take, beside what the folder's disk has left. option: what asked
    for the pack, and remedy: what else to do than to free some room, as an error words it.
    """

    folder: Path
    is_kept: bool
    free: Callable[[], int]
    threads: int
    option: str
    remedy: str


class Contents(Protocol):
    """What goes into a pack."""

    def __len__(self) -> int:
        """How many items."""
        ...

    def plan(self, index: int) -> tuple[int, ...]:
        """The item's bytes, then numbers to be kept with it, always as many; raises
        UnreadableImage."""
        ...

    def write(self, index: int, out: np.ndarray) -> None:
        """Fills `out` (bytes) uint8; raises UnreadableImage."""
        ...


class Progress:
    """Tells now and then how far a pack of so many images is."""

    def __init__(self, option: str, number: int) -> None:
        self._option = option
        self._number = number
        self._told = time.monotonic()

    def tell(self, verb: str, count: int) -> None:
        """A line, unless there has just been one."""
        if time.monotonic() - self._told >= _SECONDS_A_LINE:
            self._told = time.monotonic()
            logger.info(
                "%s: %s %s of %s images", self._option, verb, f"{count:,}", f"{self._number:,}"
            )


def lead(place: Place, name: str, contents: Contents, progress: Progress) -> None:
    """Plans the pack, makes it together with those who help, and puts it in its place."""
    # A damaged one would be in the way.
    remove(place.folder, name)
    remove(place.folder, f"{name}.unfinished-*")
    table, states = _plan(contents, progress)
    need = length_of_items(table)
    _check_space(place, need)
    # A folder of its own: who still helps a leader that died can touch nothing in it.
    work = Path(tempfile.mkdtemp(prefix=_unfinished(name), dir=place.folder))
    try:
        with open(work / "items.bin", "wb") as file:
            # Taken now, so that a full disk is told before the work and not as a bus error in it.
            os.posix_fallocate(file.fileno(), 0, need)
        states.tofile(work / "states.bin")
        (work / "claims").touch()
        # Its appearance tells the others to begin.
        np.save(work / "plan.npy", table)
        os.rename(work / "plan.npy", work / "table.npy")
        logger.info(
            "%s: packing %s images, %.1f GB, into %s",
            place.option, f"{len(table):,}", need / 1e9, place.folder,
        )  # fmt: skip
        for waits in (False, True):
            _write_chunks(work, contents, place.threads, progress, waits)
        (work / "claims").unlink()
        for path in (*work.iterdir(), work):
            _sync(path)
        os.rename(work, place.folder / name)
        _sync(place.folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def help_lead(place: Place, name: str, contents: Contents, progress: Progress) -> bool:
    """Writes a chunk that another process has planned, if there is one left.

    One at a time, for its leader may have died, and somebody must take its place.
    """
    for work in place.folder.glob(f"{_unfinished(name)}*"):
        try:
            return _write_chunks(work, contents, place.threads, progress, False, most=1) > 0
        except FileNotFoundError:
            # Not planned yet, finished, or begun anew.
            continue
    return False


def _unfinished(name: str) -> str:
    """How the folders begin in which processes under this kernel make a pack. Those of another node
    that shares the file system only wait: it would write back whole pages, others' parts too."""
    return f"{name}.unfinished-{_BOOT_ID.read_text()[:8]}-"


def _plan(contents: Contents, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Table (N, 2 + k) int64 and states (N) uint8 of a pack that is still to be written."""

    def planned(index: int) -> tuple[int, ...] | None:
        """The contents' plan, or None for what cannot be read."""
        try:
            return contents.plan(index)
        except UnreadableImage:
            return None

    rows = []
    # It waits for a disk, not for a core.
    with ThreadPoolExecutor(NETWORK_THREADS) as pool:
        for row in pool.map(planned, range(len(contents))):
            rows.append(row)
            progress.tell("looked at", len(rows))
    width = max((len(row) for row in rows if row is not None), default=1)
    states = np.array([LEFT_OUT if row is None else WAITING for row in rows], dtype=np.uint8)
    numbers = [(0,) * width if row is None else row for row in rows]
    table = np.array(numbers, dtype=np.int64).reshape(len(rows), width)
    starts = np.cumsum(table[:, 0]) - table[:, 0]
    return np.column_stack((starts, table)), states


def length_of_items(table: np.ndarray) -> int:
    """Of the file of items in bytes; not 0, which could not be mapped."""
    return max(1, int(table[:, 1].sum()))


def _check_space(place: Place, need: int) -> None:
    disk = os.statvfs(place.folder)
    free = min(disk.f_bavail * disk.f_frsize, place.free())
    if need > free:
        raise InputError(
            f"{place.option}: {place.folder} would have to hold {need / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB are free there: free some, or {place.remedy}"
        )


def _write_chunks(
    work: Path,
    contents: Contents,
    threads: int,
    progress: Progress,
    waits: bool,
    most: int | None = None,
) -> int:
    """Writes up to `most` chunks and returns how many; passes over those that others have claimed,
    or `waits` for them."""
    table = np.load(work / "table.npy")
    items, states = mapped(work / "items.bin", "r+"), mapped(work / "states.bin", "r+")
    chunks = np.unique(np.flatnonzero(states == WAITING) // _CHUNK).tolist()
    count = 0
    # Open once: closing any descriptor of a file gives back all that a process has claimed in it.
    with open(work / "claims", "r+b") as claims:
        for chunk in chunks:
            if count == most:
                break
            if _claim(claims, chunk, waits):
                part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
                indices = np.flatnonzero(states[part] == WAITING) + part.start
                _write_items(contents, table, items, states, indices.tolist(), threads)
                count += len(indices) > 0
                fcntl.lockf(claims, fcntl.LOCK_UN, 1, chunk)
                progress.tell("packed", np.count_nonzero(states))
    return count


def _write_items(
    contents: Contents,
    table: np.ndarray,
    items: np.ndarray,
    states: np.ndarray,
    indices: list[int],
    threads: int,
) -> None:
    def write(index: int) -> None:
        """One item, and then its state."""
        start, length = table[index, :2].tolist()
        try:
            contents.write(index, items[start : start + length])
            states[index] = WRITTEN
        except UnreadableImage:
            states[index] = LEFT_OUT

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, indices))


def remove(folder: Path, pattern: str) -> None:
    """Files and folders in `folder` are no more, as far as can be."""
    for path in folder.glob(pattern):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def mapped(file: Path, mode: Any) -> np.ndarray:  # noqa: ANN401 (numpy's literal)
    """The bytes (n) uint8 of a file, not read but mapped."""
    return np.asarray(np.memmap(file, dtype=np.uint8, mode=mode))


def _claim(claims: IO[bytes], place: int, waits: bool) -> bool:
    try:
        fcntl.lockf(claims, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB), 1, place)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
