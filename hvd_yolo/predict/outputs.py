"""The annotated picture and the YOLO text of one image, and the entries of detections.json."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hvd_yolo.data.drawing import draw_boxes
from hvd_yolo.errors import InputError
from hvd_yolo.predict.output_names import OutputNames


def draw(image: np.ndarray, rows: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """A copy of a picture (H, W, 3) BGR with its detections (D, 7), the surest on top."""
    picture = image.copy()
    rows = rows[np.argsort(rows[:, 5], kind="stable")]
    scores, labels = rows[:, 5], rows[:, 6].astype(int)
    texts = [f"{names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    draw_boxes(picture, rows[:, 1:5], labels, texts, max(1, round(max(image.shape[:2]) / 320)))
    return picture


def write_outputs(
    folder: Path, output: OutputNames, picture: np.ndarray, rows: np.ndarray, rank: int
) -> None:
    """Writes an annotated picture (H, W, 3) BGR below images/ and its detections (D, 7) below
    labels/; raises InputError."""
    target = folder / "images" / output.image
    try:
        is_encoded, encoded = cv2.imencode(target.suffix.lower(), picture)
    except cv2.error:
        is_encoded = False
    if not is_encoded:
        height, width = picture.shape[:2]
        raise InputError(
            f"{target}: {width} x {height} pixels cannot be written as {target.suffix}; convert "
            "the picture to .png",
            rank=rank,
        )
    text = _yolo_text(rows, picture.shape[1], picture.shape[0])
    _write(target, encoded.tobytes(), rank)
    _write(folder / "labels" / output.label, text.encode(), rank)


def _write(file: Path, content: bytes, rank: int) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}", rank=rank) from error


def entry_of(output: OutputNames, name: str, frame: int) -> dict[str, Any]:
    """What a result says of its image beside the id: its path below the root of the source as
    file_name, for a frame that of the annotated picture, with `video` and `frame`, from 1."""
    if not frame:
        return {"file_name": name}
    return {"file_name": output.image, "video": name, "frame": frame}


def _yolo_text(rows: np.ndarray, width: int, height: int) -> str:
    """`class x y w h score` a line, as shares of the sides."""
    lines = []
    for _, left, top, right, bottom, score, label in rows.tolist():
        numbers = (
            (left + right) / 2 / width, (top + bottom) / 2 / height,
            (right - left) / width, (bottom - top) / height, score,
        )  # fmt: skip
        lines.append(f"{int(label)} " + " ".join(f"{number:.6f}" for number in numbers) + "\n")
    return "".join(lines)
