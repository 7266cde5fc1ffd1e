"""What a data set is, and what is learnt from one of its images."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import numpy as np

from hvd_yolo.data.decoding import Scaled, UnreadableImage


class Annotations(NamedTuple):
    """The objects of one image: boxes (N, 4) float64 xyxy pixels, labels (N) int64, areas (N)
    pixels, is_crowd (N)."""

    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray


# Longer than the side of any image: asks for all its pixels.
WHOLE = 1 << 30


class Sample(NamedTuple):
    """A width x height image with the boxes (N, 4) float64 xyxy in its pixels and labels (N) int64
    to learn from it."""

    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    image_id: int
    pixels: Callable[[], np.ndarray]

    @property
    def image(self) -> np.ndarray:
        """(height, width, 3) uint8 BGR, decoded now; raises UnreadableImage."""
        return self.pixels()


class Dataset(Protocol):
    """Images and their objects, by index.

    names: the classes; category_ids: the number each class has in COCO-format results; is_clean:
    it is known that no box is a crowd, without area or partly outside its image; has_truth: there
    are annotations, though they may be of no object.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    is_clean: bool
    has_truth: bool

    def __len__(self) -> int:
        """How many images."""
        ...

    def image(self, index: int) -> np.ndarray:
        """The image (H, W, 3) uint8 BGR; raises UnreadableImage."""
        ...

    def scaled(self, index: int, size: int) -> Scaled:
        """The image with its long side cut to at most `size`, not decoded yet where that can be;
        raises UnreadableImage."""
        ...

    def fingerprint(self) -> bytes:
        """Changes when an image does, as far as that can be told without reading it."""
        ...

    def image_id(self, index: int) -> int:
        """The number that results call the image by; unique."""
        ...

    def annotations(self, index: int, width: int, height: int) -> Annotations:
        """The objects as the data set has them, crowds included, for an image of that size."""
        ...


def load_sample(dataset: Dataset, index: int, size: int = WHOLE) -> Sample:
    """The image, its long side cut to at most `size`, with what is learnt from it: boxes clipped to
    the image, without crowds and boxes of no area. Raises UnreadableImage."""
    return sample_of(dataset, index, dataset.scaled(index, size))


def sample_of(dataset: Dataset, index: int, found: Scaled) -> Sample:
    """The sample of an image that dataset.scaled() gave."""
    boxes, labels = _learnt(dataset, index, found.width, found.height)
    width, height = found.cut_width, found.cut_height
    if (width, height) != (found.width, found.height):
        boxes = boxes * ((width / found.width, height / found.height) * 2)
    return Sample(width, height, boxes, labels, dataset.image_id(index), found.pixels)


def object_sizes(dataset: Dataset, indices: Iterable[int], size: int) -> np.ndarray:
    """(N, 2): widths and heights of the objects of some images, in pixels of an input of size x
    size; images that cannot be read are left out."""
    found = [np.zeros((0, 2))]
    for index in indices:
        try:
            image = dataset.scaled(index, size)
        except UnreadableImage:
            continue
        boxes, _ = _learnt(dataset, index, image.width, image.height)
        found.append((boxes[:, 2:] - boxes[:, :2]) * size / max(image.width, image.height))
    return np.concatenate(found)


def _learnt(dataset: Dataset, index: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) in pixels of the file, and labels (N)."""
    truth = dataset.annotations(index, width, height)
    if dataset.is_clean:
        return truth.boxes, truth.labels
    boxes = np.maximum(np.minimum(truth.boxes, (width, height, width, height)), 0)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & ~truth.is_crowd
    return (boxes, truth.labels) if keep.all() else (boxes[keep], truth.labels[keep])
