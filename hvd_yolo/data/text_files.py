"""The text files of a data set, and the paths that are written in them."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hvd_yolo.errors import InputError

# PATH_MAX of Linux. The names of all images lie in one array as wide as the longest.
LONGEST_PATH = 4096


def read_text(file: Path | str) -> str:
    """The file as UTF-8, with or without a byte order mark; raises InputError."""
    try:
        with open(file, "rb") as opened:
            return opened.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a text in UTF-8, save it as such: {error}") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error


def read_json(file: Path) -> object:
    """The content of a JSON file; raises InputError."""
    try:
        return json.loads(read_text(file))
    # RecursionError: brackets in brackets.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not a JSON file: {error}") from error


def is_inside(folder: Path, file: Path) -> bool:
    """Whether `file` lies below `folder` by their texts: `link/..` is the folder that holds the
    link."""
    above = os.path.join(os.path.abspath(folder), "")
    path = os.path.abspath(file)
    return path.startswith(above) and path != above


def inside(folder: Path, file: Path, where: str) -> Path:
    """`file`, which the text at `where` names, free of `..`; raises InputError if it leads out of
    `folder`.

    Links that lie in the folder may lead anywhere: they are the user's own.
    """
    if len(str(file)) > LONGEST_PATH:
        raise InputError(f"{where}: {len(str(file))} characters are too many for a path")
    if not is_inside(folder, file):
        raise InputError(
            f"{where}: {str(file)!r} leads out of {folder}; put or link the file inside it"
        )
    return Path(os.path.normpath(file))


def spellings(name: str) -> Iterator[str]:
    """A path as it is written, with the backslashes of Windows turned, and without the leading
    `data/` of Darknet's folder, in this order."""
    yield name
    turned = name.replace("\\", "/")
    if turned != name:
        yield turned
    short = turned.removeprefix("./")
    if short.startswith("data/"):
        yield short.removeprefix("data/")


def locate(name: str, folders: Sequence[Path]) -> Path | None:
    """The first file or folder of this name that exists, counted from one of `folders`."""
    for spelling in spellings(name):
        for folder in folders:
            if os.path.exists(folder / spelling):
                return folder / spelling
    return None
