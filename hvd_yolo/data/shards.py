"""Images and YOLO text in tar files, as the webdataset package lays them out: KEY.jpg beside
KEY.txt, where KEY has no dot.

data.yaml: `format: webdataset`, `names`, and for each split its tar files, numbered ones in braces
(`train: train-{000000..000146}.tar`), or a list of these. A KEY stands for one image of its shard.
An image without KEY.txt is background; what is neither image nor .txt is ignored, KEY.json too, for
which there is no agreed layout of boxes.

webdataset reads such a shard from front to back and shuffles what passes by. The order of training
here is a function of seed and epoch, and a mosaic takes any image of the data set: so an image is
read at its place in its shard, and all that works on image files works on shards. They must be
files of this machine's file system, and not compressed.
"""

import io
import logging
import math
import os
import re
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np

from hvd_yolo.data.annotation_rows import AnnotationRows
from hvd_yolo.data.category_ids import category_ids_of
from hvd_yolo.data.data_yaml import Content, keypoint_shape, root_folder, split_sources
from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.data.image_files import ImageFiles, lengths_and_times
from hvd_yolo.data.label_rows import LabelRows
from hvd_yolo.data.shard_index import index_shards
from hvd_yolo.data.yaml_names import class_names
from hvd_yolo.data.yolo_txt import image_ids
from hvd_yolo.errors import InputError

logger = logging.getLogger(__name__)

# Shards a process keeps open: a quarter of the files it may have open by default on Linux.
_MOST_OPEN = 256

# A few bytes of braces can stand for names that fill the memory.
_MOST_SHARDS = 100_000

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")


def open_split(file: Path, content: Content, split: str) -> ImageFiles:
    """The split that the YAML `file`, read as `content`, names, in the order of shards and their
    members; raises InputError for what it cannot use."""
    names = class_names(file, content)
    shards = _shards(file, content, split)
    indices = index_shards(shards)
    members = [(number, one) for number, index in enumerate(indices) for one in index.images]
    if not members:
        raise InputError(
            f"data {file}: no image in the shards of the {split} split; expected KEY.jpg beside "
            "KEY.txt, where KEY has no dot"
        )
    images = [shards[number] / member.name for number, member in members]
    rows = AnnotationRows(f"{file} {split}", keypoint_shape(file, content))
    labeled = LabelRows(len(names), rows)
    for image, image_id, (_, member) in zip(images, image_ids(images), members, strict=True):
        rows.start_image(image, image_id)
        if member.labels is not None:
            labeled.add(member.labels, str(image.with_suffix(".txt")))
    labeled.finish()
    for shard, index in zip(shards, indices, strict=True):
        for name in index.stray_labels:
            rows.problems.add("label files without an image, left out", f"{shard}/{name}")
    num_unlabelled = sum(member.labels is None for _, member in members)
    if num_unlabelled == len(members):
        raise InputError(f"data {file}: no image of the {split} split has a .txt beside it")
    if num_unlabelled:
        logger.info(
            "%s %s: %d of %d images have no label file and are background",
            file, split, num_unlabelled, len(members),
        )  # fmt: skip
    places = np.array([(number, one.start, one.length) for number, one in members], dtype=np.int64)
    storage = TarShards([str(shard) for shard in shards], places)
    return rows.finish(names, category_ids_of(names), is_normalized=True, storage=storage)


class TarShards:
    """Storage in tar files. places (N, 3) int64: number of the shard, first byte and length of each
    image."""

    def __init__(self, shards: list[str], places: np.ndarray) -> None:
        self.shards = shards
        self.places = places
        # A file that falls out is closed when no thread holds it any more.
        self._opened = lru_cache(_MOST_OPEN)(_open)

    def __reduce__(self) -> tuple[type["TarShards"], tuple[list[str], np.ndarray]]:
        return TarShards, (self.shards, self.places)

    def item(self, index: int) -> np.ndarray:
        """Read at its place; raises UnreadableImage when the shard is gone or shorter."""
        number, start, length = self.places[index].tolist()
        content = self._read(self.shards[number], start, length)
        if len(content) < length:
            raise UnreadableImage(
                f"{self.shards[number]}, byte {start}: the shard is shorter than its index"
            )
        return np.frombuffer(content, dtype=np.uint8)

    def part(self, index: int, start: int, length: int) -> bytes:
        """Some bytes of it, no more than it has; raises UnreadableImage when the shard is gone."""
        number, first, whole = self.places[index].tolist()
        return self._read(self.shards[number], first + start, max(0, min(length, whole - start)))

    def _read(self, shard: str, start: int, length: int) -> bytes:
        try:
            # Held while it is read: the cache may close it meanwhile.
            file = self._opened(shard)
            return os.pread(file.fileno(), length, start)
        except OSError as error:
            raise UnreadableImage(f"{shard}, byte {start}: {error.strerror}") from error

    def num_bytes(self, index: int) -> int:
        """As the tar's header has it."""
        return int(self.places[index, 2])

    def fingerprint(self) -> bytes:
        """Names, lengths and times of change of the shards."""
        return repr((self.shards, lengths_and_times(self.shards))).encode()


def _open(shard: str) -> io.FileIO:
    return open(shard, "rb", buffering=0)


def _shards(file: Path, content: Content, split: str) -> list[Path]:
    root = root_folder(file, content)
    sources = split_sources(file, content, split, "tar files, as train-{000000..000146}.tar,")
    shards: list[Path] = []
    for source in sources:
        where = f"data {file}: {split} is {source}"
        if _URL.match(source):
            raise InputError(
                f"{where}, but shards are read at random places, from files: copy them to a folder "
                "that this machine sees"
            )
        shards += [root / name for name in expand_braces(source, where)]
    if len(set(shards)) < len(shards):
        raise InputError(f"data {file}: {split} names a shard twice")
    return shards


def expand_braces(pattern: str, where: str) -> list[str]:
    """The names that a pattern stands for, as in a shell: {000..146} counts, {a,b} lists; one
    inside another is refused. Raises InputError, which begins with `where`."""
    # Texts, with what is in braces between them.
    pieces = _BRACES.split(pattern)
    if any("{" in text or "}" in text for text in pieces[::2]):
        raise InputError(f"{where}: braces do not match, or lie in braces")
    choices = [_choices(piece, where) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    if math.prod(map(len, choices)) > _MOST_SHARDS:
        raise InputError(f"{where}: more than {_MOST_SHARDS:,} shards")
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(text: str, where: str) -> list[str]:
    """What the inside of a pair of braces stands for."""
    if counted := _RANGE.fullmatch(text):
        first, last = map(int, counted.groups())
        step = 1 if first <= last else -1
        numbers = range(first, last + step, step)
        if len(numbers) > _MOST_SHARDS:
            raise InputError(f"{where}: more than {_MOST_SHARDS:,} shards")
        is_padded = any(len(end) > 1 and end[0] == "0" for end in counted.groups())
        width = max(map(len, counted.groups())) if is_padded else 0
        return [f"{number:0{width}}" for number in numbers]
    if "," in text:
        return text.split(",")
    raise InputError(f"{where}: {{{text}}} is neither a range, as {{000..146}}, nor a list")
