"""Many small things of a data set in one memory-mapped file, made once a node and believed only
when it is whole.

Every process that wants a pack and does not find it takes part in making it: the one that gets the
lock leads, the others help, and the whole is put in its place by a rename. The lock is one of the
file system: when a leader dies, the next takes its place.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from hvd_yolo.data.packing import (
    LEFT_OUT,
    Contents,
    Place,
    Progress,
    help_lead,
    lead,
    length_of_items,
    mapped,
    remove,
)
from hvd_yolo.errors import InputError

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05


class Pack:
    """The finished pack in `folder`; what could not be read when it was made is left out of it.

    Raises FileNotFoundError, EOFError or ValueError when something of it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # (N, 2 + k) int64: start, length and the numbers of each item.
        self._table = np.asarray(np.load(folder / "table.npy", mmap_mode="r"))
        self._states = mapped(folder / "states.bin", "r")
        self._bytes = mapped(folder / "items.bin", "r")
        lengths = len(self._states), len(self._bytes)
        if lengths != (len(self._table), length_of_items(self._table)):
            raise ValueError(f"{folder}: cut short")

    def __reduce__(self) -> tuple[type["Pack"], tuple[Path]]:
        return Pack, (self.folder,)

    def __len__(self) -> int:
        return len(self._table)

    def item(self, index: int) -> np.ndarray | None:
        """Its bytes (n) uint8, read-only; None if it was left out."""
        if self._states[index] == LEFT_OUT:
            return None
        start, length = self._table[index, :2].tolist()
        return self._bytes[start : start + length]

    def row(self, index: int) -> list[int] | None:
        """The numbers that Contents.plan() gave beside the bytes; None if it was left out."""
        return None if self._states[index] == LEFT_OUT else self._table[index, 2:].tolist()

    @property
    def num_bytes(self) -> int:
        """The length of the file."""
        return len(self._bytes)


def open_pack(place: Place, name: str, contents: Contents) -> Pack:
    """The pack `name`, made first if it is not there or damaged.

    Every process of a node calls it alike; several jobs may at once. Raises InputError when it has
    no room or the folder cannot be used.
    """
    ready, lock = place.folder / name, place.folder / f"{name}.lock"
    started, progress = time.monotonic(), Progress(place.option, len(contents))
    with _explained(place):
        _make_folder(place)
        pack = _whole(ready)
        is_old = pack is not None
        while pack is None:
            with _locked(lock) as is_mine:
                if is_mine and _whole(ready) is None:
                    _remove_unfinished(place.folder)
                    lead(place, name, contents, progress)
                    pack = Pack(ready)
            if not is_mine and not help_lead(place, name, contents, progress):
                time.sleep(_POLL_SECONDS)
            pack = pack or _whole(ready)
    origin = "made earlier" if is_old else f"made in {time.monotonic() - started:.1f} s"
    logger.info(
        "%s: %s images, %.1f GB in %s, %s",
        place.option, f"{len(pack):,}", pack.num_bytes / 1e9, ready, origin,
    )  # fmt: skip
    return pack


@contextmanager
def in_use(place: Place, name: str) -> Iterator[None]:
    """Inside, the pack is used; the last process of the node to leave removes it.

    What killed processes left behind in this folder is removed on the way.
    """
    with _explained(place):
        _make_folder(place)
        for other in place.folder.glob("*.use"):
            if other.stem != name:
                _remove_unused(place.folder, other.stem)
        use = _shared(place.folder / f"{name}.use")
    try:
        yield
    finally:
        use.close()
        _remove_unused(place.folder, name)


def _whole(ready: Path) -> Pack | None:
    """The finished pack; None if there is none, or not all of one."""
    try:
        return Pack(ready)
    except (FileNotFoundError, EOFError, ValueError):
        return None


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    """Inside, an error of the file system becomes one that names the option."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{place.option}: a pack cannot be made or used in {place.folder}: {error}; mend that, "
            f"or {place.remedy}"
        ) from error


def _make_folder(place: Place) -> None:
    """Makes it for this user alone; one that another user has put there is not trusted."""
    place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.stat(place.folder, follow_symlinks=False).st_uid != os.getuid():
        raise InputError(
            f"{place.option}: {place.folder} belongs to another user; name a folder of your own "
            f"(one below it, say, is made), or {place.remedy}"
        )


@contextmanager
def _locked(file: Path) -> Iterator[bool]:
    """Inside, whether this process has the file for itself; does not wait for it."""
    with open(file, "a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield _is_at(file, lock)


def _shared(file: Path) -> IO[bytes]:
    """The file, locked against _locked() until it is closed; waits for it."""
    while True:
        lock = open(file, "a+b")  # noqa: SIM115 (closed by who asked for it)
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_at(file, lock):
            return lock
        lock.close()


def _is_at(file: Path, lock: IO[bytes]) -> bool:
    """False for a file that was removed after it had been opened: others lock another one."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(lock.fileno()))
    except FileNotFoundError:
        return False


def _remove_unused(folder: Path, name: str) -> None:
    with _locked(folder / f"{name}.use") as is_mine:
        if is_mine:
            # What it is locked by last: before, nobody else begins.
            for pattern in (name, f"{name}.unfinished-*", f"{name}.lock", f"{name}.use"):
                remove(folder, pattern)


def _remove_unfinished(folder: Path) -> None:
    """Removes what killed processes began, be it of another data set."""
    for work in folder.glob("*.unfinished-*"):
        with _locked(folder / f"{work.name.partition('.')[0]}.lock") as is_mine:
            if is_mine:
                remove(folder, work.name)
