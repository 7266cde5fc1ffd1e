"""Images decoded and cut to size once, or files fetched once, for all processes of a node: what a
Pack holds, and data sets that read from it."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from hvd_yolo.data.dataset import Annotations, Dataset
from hvd_yolo.data.decoding import Scaled, UnreadableImage, scaled
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.data.pack import Pack, in_use, open_pack
from hvd_yolo.data.packing import Place
from hvd_yolo.errors import InputError

# Counts the changes of what is stored: an older pack is not read but made anew.
_VERSION = 1


def cache_place(kind: str, folder: str, threads: int, free_memory: Callable[[], int]) -> Place:
    """Where a cache of this kind, ram or disk, lies: in `folder` or, if that is empty, in one of
    this user."""
    is_kept = kind == "disk"
    root = "/var/tmp" if is_kept else "/dev/shm"
    remedy = "name another with --loader.folder, take a smaller imgsz, or --loader.cache none"
    if not is_kept:
        remedy = f"take --loader.cache disk or a larger /dev/shm (docker run --shm-size), {remedy}"
    return Place(
        Path(folder or f"{root}/hvd_yolo-{os.getuid()}"), is_kept,
        _all_there_is if is_kept else free_memory, threads, "loader.cache", remedy,
    )  # fmt: skip


def stage_place(folder: str, threads: int) -> Place:
    """Where files are staged."""
    remedy = "name another folder with --loader.stage, or leave it out"
    return Place(Path(folder), True, _all_there_is, threads, "loader.stage", remedy)


@contextmanager
def cached(dataset: Dataset, size: int, place: Place) -> Iterator[Dataset]:
    """The data set with its images decoded and cut to `size` once; only for that size."""
    versions = (cv2.__version__, simplejpeg.__version__)
    name = _name("pixels", size, versions, dataset)
    with _opened(place, name, _Pixels(dataset, size)) as pack:
        yield CachedImages(dataset, size, pack)


@contextmanager
def staged(dataset: Dataset, place: Place) -> Iterator[Dataset]:
    """The data set with its files fetched once, from wherever they lie, to `place`."""
    if not isinstance(dataset, ImageFiles):
        raise InputError(f"{place.option}: this data set has no files to copy; leave it out")
    name = _name("files", 0, (), dataset)
    with _opened(place, name, _Files(dataset)) as pack:
        yield replace(dataset, contents=pack)


@dataclass
class CachedImages:
    """A Dataset that takes the pixels from a pack and all else from `dataset`; from there too what
    the pack has not, as an image that cannot be read."""

    dataset: Dataset
    cached_size: int
    pack: Pack

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.dataset.names

    @property
    def is_clean(self) -> bool:
        """Whether its boxes need no look."""
        return self.dataset.is_clean

    @property
    def has_truth(self) -> bool:
        """Whether there are annotations."""
        return self.dataset.has_truth

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Their numbers in results."""
        return self.dataset.category_ids

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> np.ndarray:
        """The image as large as it is, from the data set."""
        return self.dataset.image(index)

    def scaled(self, index: int, size: int) -> Scaled:
        """The stored image; `size` must be that of the cache."""
        assert size == self.cached_size, f"cached at {self.cached_size}, asked for {size}"
        row = self.pack.row(index)
        if row is None:
            return self.dataset.scaled(index, size)
        found = scaled(*row, size, lambda: stored)
        stored = self.pack.item(index).reshape(found.cut_height, found.cut_width, 3)
        return found

    def fingerprint(self) -> bytes:
        """That of the data set."""
        return self.dataset.fingerprint()

    def image_id(self, index: int) -> int:
        """The data set's own number of the image."""
        return self.dataset.image_id(index)

    def annotations(self, index: int, width: int, height: int) -> Annotations:
        """The objects, as the data set has them."""
        return self.dataset.annotations(index, width, height)


@dataclass
class _Pixels:
    """Pack contents: images cut to `size`, with their files' width and height."""

    dataset: Dataset
    size: int

    def __len__(self) -> int:
        return len(self.dataset)

    def plan(self, index: int) -> tuple[int, ...]:
        """Bytes, width and height."""
        found = self.dataset.scaled(index, self.size)
        return found.cut_width * found.cut_height * 3, found.width, found.height

    def write(self, index: int, out: np.ndarray) -> None:
        """Decodes the image."""
        pixels = self.dataset.scaled(index, self.size).pixels()
        if pixels.size != len(out):
            raise UnreadableImage(f"image {index}: changed while it was packed")
        out[:] = pixels.reshape(-1)


@dataclass
class _Files:
    """Pack contents: the bytes of image files."""

    dataset: ImageFiles

    def __len__(self) -> int:
        return len(self.dataset)

    def plan(self, index: int) -> tuple[int, ...]:
        """Bytes."""
        return (self.dataset.storage.num_bytes(index),)

    def write(self, index: int, out: np.ndarray) -> None:
        """Copies the file."""
        content = self.dataset.encoded(index)
        if len(content) != len(out):
            raise UnreadableImage(f"{self.dataset.files[index]}: changed while it was copied")
        out[:] = content


@contextmanager
def _opened(place: Place, name: str, contents: _Pixels | _Files) -> Iterator[Pack]:
    if place.is_kept:
        yield open_pack(place, name, contents)
        return
    # Not the one that is kept, should both be made in one folder.
    name = f"ram-{name}"
    with in_use(place, name):
        yield open_pack(place, name, contents)


def _all_there_is() -> int:
    return sys.maxsize


def _name(kind: str, size: int, versions: tuple[str, ...], dataset: Dataset) -> str:
    """Names a pack by all that decides what is in it."""
    decisive = repr((_VERSION, kind, size, versions)).encode() + dataset.fingerprint()
    return f"{kind}-{size}-{hashlib.sha256(decisive).hexdigest()[:24]}"
