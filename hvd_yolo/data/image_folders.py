"""The images of a folder and of the folders below it, and the files there that are none."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# .jfif and .mpo are JPEG: a file's format is read from its first bytes, never from its name.
IMAGE_SUFFIXES = {
    ".bmp", ".jfif", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp",
}  # fmt: skip
# Images that OpenCV's wheels cannot decode, or not on every machine.
UNREADABLE_SUFFIXES = {".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl"}


class FolderListing(NamedTuple):
    """images: sorted; others: files that are neither images nor hidden, sorted."""

    images: list[Path]
    others: list[Path]


def list_images(folder: Path) -> FolderListing:
    """The files below `folder`, links followed, without those that are hidden."""
    images: list[Path] = []
    others: list[Path] = []
    for file in visible_files(folder):
        (images if is_image_name(file.name) else others).append(file)
    return FolderListing(sorted(images), sorted(others))


def is_image_name(name: str) -> bool:
    """Whether a file of this name can be an image."""
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a file or folder name begins with a dot: .ipynb_checkpoints, ._photo.jpg."""
    return name.startswith(".")


def visible_files(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those below it, links followed, without hidden files and
    folders."""
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name for name in folders if not is_hidden(name) and not _leads_back(Path(place, name))
        )
        yield from (Path(place, name) for name in names if not is_hidden(name))


def _leads_back(folder: Path) -> bool:
    """Whether it is a link to a folder on the way to it: two such links double the path at each
    turn."""
    return folder.is_symlink() and any(folder.samefile(parent) for parent in folder.parents)
