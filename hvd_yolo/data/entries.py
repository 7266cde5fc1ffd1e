"""What is to be written of data sets, and where: an entry for each image, parts that are written at
a time."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hvd_yolo.data.dataset import Annotations, Dataset
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.data.image_folders import IMAGE_SUFFIXES
from hvd_yolo.data.layouts import LAYOUTS
from hvd_yolo.data.survey import Survey


class Entry(NamedTuple):
    """An image to be written: where it is from, its place in the new data set, its objects."""

    dataset: Dataset
    index: int
    split: str
    name: str
    image_id: int
    width: int
    height: int
    truth: Annotations


class Part(NamedTuple):
    """What is written at a time, below the folder: an image, or a tar shard of several."""

    path: Path
    entries: Sequence[Entry]


def entries_of(datasets: dict[str, Dataset], surveys: dict[str, Survey]) -> list[Entry]:
    """An entry for each image that can be read, with the split, file name and id that it has."""
    return [
        Entry(
            dataset, index, split, own_name(dataset, index), dataset.image_id(index),
            width, height, truth,
        )
        for split, dataset in datasets.items()
        for index, ((width, height), truth) in enumerate(
            zip(surveys[split].images[:, :2].tolist(), surveys[split].annotations(), strict=True)
        )
        if width
    ]  # fmt: skip


def with_places(entries: Sequence[Entry], to: str) -> list[Entry]:
    """The entries with file names that the format can hold, and ids that are unique in a split.

    Of equal stems in a folder the second gets _2, and so on; where ids meet, as they may when
    splits are pooled, all are numbered anew.
    """
    taken: set[tuple[str, str]] = set()
    numbers: Counter[str] = Counter()
    placed = []
    for entry in entries:
        stem, suffix = os.path.splitext(entry.name)
        # Lists of a VOC folder end a name at a space, keys of a shard end at a dot.
        if to == "voc":
            stem = re.sub(r"\s+", "_", stem)
        elif to == "webdataset":
            stem = stem.replace(".", "_")
        # The splits of a VOC folder share it.
        folder = "" if to == "voc" else entry.split
        free = stem
        while (folder, free.lower()) in taken:
            numbers[stem] += 1
            free = f"{stem}_{numbers[stem] + 1}"
        taken.add((folder, free.lower()))
        placed.append(entry._replace(name=free + suffix))
    if len({(entry.split, entry.image_id) for entry in placed}) < len(placed):
        placed = [entry._replace(image_id=number) for number, entry in enumerate(placed, 1)]
    return placed


def parts_of(entries: Sequence[Entry], to: str, shard_images: int) -> list[Part]:
    """All entries, an image a part, or a shard of up to `shard_images` of a split."""
    if to != "webdataset":
        layout = LAYOUTS[to]
        return [Part(layout.image_path(entry.split, entry.name), [entry]) for entry in entries]
    parts = []
    for split in dict.fromkeys(entry.split for entry in entries):
        own = [entry for entry in entries if entry.split == split]
        for number, first in enumerate(range(0, len(own), shard_images)):
            path = Path(f"{split}-{number:06}.tar")
            parts.append(Part(path, own[first : first + shard_images]))
    return parts


def own_name(dataset: Dataset, index: int) -> str:
    """The name of the image's file, with .png behind it where it has to be encoded anew."""
    if not isinstance(dataset, ImageFiles):
        return f"{dataset.image_id(index):06}.png"
    name = Path(str(dataset.files[index])).name
    return name if Path(name).suffix.lower() in IMAGE_SUFFIXES else f"{name}.png"
