"""What is drawn at random for a training image: its geometry, a crop and its colours."""

import math

import cv2
import numpy as np

from hvd_yolo.config import AugmentConfig
from hvd_yolo.data.dataset import Sample
from hvd_yolo.data.rendering import scale_and_shift, warp_boxes

_SAME = np.eye(3)

# The cross product with (1, 1, 1).
_ACROSS = np.array(((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0)))

# The share of red, green and blue in brightness, ITU-R BT.601.
_LUMA = np.array((0.299, 0.587, 0.114))


def affine(
    rng: np.random.Generator,
    config: AugmentConfig,
    canvas: tuple[int, int],
    output: tuple[int, int],
) -> np.ndarray:
    """A random matrix (3, 3) from a canvas to the output, each (width, height), centre to centre.

    In the order centre, perspective, rotation and zoom, shear, shift, each drawn from its range in
    `config`; flips come last.
    """
    # One call for all: a call costs more than a number.
    drawn = rng.uniform(-1, 1, 8).tolist()
    far_x, far_y, angle, zoom, shear_x, shear_y, shift_x, shift_y = drawn
    flip_x, flip_y = rng.random() < config.fliplr, rng.random() < config.flipud
    matrix = scale_and_shift(1, 1, -canvas[0] / 2, -canvas[1] / 2)
    if config.perspective:
        far = np.eye(3)
        far[2, :2] = far_x * config.perspective, far_y * config.perspective
        matrix = far @ matrix
    angle, zoom = math.radians(angle * config.degrees), 1 + zoom * config.scale
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    matrix = np.array(((cos, sin, 0.0), (-sin, cos, 0.0), (0.0, 0.0, 1.0))) @ matrix
    if config.shear:
        shear_x, shear_y = (math.tan(math.radians(s * config.shear)) for s in (shear_x, shear_y))
        matrix = np.array(((1.0, shear_x, 0.0), (shear_y, 1.0, 0.0), (0.0, 0.0, 1.0))) @ matrix
    shift_x = (0.5 + shift_x * config.translate) * output[0]
    shift_y = (0.5 + shift_y * config.translate) * output[1]
    shift = scale_and_shift(
        -1 if flip_x else 1, -1 if flip_y else 1,
        output[0] - shift_x if flip_x else shift_x, output[1] - shift_y if flip_y else shift_y,
    )  # fmt: skip
    return shift @ matrix


def random_crop(rng: np.random.Generator, sample: Sample) -> Sample:
    """A rectangle of the image with half to all of each side; boxes with a tenth of their area
    inside are kept."""
    width, height = sample.width, sample.height
    share_w, share_h = rng.uniform(0.5, 1.0, 2)
    new_width, new_height = max(1, round(width * share_w)), max(1, round(height * share_h))
    left = int(rng.integers(width - new_width + 1))
    top = int(rng.integers(height - new_height + 1))
    shift = scale_and_shift(1, 1, -left, -top)
    boxes, is_visible = warp_boxes(sample.boxes, shift, new_width, new_height)
    return Sample(
        new_width, new_height, boxes[is_visible], sample.labels[is_visible], sample.image_id,
        lambda: sample.image[top : top + new_height, left : left + new_width],
    )  # fmt: skip


def recolour(
    rng: np.random.Generator, config: AugmentConfig, image: np.ndarray, out: np.ndarray
) -> None:
    """Writes a BGR image (H, W, 3) as RGB into `out`, its hue turned and its saturation and value
    scaled, as drawn from `config`.

    As one 3x3 matrix of colours (Haeberli 1993, Matrix Operations for Image Processing): hue is a
    turn about the grey axis, saturation a distance from the pixel's brightness. Going through HSV
    and back costs eight times as much.
    """
    turn, saturation, value = rng.uniform(-1, 1, 3).tolist()
    if config.hsv_h == config.hsv_s == config.hsv_v == 0:
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out)
        return
    turn *= 2 * math.pi * config.hsv_h
    saturation, value = 1 + saturation * config.hsv_s, 1 + value * config.hsv_v
    # Rodrigues' formula about the grey axis, (1, 1, 1) / sqrt(3).
    cos, sin = math.cos(turn), math.sin(turn) / math.sqrt(3)
    hue = cos * _SAME + ((1 - cos) / 3 + sin * _ACROSS)
    matrix = value * (saturation * hue + (1 - saturation) * (_LUMA @ hue))
    # Its columns are red, green, blue; OpenCV holds a source as blue, green, red.
    cv2.transform(image, matrix[:, ::-1].astype(np.float32), dst=out)
