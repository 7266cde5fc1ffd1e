"""The files that a source of predict stands for: a picture or video, a folder, a glob pattern, or a
list.

Each has a name: its path below the root of the source, which is the folder, or the longest folder
that all files of a pattern or list have in common.
"""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hvd_yolo.data.image_folders import (
    IMAGE_SUFFIXES,
    UNREADABLE_SUFFIXES,
    is_hidden,
    visible_files,
)
from hvd_yolo.data.problems import Problem, ProblemLog
from hvd_yolo.data.text_files import read_text
from hvd_yolo.errors import InputError

VIDEO_SUFFIXES = {
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
}  # fmt: skip

_REMEDY = "OpenCV cannot decode them everywhere, convert them to .png or .jpg"


class SourceFiles(NamedTuple):
    """What there is to detect on.

    files: sorted; names: the path of each below the root, with `/`; is_tree: files of the root that
    are not there yet would belong to it; num_unusable: entries and files that were named or found
    and cannot be read; problems: these and what was passed over.
    """

    files: list[Path]
    names: list[str]
    root: Path
    is_tree: bool
    num_unusable: int
    problems: list[Problem]


def is_video(name: str) -> bool:
    """Whether a file of this name is taken for a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def find_files(source: str) -> SourceFiles:
    """The pictures and videos of a source; raises InputError when there are none."""
    path = Path(source)
    log = ProblemLog()
    if path.is_dir():
        found = _sorted_out(visible_files(path), log)
    elif path.suffix.lower() == ".txt" and path.is_file():
        found = _sorted_out(_listed(path, log), log)
    elif path.is_file():
        found = [path]
        if path.suffix.lower() in UNREADABLE_SUFFIXES:
            raise InputError(f"source {source!r}: {path.suffix}: {_REMEDY}")
    elif path.exists():
        raise InputError(f"source {source!r} is neither a file nor a folder")
    else:
        found = _sorted_out(_matching(source), log)
    problems = log.problems()
    if not found:
        raise InputError(_nothing(source, path, problems))
    root = path if path.is_dir() else _common_folder(found)
    names = [_name(file, root) for file in found]
    is_tree = path.is_dir() or (not path.is_file() and "**" in source)
    num_unusable = sum(problem.count for problem in problems if problem.severity == "error")
    return SourceFiles(found, names, root, is_tree, num_unusable, problems)


def _sorted_out(files: Iterable[Path], log: ProblemLog) -> list[Path]:
    """The pictures and videos among files, sorted, each once; the others are counted."""
    found: dict[str, Path] = {}
    for file in files:
        suffix = file.suffix.lower()
        if suffix in UNREADABLE_SUFFIXES:
            log.add(f"{suffix} files, not detected on: {_REMEDY}", str(file), "error")
        elif suffix in IMAGE_SUFFIXES or suffix in VIDEO_SUFFIXES:
            found.setdefault(os.path.abspath(file), file)
        else:
            log.add("files that are neither pictures nor videos, passed over", str(file))
    return sorted(found.values())


def _matching(pattern: str) -> Iterable[Path]:
    """The files that match a glob pattern, and those below the folders that match."""
    is_in_loop: dict[Path, bool] = {}
    for path in map(Path, glob.glob(pattern, recursive=True)):
        folder = path if path.is_dir() else path.parent
        if folder not in is_in_loop:
            is_in_loop[folder] = _is_in_loop(folder)
        if not is_in_loop[folder]:
            yield from visible_files(path) if path == folder else (path,)


def _is_in_loop(folder: Path) -> bool:
    """Whether a link on the way to the folder leads back to a folder on the way."""
    above = Path(os.path.abspath(folder))
    real = [os.path.realpath(place) for place in (above, *above.parents)]
    return len(set(real)) < len(real)


def _listed(file: Path, log: ProblemLog) -> Iterable[Path]:
    """The files that a list names: a path a line, absolute, from where the list lies, or from the
    working directory; `#` begins a comment."""
    seen: set[str] = set()
    for number, line in enumerate(read_text(file).splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        where = f"{file}:{number} {entry}"
        path = _existing(file.parent, entry)
        if path is None:
            what = (
                "folders in the list, name their files"
                if _is_folder(file.parent, entry)
                else ("listed files that do not exist")
            )
            log.add(what, where, "error")
        elif is_hidden(path.name):
            log.add("hidden files in the list, passed over", where)
        elif os.path.abspath(path) in seen:
            log.add("files listed more than once, detected on once", where)
        else:
            seen.add(os.path.abspath(path))
            yield path


def _existing(folder: Path, entry: str) -> Path | None:
    """The file that an entry of a list in the folder names."""
    texts = dict.fromkeys((entry, entry.replace("\\", "/")))
    places = (Path(base, text) for text in texts for base in (folder, ""))
    return next((place for place in places if os.path.isfile(place)), None)


def _is_folder(folder: Path, entry: str) -> bool:
    return os.path.isdir(folder / entry) or os.path.isdir(entry)


def _common_folder(files: list[Path]) -> Path:
    return Path(os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]))


def _name(file: Path, root: Path) -> str:
    below = os.path.relpath(os.path.abspath(file), os.path.abspath(root))
    return Path(below).as_posix()


def _nothing(source: str, path: Path, problems: list[Problem]) -> str:
    """Why there is nothing to detect on."""
    if not path.exists() and not glob.has_magic(source):
        return f"source {source!r}: no such file or folder"
    told = "; ".join(map(str, problems))
    known = f"no picture ({', '.join(sorted(IMAGE_SUFFIXES))}) or video "
    known += f"({', '.join(sorted(VIDEO_SUFFIXES))}) is there"
    return f"source {source!r}: {known}" + (f"; {told}" if told else "")
