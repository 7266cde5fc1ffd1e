"""What is worth knowing of every image of a data set: its sides, its objects, and two hashes.

An image is read once, by one rank; whatever judges, counts, deals or converts the data set works on
these tables and reads no image again.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from hvd_yolo.data.dataset import WHOLE, Annotations, Dataset, UnreadableImage, truth_of
from hvd_yolo.data.decoding import OtherSize
from hvd_yolo.data.image_files import ImageFiles


class Survey(NamedTuple):
    """Some images of a data set, in its order; tables, because they travel between ranks.

    images: (N, 5) int64, a row an image: width, height, number of objects, pixel_hash and
    look_hash; zeros where it cannot be read. objects: (M, 7) float64, the objects of the first
    image, then of the second, and so on: box xyxy in pixels, label, area, is_crowd. unreadable: a
    message for each image that cannot be read; other_size: for each that is not of the size that
    its annotations state; turned: for each whose boxes are turned with it.
    """

    images: np.ndarray
    objects: np.ndarray
    unreadable: list[str]
    other_size: list[str]
    turned: list[str]

    @property
    def is_read(self) -> np.ndarray:
        """(N): whether the image can be read."""
        return self.images[:, 0] > 0

    @property
    def owners(self) -> np.ndarray:
        """(M): the image each object is on."""
        return np.repeat(np.arange(len(self.images)), self.images[:, 2])

    def annotations(self) -> list[Annotations]:
        """The objects of each image (N)."""
        ends = np.cumsum(self.images[:, 2])
        return [as_annotations(rows) for rows in np.split(self.objects, ends[:-1])]


def take_survey(dataset: Dataset, indices: Iterable[int]) -> Survey:
    """Reads the images `indices` and their labels."""
    images, objects = [], [np.zeros((0, 7))]
    unreadable: list[str] = []
    other_size: list[str] = []
    turned: list[str] = []
    for index in indices:
        try:
            found = dataset.scaled(index, WHOLE)
            image = found.pixels()
        except UnreadableImage as error:
            images.append((0, 0, 0, 0, 0))
            (other_size if isinstance(error, OtherSize) else unreadable).append(str(error))
            continue
        sides = found.width, found.height
        if dataset.is_turned(index, *sides, found.orientation):
            turned.append(f"{image_name(dataset, index)}: orientation {found.orientation}")
        rows = np.column_stack(truth_of(dataset, index, found))
        images.append((*sides, len(rows), pixel_hash(image), look_hash(image)))
        objects.append(rows)
    return Survey(
        np.array(images, dtype=np.int64).reshape(-1, 5), np.concatenate(objects),
        unreadable, other_size, turned,
    )  # fmt: skip


def as_annotations(rows: np.ndarray) -> Annotations:
    """Rows (N, 7) of Survey.objects as a data set gives them."""
    return Annotations(
        rows[:, :4], rows[:, 4].astype(np.int64), rows[:, 5], rows[:, 6].astype(bool)
    )


def pixel_hash(image: np.ndarray) -> int:
    """64 bits, as a signed number, that two images share when all their pixels are the same.

    Of 37 million data sets with a million different images each, one has a pair that shares it.
    """
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(image))
    return int.from_bytes(digest.digest(), "little", signed=True)


def look_hash(image: np.ndarray) -> int:
    """64 bits, as a signed number, that most often outlive another size or compression.

    Whether each of 8 x 8 cells is brighter than its left neighbour (dHash, Krawetz 2013, "Kind of
    like that").
    """
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    cells = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    return int(np.packbits(cells[:, 1:] > cells[:, :-1]).view(np.int64)[0])


def image_name(dataset: Dataset, index: int) -> str:
    """The image's file, or its number where there is none."""
    if isinstance(dataset, ImageFiles):
        return str(dataset.files[index])
    return f"image {dataset.image_id(index)}"
