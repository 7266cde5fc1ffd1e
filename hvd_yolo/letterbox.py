"""Where an image goes on a canvas of another shape, in plain numbers and numpy: loader workers need
no torch for it."""

from typing import NamedTuple

import numpy as np


class Letterbox(NamedTuple):
    """How an image was scaled and padded: pixel (x, y) went to (x * scale_x + left, y * scale_y +
    top)."""

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: int
    top: int

    def undo(self, boxes: np.ndarray, width: int, height: int) -> np.ndarray:
        """Boxes (N, 4) of the padded image in pixels of the original (width x height), clipped to
        it."""
        boxes = (boxes - (self.left, self.top, self.left, self.top)) / (
            self.scale_x,
            self.scale_y,
            self.scale_x,
            self.scale_y,
        )
        return clip_boxes(boxes, width, height)

    def apply(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) of the original image in pixels of the padded one."""
        scale = (self.scale_x, self.scale_y, self.scale_x, self.scale_y)
        return boxes * scale + (self.left, self.top, self.left, self.top)


def letterbox(width: int, height: int, canvas_width: int, canvas_height: int) -> Letterbox:
    """Where a width x height image goes on a canvas: as large as fits, centred.

    `width` and `height` of the result are those of the scaled image, in whole pixels; the two
    scales differ by that rounding, so that boxes go back exactly.
    """
    scale = min(canvas_width / width, canvas_height / height)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    return Letterbox(
        new_width,
        new_height,
        new_width / width,
        new_height / height,
        (canvas_width - new_width) // 2,
        (canvas_height - new_height) // 2,
    )


def cut_to(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height of an image whose long side is cut to at most `size`; never enlarged."""
    if max(width, height) <= size:
        return width, height
    box = letterbox(width, height, size, size)
    return box.width, box.height


def clip_boxes(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes (N, 4) cut to the rectangle (0, 0, width, height)."""
    return boxes.clip(0, (width, height, width, height))
