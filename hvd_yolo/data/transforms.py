"""Geometry and colour of training images.

Geometry is composed before a pixel is touched: every source image becomes a Layer with one 3x3
matrix from its pixels to the output's, and is warped once, straight onto the output.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from hvd_yolo import boxes as box_ops
from hvd_yolo.config import AugmentConfig
from hvd_yolo.data.dataset import Sample

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
    """A finished input: image (S, S, 3) uint8 BGR, boxes (N, 4) float64 xyxy pixels, labels (N)."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def letterbox_layer(sample: Sample, size: int) -> Layer:
    """The image scaled to the long side `size` and centred on a size x size canvas."""
    height, width = sample.image.shape[:2]
    box = box_ops.letterbox(width, height, size)
    return Layer(sample, _scale_and_shift(box.scale_x, box.scale_y, box.left, box.top))


def affine(rng: np.random.Generator, config: AugmentConfig, canvas: int, size: int) -> np.ndarray:
    """A random matrix (3, 3) from a canvas x canvas plane to the size x size output, centre to
    centre.

    In the order centre, perspective, rotation and zoom, shear, shift, each drawn from its range in
    `config`; flips come last.
    """
    centre = _scale_and_shift(1, 1, -canvas / 2, -canvas / 2)
    perspective = np.eye(3)
    perspective[2, :2] = rng.uniform(-config.perspective, config.perspective, 2)
    angle = math.radians(rng.uniform(-config.degrees, config.degrees))
    zoom = rng.uniform(1 - config.scale, 1 + config.scale)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    rotation = np.array(((cos, sin, 0), (-sin, cos, 0), (0, 0, 1)))
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-config.shear, config.shear, 2)))
    shift_x, shift_y = rng.uniform(0.5 - config.translate, 0.5 + config.translate, 2) * size
    matrix = _scale_and_shift(1, 1, shift_x, shift_y) @ shear @ rotation @ perspective @ centre
    if rng.random() < config.fliplr:
        matrix = _scale_and_shift(-1, 1, size, 0) @ matrix
    if rng.random() < config.flipud:
        matrix = _scale_and_shift(1, -1, 0, size) @ matrix
    return matrix


def render(layers: list[Layer], transform: np.ndarray, size: int) -> Picture:
    """The size x size picture of all layers under `transform`, with the boxes that can still be
    seen in it."""
    image = np.full((size, size, 3), PADDING, dtype=np.uint8)
    boxes, labels = [np.zeros((0, 4))], [np.zeros(0, dtype=np.int64)]
    for sample, matrix in layers:
        full = transform @ matrix
        if not _draw(sample.image, full, image):
            continue
        warped, is_visible = warp_boxes(sample.boxes, full, size, size)
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
    clipped = box_ops.clip_boxes(warped, width, height)
    full_area = (warped[:, 2:] - warped[:, :2]).prod(1)
    sides = clipped[:, 2:] - clipped[:, :2]
    is_visible = (sides > _LEAST_SIDE).all(1) & (sides.prod(1) > _LEAST_SHARE * full_area)
    is_visible &= is_in_front
    return clipped, is_visible


def random_crop(rng: np.random.Generator, sample: Sample) -> Sample:
    """A rectangle of the image with half to all of each side; boxes with a tenth of their area
    inside are kept."""
    height, width = sample.image.shape[:2]
    share_w, share_h = rng.uniform(0.5, 1.0, 2)
    new_width, new_height = max(1, round(width * share_w)), max(1, round(height * share_h))
    left = int(rng.integers(width - new_width + 1))
    top = int(rng.integers(height - new_height + 1))
    shift = _scale_and_shift(1, 1, -left, -top)
    boxes, is_visible = warp_boxes(sample.boxes, shift, new_width, new_height)
    image = sample.image[top : top + new_height, left : left + new_width]
    return Sample(image, boxes[is_visible], sample.labels[is_visible], sample.image_id)


def hsv(rng: np.random.Generator, config: AugmentConfig, image: np.ndarray) -> np.ndarray:
    """The image with its hue shifted and its saturation and value scaled, by look-up tables."""
    shift = rng.uniform(-config.hsv_h, config.hsv_h)
    gain_s, gain_v = 1 + rng.uniform(-1, 1, 2) * (config.hsv_s, config.hsv_v)
    if config.hsv_h == config.hsv_s == config.hsv_v == 0:
        return image
    levels = np.arange(256, dtype=np.float64)
    # OpenCV holds hue as 0..179 in eight bits.
    table = np.stack(
        (
            (levels + 180 * shift) % 180,
            (levels * gain_s).clip(0, 255),
            (levels * gain_v).clip(0, 255),
        ),
        axis=1,
    ).astype(np.uint8)
    shifted = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table[None])
    return cv2.cvtColor(shifted, cv2.COLOR_HSV2BGR)


def _scale_and_shift(scale_x: float, scale_y: float, x: float, y: float) -> np.ndarray:
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


def _draw(image: np.ndarray, matrix: np.ndarray, canvas: np.ndarray) -> bool:
    """Warps the image onto the canvas in place, touching only the rectangle it covers.

    False when nothing was drawn: it lies outside, or reaches behind the eye of a strong
    perspective.
    """
    height, width = image.shape[:2]
    size = canvas.shape[0]
    hull, is_in_front = _corners_hull(np.array(((0.0, 0.0, width, height),)), matrix)
    if not is_in_front[0]:
        return False
    left, top = (max(0, math.floor(v)) for v in hull[0, :2])
    right, bottom = (min(size, math.ceil(v)) for v in hull[0, 2:])
    if right <= left or bottom <= top:
        return False
    # cv2 samples at pixel centres: pixel i covers i - 0.5 to i + 0.5 there, and i to i + 1 in box
    # coordinates.
    to_region = (
        _scale_and_shift(1, 1, -left - 0.5, -top - 0.5) @ matrix @ _scale_and_shift(1, 1, 0.5, 0.5)
    )
    region = canvas[top:bottom, left:right]
    shape = (right - left, bottom - top)
    options = {"dst": region, "flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_TRANSPARENT}
    if np.allclose(to_region[2], (0, 0, 1), atol=1e-12):
        cv2.warpAffine(image, to_region[:2], shape, **options)
    else:
        cv2.warpPerspective(image, to_region, shape, **options)
    return True
