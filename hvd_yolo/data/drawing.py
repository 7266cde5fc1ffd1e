"""Boxes with their names, drawn into a picture."""

from collections.abc import Sequence

import cv2
import numpy as np

# Colours of the classes, BGR, in turn.
_COLOURS = (
    (56, 56, 255), (49, 210, 207), (10, 249, 72), (255, 115, 100), (236, 24, 0), (255, 56, 132),
    (133, 0, 82), (255, 56, 203), (200, 149, 255), (199, 55, 255),
)  # fmt: skip

# How bright blue, green and red look (ITU-R BT.601).
_LUMA = (0.114, 0.587, 0.299)


def class_colour(label: int) -> tuple[int, int, int]:
    """The colour (BGR) of a class."""
    return _COLOURS[int(label) % len(_COLOURS)]


def draw_boxes(
    picture: np.ndarray, boxes: np.ndarray, labels: np.ndarray, texts: Sequence[str], width: int
) -> None:
    """Draws boxes (N, 4) with lines of `width` pixels into a picture (H, W, 3) BGR, the last on
    top; a text goes with each, in the colour of its label."""
    for box, label, text in zip(boxes.tolist(), labels.tolist(), texts, strict=True):
        draw_box(picture, box, text, class_colour(label), width)


def draw_box(
    picture: np.ndarray, box: Sequence[float], text: str, colour: tuple[int, int, int], width: int
) -> None:
    """Draws one box xyxy with lines of `width` pixels, and its text, if it has any."""
    left, top, right, bottom = (round(side) for side in box)
    cv2.rectangle(picture, (left, top), (right, bottom), colour, width, cv2.LINE_AA)
    if not text:
        return
    scale = 0.35 + 0.1 * width
    (text_width, text_height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    # Above the box, or inside where there is no room; never over the right edge.
    base = top - 3 if top > text_height + 6 else top + text_height + 4
    left = max(0, min(left, picture.shape[1] - text_width - 4))
    corner = (left + text_width + 3, base - text_height - 3)
    cv2.rectangle(picture, (left, base + 3), corner, colour, cv2.FILLED)
    ink = (255, 255, 255) if np.dot(colour, _LUMA) < 128 else (0, 0, 0)
    cv2.putText(
        picture, text, (left + 2, base), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA
    )
