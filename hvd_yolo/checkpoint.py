"""Checkpoint files: written whole or not at all, read without running a line of code from them."""

import itertools
import logging
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from hvd_yolo.errors import InputError

logger = logging.getLogger("hvd_yolo.checkpoint")

_FORMAT = "hvd_yolo checkpoint 1"
# What torch.load and zipfile raise for what is no checkpoint, or no longer one.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, struct.error,
    zipfile.BadZipFile,
)  # fmt: skip


def save(path: Path, content: dict[str, Any], keep: int = 1) -> None:
    """Writes tensors, numbers, strings and containers of these; a kill at any moment leaves the old
    file or the new.

    content: "config" (YAML text), "names" (classes), "weights" (state dict to evaluate with) and,
    to resume from, "training" (TrainState.state_dict()) and "metrics_bytes". keep: so many of this
    name stay, the one before as NAME-1 and so on. Raises InputError when it cannot be written,
    with the space that it needs.
    """
    older = kept_names(path, keep)[::-1]
    num_bytes = _num_bytes(content)
    try:
        if shutil.disk_usage(path.parent).free < num_bytes and keep > 1 and path.exists():
            older[0].unlink(missing_ok=True)
        temporary = _write(path, lambda file: _pack({"format": _FORMAT, **content}, file))
        # last-1 becomes last-2, last becomes last-1, without a moment at which last is missing.
        for old, new in itertools.pairwise(older):
            if new.exists():
                _link_over(new, old)
        _put(temporary, path)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise InputError(
            f"checkpoint {path} cannot be written: {error.strerror or error}; it needs "
            f"{num_bytes / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free there"
        ) from error


def save_text(path: Path, text: str) -> None:
    """Writes a text file, as `save` whole or not at all; raises InputError when it cannot."""
    save_bytes(path, text.encode())


def save_bytes(path: Path, content: bytes) -> None:
    """Writes a file, as `save` whole or not at all; raises InputError when it cannot."""
    try:
        _put(_write(path, lambda file: file.write(content)), path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU; raises InputError when the file is not such a checkpoint, or
    not as it was written."""
    try:
        # torch.load does not compare the checksums that torch.save wrote.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
            if bad is not None:
                raise InputError(f"checkpoint {path} cannot be read: {bad} in it is damaged")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"checkpoint {path}: no such file") from error
    except _UNREADABLE as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"checkpoint {path} cannot be read: {reason}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"checkpoint {path}: not a checkpoint of hvd_yolo")
    return content


def load_newest(path: Path) -> dict[str, Any]:
    """What is in the newest file of this name that can be read: NAME, else NAME-1 and so on. Those
    that cannot be read are named and put aside as FILE.damaged, for the next save would take them
    for good ones. Raises InputError when there is none."""
    faults: dict[Path, str] = {}
    for file in [path, *_older(path)]:
        try:
            content = load(file)
        except InputError as error:
            faults[file] = str(error)
            continue
        for damaged, fault in faults.items():
            logger.error("%s", fault)
            if damaged.exists():
                damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))
        if faults:
            logger.error("going on from %s", file)
        return content
    raise InputError("; ".join(faults.values()))


def is_there(path: Path) -> bool:
    """Whether there is a file of this name, or an older one that was kept."""
    return path.is_file() or bool(_older(path))


def kept_names(path: Path, keep: int) -> Sequence[Path]:
    """The newest and its older ones: last.pt, last-1.pt, ..."""
    return [path, *(path.with_stem(f"{path.stem}-{age}") for age in range(1, keep))]


def _older(path: Path) -> list[Path]:
    ages = {}
    for file in path.parent.glob(f"{path.stem}-*{path.suffix}"):
        age = file.stem.removeprefix(f"{path.stem}-")
        if age.isdecimal():
            ages[int(age)] = file
    return [ages[age] for age in sorted(ages)]


def _num_bytes(content: object) -> int:
    """Of the tensors in it, each storage once, as torch.save writes them."""
    storages = (tensor.untyped_storage() for tensor in _tensors(content))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


class _Recorded:
    """A file to write to that remembers its error, for torch.save tells of another one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """As the file's own."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """As the file's own."""
        self._file.flush()


def _pack(content: dict[str, Any], file: BinaryIO) -> None:
    recorded = _Recorded(file)
    try:
        torch.save(content, recorded)
    except RuntimeError as error:
        if recorded.error is not None:
            raise recorded.error from error
        raise


def _write(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """The temporary file beside it, on the disk; one that is left over is not written through."""
    temporary = path.with_name(f".{path.name}.writing")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, 0o644), "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        # What is not whole would take the room that the next one needs.
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _put(temporary: Path, path: Path) -> None:
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _link_over(file: Path, name: Path) -> None:
    """Gives the file a second name, in place of what had it; a copy where links are unknown."""
    temporary = name.with_name(f".{name.name}.writing")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:
        shutil.copyfile(file, temporary)
    os.replace(temporary, name)
