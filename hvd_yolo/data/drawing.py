"""Boxes with their names, drawn into a picture, in the script of the names."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from hvd_yolo.data import fonts

# Colours of the classes, BGR, in turn.
_COLOURS = (
    (56, 56, 255), (49, 210, 207), (10, 249, 72), (255, 115, 100), (236, 24, 0), (255, 56, 132),
    (133, 0, 82), (255, 56, 203), (200, 149, 255), (199, 55, 255),
)  # fmt: skip

# How bright blue, green and red look (ITU-R BT.601).
_LUMA = (0.114, 0.587, 0.299)


# Pixels of a font for OpenCV's scale 1, at which its capitals are 21 pixels high.
_FONT_SIZE = 29


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
    text_width, text_height = text_size(text, scale)
    # Above the box, or inside where there is no room; never over the right edge.
    base = top - 3 if top > text_height + 6 else top + text_height + 4
    left = max(0, min(left, picture.shape[1] - text_width - 4))
    corner = (left + text_width + 3, base - text_height - 3)
    cv2.rectangle(picture, (left, base + 3), corner, colour, cv2.FILLED)
    ink = (255, 255, 255) if np.dot(colour, _LUMA) < 128 else (0, 0, 0)
    draw_text(picture, text, (left + 2, base), scale, ink)


def text_size(text: str, scale: float) -> tuple[int, int]:
    """Return the width of a text, and its height above the base line, in pixels."""
    if _is_for_opencv(text):
        return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0]
    mask, ascent = _mask(text, scale)
    return mask.shape[1], ascent


def draw_text(
    picture: np.ndarray, text: str, place: tuple[int, int], scale: float, ink: Sequence[int]
) -> None:
    """Draw a text into a picture (H, W, 3) BGR; place: where its base line begins.

    OpenCV draws ASCII; another text is drawn with a font that has its characters. Those that no
    font has are logged once.
    """
    if _is_for_opencv(text):
        fonts.tell_missing("" if _opencv_has(text) else text)
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
        return
    mask, ascent = _mask(text, scale)
    left, top = place[0], place[1] - ascent
    inside_left, inside_top = max(0, -left), max(0, -top)
    mask = mask[inside_top : picture.shape[0] - top, inside_left : picture.shape[1] - left]
    left, top = left + inside_left, top + inside_top
    patch = picture[top : top + mask.shape[0], left : left + mask.shape[1]]
    share = mask[..., None] / 255
    patch[:] = (patch * (1 - share) + np.array(ink) * share).round()


def _is_for_opencv(text: str) -> bool:
    """Whether OpenCV draws it: ASCII, and what no font file has the characters for."""
    return text.isascii() or any(file is None for file, _ in fonts.fonts_for(text))


def _opencv_has(text: str) -> bool:
    """Whether OpenCV draws each character as such: from version 5 on it has a font of its own for
    many scripts."""
    return text.isascii() or (hasattr(cv2, "FontFace") and all(map(_opencv_draws, text)))


def _opencv_draws(char: str) -> bool:
    cells = np.zeros((2, 60, 60), np.uint8)
    for cell, drawn in zip(cells, (char, fonts.NOWHERE), strict=True):
        cv2.putText(cell, drawn, (5, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255)
    return bool((cells[0] != cells[1]).any())


def _mask(text: str, scale: float) -> tuple[np.ndarray, int]:
    """How much ink (H, W) uint8 a text takes, and its height above the base line."""
    size = max(9, round(scale * _FONT_SIZE))
    parts = [(fonts.opened(file, size), part) for file, part in fonts.fonts_for(text)]
    widths = [round(font.getlength(part)) for font, part in parts]
    edges = [font.getbbox(part, anchor="ls") for font, part in parts]
    ascent = max(1, -min(round(top) for _, top, _, _ in edges))
    height = ascent + max(1, *(round(bottom) for _, _, _, bottom in edges))
    image = Image.new("L", (max(1, sum(widths)) + 1, height))
    left = 0
    for (font, part), width in zip(parts, widths, strict=True):
        ImageDraw.Draw(image).text((left, ascent), part, fill=255, font=font, anchor="ls")
        left += width
    return np.asarray(image), ascent
