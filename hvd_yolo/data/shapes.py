"""A drawn data set: no file, any size, every image a pure function of its index.

Six kinds of figure, rotated, 14 to 130 pixels, overlapping and occluded, on textured backgrounds
with clutter. Colour tells nothing: a detector has to learn the outline.
"""

import math
from functools import lru_cache

import cv2
import numpy as np

from hvd_yolo.data.dataset import Annotations
from hvd_yolo.data.decoding import Scaled, scaled
from hvd_yolo.errors import InputError, MissingSplit

NAMES = ("disc", "square", "triangle", "cross", "star", "ring")
_SIDES = ((320, 240), (240, 320), (288, 288))
_SPLIT_SEED = {"train": 1, "val": 2, "test": 3}
# A figure of which less than this share can still be seen is not an object any more.
_LEAST_VISIBLE = 0.35


class Shapes:
    """A Dataset of drawings. `shapes` has 800 training images, `shapes:N` has N; val and test a
    quarter of that."""

    names = NAMES
    category_ids = (1, 2, 3, 4, 5, 6)
    is_clean = True
    has_truth = True

    def __init__(self, num_images: int, split_seed: int) -> None:
        self._num_images = num_images
        self._split_seed = split_seed

    @classmethod
    def from_name(cls, name: str, split: str) -> "Shapes":
        """From `shapes` or `shapes:N` and a split; raises InputError for anything else."""
        number = name.partition(":")[2] or "800"
        if not number.isdigit() or int(number) < 4:
            raise InputError(f"data {name}: expected shapes:N with N of at least 4")
        if split not in _SPLIT_SEED:
            raise MissingSplit(f"data {name}: no {split} split; it has train, val and test")
        num_images = int(number) if split == "train" else int(number) // 4
        return cls(num_images, _SPLIT_SEED[split])

    def __len__(self) -> int:
        return self._num_images

    def image_id(self, index: int) -> int:
        """The index, from 1."""
        return index + 1

    def image(self, index: int) -> np.ndarray:
        """The drawing."""
        return _draw(self._split_seed, index)[0]

    def scaled(self, index: int, size: int) -> Scaled:
        """The drawing, its long side cut to at most `size`."""
        image = self.image(index)
        height, width = image.shape[:2]
        return scaled(width, height, size, lambda: image)

    def fingerprint(self) -> bytes:
        """What is drawn depends on these alone."""
        return repr(("shapes", self._num_images, self._split_seed)).encode()

    def annotations(self, index: int, width: int, height: int) -> Annotations:
        """The figures of the drawing that can still be seen."""
        _, boxes, labels = _draw(self._split_seed, index)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        return Annotations(boxes, labels, areas, np.zeros(len(boxes), dtype=bool))


