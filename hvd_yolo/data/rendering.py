"""From source images and the matrices that place them to a picture and its boxes.

Geometry is composed before a pixel is touched: every source image becomes a Layer with one 3x3
matrix from its pixels to the output's, and is drawn once, straight onto the output. Without
rotation, shear and perspective, as by default, drawing is resizing a rectangle of whole pixels,
which costs a third of a warp; the boxes follow the rounded rectangle exactly.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from hvd_yolo.data.dataset import Sample
from hvd_yolo.letterbox import clip_boxes, letterbox

# The grey of padding, as in all YOLO trainers.
PADDING = 114

# A box is kept if it is still this many pixels wide and high, and shows this share of its warped
# area (YOLOv5's values).
_LEAST_SIDE, _LEAST_SHARE = 2.0, 0.1

# Under perspective, what lies nearer to the eye than this share of the picture plane is left out.
_LEAST_DEPTH = 0.1


class Layer(NamedTuple):
    """A source image and where it goes: `matrix` (3, 3) takes its pixels (x, y, 1) to the
    canvas."""

    sample: Sample
    matrix: np.ndarray


class Picture(NamedTuple):
    """A finished input: image (H, W, 3) uint8 BGR, boxes (N, 4) float64 xyxy pixels, labels (N)."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def letterbox_layer(sample: Sample, width: int, height: int) -> Layer:
    """The image as large as fits, centred on a width x height canvas."""
    box = letterbox(sample.width, sample.height, width, height)
    return Layer(sample, scale_and_shift(box.scale_x, box.scale_y, box.left, box.top))


def render(layers: list[Layer], transform: np.ndarray, width: int, height: int) -> Picture:
    """The width x height picture of all layers under `transform`, with the boxes that can still be
    seen in it.

    Decodes what is seen, and nothing else; raises UnreadableImage.
    """
    if not transform[[0, 1, 2, 2], [1, 0, 0, 1]].any():
        return _render_upright(layers, transform, width, height)
    image = np.full((height, width, 3), PADDING, dtype=np.uint8)
    boxes, labels = [np.zeros((0, 4))], [np.zeros(0, dtype=np.int64)]
    for sample, matrix in layers:
        full = transform @ matrix
        if not _warp(sample, full, image):
            continue
        warped, is_visible = warp_boxes(sample.boxes, full, width, height)
        boxes.append(warped[is_visible])
        labels.append(sample.labels[is_visible])
    return Picture(image, np.concatenate(boxes), np.concatenate(labels))


