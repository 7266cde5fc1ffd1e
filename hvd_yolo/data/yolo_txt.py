"""YOLO text labels in the folders that an Ultralytics data.yaml describes.

data.yaml: `path` (relative to the file), `train`, `val`, `test` (a folder, a .txt list of images,
or a list of these) and `names` (a list, or a map from number to name). An image under
.../images/... has its labels under .../labels/... in a .txt of the same stem: a line an object,
`class cx cy w h` as shares of the image, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon. An image
without such a file is background.
"""

import logging
import os
from pathlib import Path
from typing import Any

from hvd_yolo.data.dataset import AnnotationRows, ImageFiles
from hvd_yolo.errors import InputError

logger = logging.getLogger(__name__)

# Ids travel as float64, with the boxes.
_LARGEST_ID = 1 << 53

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def open_split(file: Path, content: dict[str, Any], split: str) -> ImageFiles:
    """The split that the YAML `file`, read as `content`, names; raises InputError for what it
    cannot use."""
    names = class_names(file, content)
    images = sorted(_images(file, content, split))
    ids = _image_ids(images)
    rows = AnnotationRows(f"{file} {split}")
    unlabelled = []
    for image, image_id in zip(images, ids, strict=True):
        rows.start_image(image, image_id)
        labels = _label_file(image)
        if labels.is_file():
            _read_labels(labels, len(names), rows)
        else:
            unlabelled.append(labels)
    if images and len(unlabelled) == len(images):
        raise InputError(
            f"data {file}: no image of the {split} split has a label file; the first that was "
            f"looked "
            f"for is {unlabelled[0]}"
        )
    if unlabelled:
        logger.info(
            "%s %s: %d of %d images have no label file and are background (the first: %s)",
            file, split, len(unlabelled), len(images), unlabelled[0],
        )  # fmt: skip
    return rows.finish(names, tuple(range(len(names))), is_normalized=True)


def class_names(file: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """The classes a data.yaml names, in the order of their numbers."""
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise InputError(
                f"data {file}: names must be numbered 0 to {len(names) - 1} without gaps"
            )
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(f"data {file}: names is missing; expected a list of class names")
    if "nc" in content and content["nc"] != len(names):
        raise InputError(f"data {file}: nc is {content['nc']}, but names has {len(names)} classes")
    return tuple(str(name) for name in names)


def _images(file: Path, content: dict[str, Any], split: str) -> list[Path]:
    sources = content.get(split)
    if not sources:
        raise InputError(
            f"data {file}: no {split} split; expected a folder or a list of images under `{split}:`"
        )
    root = file.parent / str(content.get("path") or ".")
    images: list[Path] = []
    for source in sources if isinstance(sources, list) else [sources]:
        location = root / source
        if not location.exists() and str(source).startswith("../"):
            # Roboflow writes ../train/images into a data.yaml that lies beside train/.
            location = root / str(source).removeprefix("../")
        if location.is_dir():
            walk = os.walk(location, followlinks=True)
            found = (Path(folder, name) for folder, _, names in walk for name in names)
            images += [image for image in found if image.suffix.lower() in IMAGE_SUFFIXES]
        elif location.is_file():
            lines = location.read_text(encoding="utf-8").splitlines()
            images += [location.parent / line.strip() for line in lines if line.strip()]
        else:
            raise InputError(f"data {file}: {split} is {source}, but {location} does not exist")
    return images


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _image_ids(images: list[Path]) -> list[int]:
    """COCO's file names are its image ids, and results must use them; other names are numbered from
    1."""
    stems = [image.stem for image in images]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdigit()]
    fit = max(numbers, default=0) < _LARGEST_ID
    if fit and len(numbers) == len(stems) == len(set(numbers)):
        return numbers
    return list(range(1, len(images) + 1))


def _read_labels(file: Path, num_classes: int, rows: AnnotationRows) -> None:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        where = f"{file}:{number}"
        try:
            label, *numbers = (float(field) for field in fields)
        except ValueError as error:
            raise InputError(f"{where}: {error}; expected `class cx cy w h`") from error
        if label != int(label) or not 0 <= label < num_classes:
            raise InputError(
                f"{where}: class {fields[0]} is out of range; names has {num_classes} classes, 0 "
                f"to {num_classes - 1}"
            )
        if len(numbers) == 4:
            cx, cy, w, h = numbers
            box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        elif len(numbers) >= 6 and len(numbers) % 2 == 0:
            xs, ys = numbers[::2], numbers[1::2]
            box = (min(xs), min(ys), max(xs), max(ys))
        else:
            raise InputError(
                f"{where}: {len(fields)} columns; expected `class cx cy w h` or a class and at "
                f"least three points"
            )
        rows.add_clipped(box, int(label), 1.0, 1.0, where)