# An image and its annotations are asked for one after the other, and a mosaic asks for each image
# about four times an epoch. 1024 drawings are 240 MB.
@lru_cache(maxsize=1024)
def _draw(split_seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, boxes and labels, all read-only."""
    rng = np.random.Generator(np.random.Philox(key=[split_seed, index]))
    width, height = _SIDES[rng.integers(len(_SIDES))]
    image = _background(rng, width, height)
    # Which figure owns a pixel: 0 nobody, i + 1 the i-th.
    owner = np.zeros((height, width), dtype=np.uint8)
    boxes, labels, drawn = [], [], []
    for i in range(rng.integers(0, 9)):
        label = int(rng.integers(len(NAMES)))
        polygon = _figure(rng, NAMES[label], width, height)
        left, top, right, bottom = _hull(polygon, width, height)
        region = (slice(top, bottom), slice(left, right))
        mask = np.zeros((bottom - top, right - left), dtype=np.uint8)
        cv2.fillPoly(mask, [outline - (left, top) for outline in polygon], 1)
        _paint(rng, image[region], mask)
        owner[region][mask > 0] = i + 1
        drawn.append(max(1, np.count_nonzero(mask)))
        boxes.append((left, top, right, bottom))
        labels.append(label)
    visible = np.bincount(owner.ravel(), minlength=len(drawn) + 1)[1:]
    keep = visible >= _LEAST_VISIBLE * np.array(drawn, dtype=np.float64)
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)[keep]
    labels = np.array(labels, dtype=np.int64)[keep]
    for array in (image, boxes, labels):
        array.flags.writeable = False
    return image, boxes, labels


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Noise of two grains over a gradient, with lines and specks that are no figures."""
    coarse = rng.integers(40, 216, size=(int(rng.integers(2, 9)), int(rng.integers(2, 9)), 3))
    image = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, rng.uniform(4, 16), size=(64, 64)).astype(np.float32)
    repeats = (-(-height // 64), -(-width // 64))
    image += np.tile(grain, repeats)[:height, :width, None]
    image = image.clip(0, 255).astype(np.uint8)
    for _ in range(rng.integers(0, 12)):
        start, end = rng.integers(0, (width, height), size=(2, 2)).tolist()
        cv2.line(image, start, end, rng.integers(0, 256, 3).tolist(), int(rng.integers(1, 3)))
    for _ in range(rng.integers(0, 20)):
        centre = rng.integers(0, (width, height)).tolist()
        cv2.circle(image, centre, int(rng.integers(1, 4)), rng.integers(0, 256, 3).tolist(), -1)
    return image


def _paint(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> None:
    """Fills the mask with a colour that differs from what lies there, slightly striped."""
    below = np.array(cv2.mean(image, mask)[:3])
    colour = below
    while np.abs(colour - below).max() < 50:
        colour = rng.integers(0, 256, 3).astype(np.float64)
    stripes = rng.normal(0, 8, size=(image.shape[0], 1, 1))
    painted = (colour + stripes).clip(0, 255).astype(np.uint8)
    np.copyto(image, np.broadcast_to(painted, image.shape), where=mask[..., None] > 0)


def _hull(polygon: list[np.ndarray], width: int, height: int) -> tuple[int, int, int, int]:
    """The upright box around the outline, cut to the image; its centre lies inside, so it is never
    empty."""
    points = polygon[0].reshape(-1, 2)
    left, top = np.maximum(points.min(0), 0).tolist()
    right, bottom = np.minimum(points.max(0) + 1, (width, height)).tolist()
    return left, top, right, bottom


def _figure(rng: np.random.Generator, name: str, width: int, height: int) -> list[np.ndarray]:
    """The outline as polygons (P, 1, 2) int32 for cv2.fillPoly, which takes a second polygon as a
    hole."""
    radius = math.exp(rng.uniform(math.log(7), math.log(65)))
    stretch = np.array((1.0, rng.uniform(0.7, 1.0))) * radius
    turn = rng.uniform(0, 2 * math.pi)
    rotation = np.array(((math.cos(turn), -math.sin(turn)), (math.sin(turn), math.cos(turn))))
    margin = 0.6 * radius
    centre = rng.uniform((margin, margin), (width - margin, height - margin))
    return [
        np.rint((outline * stretch) @ rotation.T + centre).astype(np.int32).reshape(-1, 1, 2)
        for outline in _OUTLINES[name]
    ]


def _polygon(radii: list[float]) -> np.ndarray:
    angles = 2 * math.pi * np.arange(len(radii)) / len(radii)
    return np.stack((np.cos(angles), np.sin(angles)), axis=1) * np.array(radii)[:, None]


_CROSS = np.array(
    (
        (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1),
        (-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1),
    )
) / math.hypot(1, 3)  # fmt: skip

# Outlines in the unit circle.
_OUTLINES = {
    "disc": [_polygon([1.0] * 40)],
    "square": [_polygon([1.0] * 4)],
    "triangle": [_polygon([1.0] * 3)],
    "cross": [_CROSS],
    "star": [_polygon([1.0, 0.42] * 5)],
    "ring": [_polygon([1.0] * 40), _polygon([0.55] * 40)],
}