def warp_boxes(
    boxes: np.ndarray, matrix: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """The upright boxes (N, 4) around the warped corners, clipped to width x height, and which (N)
    are worth keeping.

    A box is dropped when less than 2 pixels or less than a tenth of its warped area are left
    inside.
    """
    warped, is_in_front = _corners_hull(boxes, matrix)
    clipped, is_visible = _clipped(warped, width, height)
    return clipped, is_visible & is_in_front


def scale_and_shift(scale_x: float, scale_y: float, x: float, y: float) -> np.ndarray:
    """The matrix (3, 3) that scales and then shifts."""
    return np.array(((scale_x, 0.0, x), (0.0, scale_y, y), (0.0, 0.0, 1.0)))


def _corners_hull(boxes: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The upright boxes (N, 4) around the four corners after `matrix`, and which (N) to believe.

    A strong perspective puts far corners behind the eye, where the division turns them round.
    """
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    homogeneous = np.concatenate((corners, np.ones((len(boxes), 4, 1))), axis=2) @ matrix.T
    depth = homogeneous[..., 2:]
    points = homogeneous[..., :2] / np.where(np.abs(depth) < _LEAST_DEPTH, _LEAST_DEPTH, depth)
    hull = np.concatenate((points.min(1), points.max(1)), axis=1)
    return hull, (depth > _LEAST_DEPTH).all((1, 2))


def _clipped(boxes: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """The boxes (N, 4) cut to width x height, and which (N) are worth keeping."""
    clipped = clip_boxes(boxes, width, height)
    full_area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    sides = clipped[:, 2:] - clipped[:, :2]
    return clipped, (sides > _LEAST_SIDE).all(1) & (sides.prod(1) > _LEAST_SHARE * full_area)


class _Span(NamedTuple):
    """Along one axis: pixels first to last of a source go to pixels start to end of the output."""

    first: int
    last: int
    start: int
    end: int

    @property
    def scale(self) -> float:
        """Output pixels a source pixel."""
        return (self.end - self.start) / (self.last - self.first)

    @property
    def shift(self) -> float:
        """Where source pixel 0 would go."""
        return self.start - self.scale * self.first


def _span(scale: float, shift: float, length: int, extent: int) -> _Span | None:
    """The part of a source of `length` pixels that is seen in an output of `extent`, in whole
    pixels: it may reach over the output's edge by a source pixel. None if nothing is seen."""
    first = max(0, math.floor(-shift / scale))
    last = min(length, math.ceil((extent - shift) / scale))
    start, end = round(shift + scale * first), round(shift + scale * last)
    return _Span(first, last, start, end) if first < last and start < end else None


def _render_upright(layers: list[Layer], transform: np.ndarray, width: int, height: int) -> Picture:
    """As render(), for a transform of scale, shift and flips. What is flipped is drawn unflipped
    first."""
    (zoom_x, _, shift_x), (_, zoom_y, shift_y), _ = transform.tolist()
    flip_x, flip_y = zoom_x < 0, zoom_y < 0
    if flip_x:
        zoom_x, shift_x = -zoom_x, width - shift_x
    if flip_y:
        zoom_y, shift_y = -zoom_y, height - shift_y
    tiles: list[tuple[Sample, _Span, _Span]] = []
    for sample, matrix in layers:
        (scale_x, _, left), (_, scale_y, top), _ = matrix.tolist()
        x = _span(zoom_x * scale_x, zoom_x * left + shift_x, sample.width, width)
        y = _span(zoom_y * scale_y, zoom_y * top + shift_y, sample.height, height)
        if x and y:
            tiles.append((sample, x, y))
    image = _draw(tiles, width, height)
    if flip_x or flip_y:
        image = cv2.flip(image, -1 if flip_x and flip_y else int(flip_x))

    counts = [len(sample.boxes) for sample, _, _ in tiles]
    if sum(counts) == 0:
        return Picture(image, np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
    scales = np.repeat([(x.scale, y.scale) * 2 for _, x, y in tiles], counts, axis=0)
    shifts = np.repeat([(x.shift, y.shift) * 2 for _, x, y in tiles], counts, axis=0)
    boxes = np.concatenate([sample.boxes for sample, _, _ in tiles]) * scales + shifts
    if flip_x:
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    if flip_y:
        boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
    labels = np.concatenate([sample.labels for sample, _, _ in tiles])
    clipped, is_visible = _clipped(boxes, width, height)
    return Picture(image, clipped[is_visible], labels[is_visible])


def _draw(tiles: list[tuple[Sample, _Span, _Span]], width: int, height: int) -> np.ndarray:
    """(height, width, 3): each tile's rectangle resized to its place; the canvas has a margin for
    what reaches over the edges."""
    over = [(-s.start, s.end - e) for _, x, y in tiles for s, e in ((x, width), (y, height))]
    margin = max((0, *(pixels for pair in over for pixels in pair)))
    shape = (height + 2 * margin, width + 2 * margin, 3)
    canvas = np.full(shape, PADDING, dtype=np.uint8)
    for sample, x, y in tiles:
        source = sample.image[y.first : y.last, x.first : x.last]
        place = canvas[
            margin + y.start : margin + y.end, margin + x.start : margin + x.end
        ]  # fmt: skip
        cv2.resize(source, place.shape[1::-1], dst=place, interpolation=cv2.INTER_LINEAR)
    return canvas[margin : margin + height, margin : margin + width]


def _warp(sample: Sample, matrix: np.ndarray, canvas: np.ndarray) -> bool:
    """Warps the image onto the canvas in place, touching only the rectangle it covers.

    False when nothing was drawn: it lies outside, or reaches behind the eye of a strong
    perspective.
    """
    corners = np.array(((0.0, 0.0, sample.width, sample.height),))
    hull, is_in_front = _corners_hull(corners, matrix)
    if not is_in_front[0]:
        return False
    left, top = (max(0, math.floor(v)) for v in hull[0, :2])
    right, bottom = min(canvas.shape[1], math.ceil(hull[0, 2])), math.ceil(hull[0, 3])
    bottom = min(canvas.shape[0], bottom)
    if right <= left or bottom <= top:
        return False
    # cv2 samples at pixel centres: pixel i covers i - 0.5 to i + 0.5 there, and i to i + 1 in box
    # coordinates.
    to_region = (
        scale_and_shift(1, 1, -left - 0.5, -top - 0.5) @ matrix @ scale_and_shift(1, 1, 0.5, 0.5)
    )
    region = canvas[top:bottom, left:right]
    shape = (right - left, bottom - top)
    options = {"dst": region, "flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_TRANSPARENT}
    if np.allclose(to_region[2], (0, 0, 1), atol=1e-12):
        cv2.warpAffine(sample.image, to_region[:2], shape, **options)
    else:
        cv2.warpPerspective(sample.image, to_region, shape, **options)
    return True
