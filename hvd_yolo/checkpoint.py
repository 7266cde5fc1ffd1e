"""Checkpoint files: written whole or not at all, read without running a line of code from them."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from hvd_yolo.errors import InputError

_FORMAT = "hvd_yolo checkpoint 1"


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors, numbers, strings and containers of these; a kill at any moment leaves the old
    file or the new.

    content: "config" (YAML text), "names" (classes), "weights" (state dict to evaluate with) and,
    to resume from, "training" (TrainState.state_dict()) and "metrics_bytes".
    """
    _write_whole(path, lambda file: torch.save({"format": _FORMAT, **content}, file))


def save_text(path: Path, text: str) -> None:
    """Writes a text file, as `save` whole or not at all."""
    _write_whole(path, lambda file: file.write(text.encode()))


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU; raises InputError when the file is not such a checkpoint."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"checkpoint {path}: no such file") from error
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"checkpoint {path} cannot be read: {reason}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"checkpoint {path}: not a checkpoint of hvd_yolo")
    return content
