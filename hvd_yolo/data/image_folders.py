"""The images of a folder and of the folders below it, and the files there that are none."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# .jfif and .mpo are JPEG: a file's format is read from its first bytes, never from its name.
IMAGE_SUFFIXES = {
    ".bmp", ".jfif", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp",
}  # fmt: skip
# Images that are not read: OpenCV's wheels cannot decode them, or not on every machine.
UNREADABLE_SUFFIXES = {
    ".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".gif", ".heic", ".heics", ".heif", ".j2k",
    ".jfi", ".jif", ".jp2", ".jpe", ".jpf", ".jpx", ".jxl", ".jxr", ".nef", ".orf", ".pbm", ".pgm",
    ".pic", ".pnm", ".ppm", ".psd", ".raw", ".svg", ".tga", ".wdp",
}  # fmt: skip


class FolderListing(NamedTuple):
    """images: sorted; others: files that are neither images nor hidden, sorted.

    Texts, for a hundred thousand Path take a second.
    """

    images: list[str]
    others: list[str]


def list_images(folder: Path) -> FolderListing:
    """The files below `folder`, links followed, without those that are hidden."""
    images: list[str] = []
    others: list[str] = []
    for place, names in _visible_names(folder):
        prefix = "" if place == "." else os.path.join(place, "")
        for name in names:
            is_image = os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
            (images if is_image else others).append(prefix + name)
    return FolderListing(sorted(images, key=path_parts), sorted(others, key=path_parts))


def path_parts(path: str) -> list[str]:
    """What paths are sorted by: a folder's files stay together."""
    return path.split("/")


def is_image_name(name: str) -> bool:
    """Whether a file of this name can be an image."""
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a file or folder name begins with a dot: .ipynb_checkpoints, ._photo.jpg."""
    return name.startswith(".")


def names_in(folder: str | Path) -> list[str]:
    """The names in a folder, hidden ones included, in no order; none if it is not there."""
    try:
        return os.listdir(folder)
    # ValueError: a path with a null character.
    except (OSError, ValueError):
        return []


def visible_names(folder: Path) -> list[str]:
    """The names in a folder that are not hidden, sorted; none if it is not there."""
    return sorted(name for name in names_in(folder) if not is_hidden(name))


def visible_files(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those below it, links followed, without hidden files and
    folders."""
    for place, names in _visible_names(folder):
        yield from (Path(place, name) for name in names)


def _visible_names(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each of these folders with the names of its files."""
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name for name in folders if not is_hidden(name) and not _leads_back(Path(place, name))
        )
        yield place, [name for name in names if not is_hidden(name)]


def _leads_back(folder: Path) -> bool:
    """Whether it is a link to a folder on the way to it: two such links double the path at each
    turn."""
    return folder.is_symlink() and any(folder.samefile(parent) for parent in folder.parents)
