"""What a data set is, and the one that lives in image files."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from hvd_yolo import boxes as box_ops

logger = logging.getLogger(__name__)


class Annotations(NamedTuple):
    """The objects of one image: boxes (N, 4) float64 xyxy pixels, labels (N) int64, areas (N)
    pixels, is_crowd (N)."""

    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray


class Sample(NamedTuple):
    """An image (H, W, 3) uint8 BGR with the boxes (N, 4) float64 xyxy pixels and labels (N) int64
    to learn from it."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    image_id: int


class UnreadableImage(Exception):
    """An image file that cannot be decoded; the text names it."""


class Dataset(Protocol):
    """Images and their objects, by index.

    names: the classes; category_ids: the number each class has in COCO-format results.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        """How many images."""
        ...

    def image(self, index: int) -> np.ndarray:
        """The image (H, W, 3) uint8 BGR; raises UnreadableImage."""
        ...

    def image_id(self, index: int) -> int:
        """The number that results call the image by; unique."""
        ...

    def annotations(self, index: int, width: int, height: int) -> Annotations:
        """The objects as the data set has them, crowds included, for an image of that size."""
        ...


def load_sample(dataset: Dataset, index: int) -> Sample:
    """The image with what is learnt from it: boxes clipped to the image, without crowds and boxes
    of no area."""
    image = dataset.image(index)
    height, width = image.shape[:2]
    truth = dataset.annotations(index, width, height)
    boxes = box_ops.clip_boxes(truth.boxes, width, height)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1) & ~truth.is_crowd
    return Sample(image, boxes[keep], truth.labels[keep], dataset.image_id(index))


def object_sizes(dataset: Dataset, indices: Iterable[int], size: int) -> np.ndarray:
    """(N, 2): widths and heights of the objects of some images, in pixels of an input of size x
    size; images that cannot be read are left out."""
    found = [np.zeros((0, 2))]
    for index in indices:
        try:
            sample = load_sample(dataset, index)
        except UnreadableImage:
            continue
        scale = size / max(sample.image.shape[:2])
        found.append((sample.boxes[:, 2:] - sample.boxes[:, :2]) * scale)
    return np.concatenate(found)


@dataclass
class ImageFiles:
    """A Dataset of files, whose annotations lie in flat arrays.

    Image i owns the rows offsets[i] to offsets[i + 1] of boxes (M, 4), labels, areas and is_crowd
    (M). Boxes are pixels, or shares of the image's sides if `is_normalized`; an area that is NaN is
    that of the box.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    files: np.ndarray
    ids: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray
    is_normalized: bool

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> np.ndarray:
        """The decoded file, turned upright as its EXIF says."""
        file = str(self.files[index])
        # Not cv2.imread: it prints a warning of its own and cannot read paths the locale does not
        # know.
        try:
            encoded = np.fromfile(file, dtype=np.uint8)
        except OSError as error:
            raise UnreadableImage(f"{file}: {error.strerror}") from error
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if len(encoded) else None
        if image is None:
            raise UnreadableImage(f"{file}: not an image that OpenCV can decode")
        return image

    def image_id(self, index: int) -> int:
        """The data set's own number of the image."""
        return int(self.ids[index])

    def annotations(self, index: int, width: int, height: int) -> Annotations:
        """The rows of the image, in pixels."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        boxes = self.boxes[rows]
        if self.is_normalized:
            boxes = boxes * (width, height, width, height)
        areas = self.areas[rows]
        box_areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        areas = np.where(np.isnan(areas), box_areas, areas)
        return Annotations(boxes, self.labels[rows], areas, self.is_crowd[rows])


class AnnotationRows:
    """Collects annotations image by image, counts what had to be changed, and makes the flat
    arrays."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.files: list[str] = []
        self.ids: list[int] = []
        self.lengths: list[int] = []
        self.rows: list[tuple[float, ...]] = []
        self.faults: Counter[str] = Counter()
        self.first_fault: dict[str, str] = {}

    def start_image(self, file: Path, image_id: int) -> None:
        """The rows that follow belong to this image."""
        self.files.append(str(file))
        self.ids.append(image_id)
        self.lengths.append(0)

    def add(
        self, box: tuple[float, ...], label: int, area: float = np.nan, is_crowd: bool = False
    ) -> None:
        """One object: box xyxy, in the unit of the whole data set."""
        self.rows.append((*box, label, area, is_crowd))
        self.lengths[-1] += 1

    def fault(self, kind: str, where: str) -> None:
        """Counts something that was changed or left out, to be told at the end."""
        self.faults[kind] += 1
        self.first_fault.setdefault(kind, where)

    def add_clipped(
        self,
        box: tuple[float, ...],
        label: int,
        width: float,
        height: float,
        where: str,
        is_crowd: bool = False,
    ) -> None:
        """Adds the box cut to the image; one without area is left out. Both are counted."""
        x1, y1, x2, y2 = box
        if not (x2 > x1 and y2 > y1):
            return self.fault("without area, left out", where)
        # YOLO files round to six digits, which puts a box at the edge outside by half of the last.
        slack_x, slack_y = 1e-6 * width, 1e-6 * height
        clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height))
        if not (clipped[2] > clipped[0] and clipped[3] > clipped[1]):
            return self.fault("outside the image, left out", where)
        if x1 < -slack_x or y1 < -slack_y or x2 > width + slack_x or y2 > height + slack_y:
            self.fault("partly outside the image, clipped", where)
        return self.add(clipped, label, is_crowd=is_crowd)

    def finish(
        self, names: tuple[str, ...], category_ids: tuple[int, ...], is_normalized: bool
    ) -> ImageFiles:
        """The data set; what was counted is logged, a line a kind."""
        for kind, count in sorted(self.faults.items()):
            logger.warning(
                "%s: boxes %s: %d (the first: %s)",
                self.source, kind, count, self.first_fault[kind],
            )  # fmt: skip
        table = np.array(self.rows, dtype=np.float64).reshape(-1, 7)
        return ImageFiles(
            names=names,
            category_ids=category_ids,
            files=np.array(self.files, dtype=str),
            ids=np.array(self.ids, dtype=np.int64),
            offsets=np.concatenate(([0], np.cumsum(self.lengths, dtype=np.int64))),
            boxes=table[:, :4].copy(),
            labels=table[:, 4].astype(np.int64),
            areas=table[:, 5].copy(),
            is_crowd=table[:, 6].astype(bool),
            is_normalized=is_normalized,
        )
