"""Contact sheets: thumbnails of images with their labels."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from hvd_yolo.data.dataset import WHOLE, Dataset, UnreadableImage, truth_of
from hvd_yolo.data.drawing import draw_boxes, draw_text, text_size
from hvd_yolo.data.survey import image_name
from hvd_yolo.errors import InputError
from hvd_yolo.letterbox import letterbox

_PAPER, _INK = 255, 0
_CAPTION_HEIGHT, _GAP, _FONT_SCALE = 18, 8, 0.4


def save_sheet(file: Path, dataset: Dataset, indices: Sequence[int], size: int) -> None:
    """Writes the contact sheet of some images; raises InputError when it cannot."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        encoded = cv2.imencode(".png", contact_sheet(dataset, indices, size))[1]
        file.write_bytes(encoded.tobytes())
    except OSError as error:
        raise InputError(f"output {file} cannot be written: {error}") from error


def contact_sheet(dataset: Dataset, indices: Sequence[int], size: int) -> np.ndarray:
    """Some images (H, W, 3) uint8 BGR in a square of rows, each at most `size` pixels wide and
    high, with its labels drawn and a caption below it."""
    cells = [_cell(dataset, index, size) for index in indices]
    columns = math.ceil(math.sqrt(len(cells)))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(map(len, row)) + _GAP for row in rows]
    sheet = np.full((sum(heights), columns * (size + _GAP), 3), _PAPER, dtype=np.uint8)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            left = column * (size + _GAP)
            sheet[top : top + len(cell), left : left + size] = cell
        top += height
    return sheet


def _cell(dataset: Dataset, index: int, size: int) -> np.ndarray:
    """One thumbnail with its labels (H, size, 3), its name and number of objects below it."""
    name = Path(image_name(dataset, index)).name
    try:
        found = dataset.scaled(index, WHOLE)
        image = found.pixels()
    except UnreadableImage:
        return _caption(f"{name}: cannot be read", size)
    truth = truth_of(dataset, index, found)
    place = letterbox(found.width, found.height, size, size)
    thumbnail = cv2.resize(image, (place.width, place.height), interpolation=cv2.INTER_AREA)
    # Small objects lie on top of large ones.
    order = np.argsort(-truth.areas, kind="stable")
    boxes = truth.boxes[order] * ((place.scale_x, place.scale_y) * 2)
    labels, is_crowd = truth.labels[order], truth.is_crowd[order]
    texts = [
        f"{dataset.names[label]} (crowd)" if crowd else dataset.names[label]
        for label, crowd in zip(labels, is_crowd, strict=True)
    ]
    draw_boxes(thumbnail, boxes, labels, texts, 1)
    cell = np.full((place.height, size, 3), _PAPER, dtype=np.uint8)
    cell[:, : place.width] = thumbnail
    return np.concatenate((cell, _caption(f"{name}: {len(texts)} objects", size)))


def _caption(text: str, size: int) -> np.ndarray:
    """The text on a strip; of one that is too long, the end."""
    strip = np.full((_CAPTION_HEIGHT, size, 3), _PAPER, dtype=np.uint8)
    while len(text) > 1 and text_size(text, _FONT_SCALE)[0] > size:
        text = text[1:]
    draw_text(strip, text, (0, _CAPTION_HEIGHT - 5), _FONT_SCALE, (_INK,) * 3)
    return strip
