"""YOLO text labels in the folders that an Ultralytics data.yaml describes.

data.yaml: `path` (relative to the file), `train`, `val`, `test` (a folder, a .txt list of images,
or a list of these) and `names` (a list, or a map from number to name). An image under
.../images/... has its labels under .../labels/... in a .txt of the same stem: a line an object,
`class cx cy w h` as shares of the image, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon. An image
without such a file is background.

The YAML is the user's own word: its folders and lists may lie anywhere, and so may the absolute
paths of a list. The relative ones stay inside the data set.
"""

import logging
import math
import os
import reprlib
from datetime import date
from pathlib import Path
from typing import Any

from hvd_yolo.data.category_ids import category_ids_of
from hvd_yolo.data.image_files import AnnotationRows, ImageFiles
from hvd_yolo.data.image_folders import list_images
from hvd_yolo.data.text_files import inside, is_inside, read_text
from hvd_yolo.errors import InputError, MissingSplit

logger = logging.getLogger(__name__)

# Ids travel as float64, with the boxes.
_LARGEST_ID = 1 << 53
# Of a file name that is a number: int() raises an error beyond 4300.
_MOST_DIGITS = 20


def open_split(file: Path, content: dict[str, Any], split: str) -> ImageFiles:
    """The split that the YAML `file`, read as `content`, names; raises InputError for what it
    cannot use."""
    names = class_names(file, content)
    images = sorted(_images(file, content, split))
    ids = image_ids(images)
    rows = AnnotationRows(f"{file} {split}")
    unlabelled = []
    for image, image_id in zip(images, ids, strict=True):
        rows.start_image(image, image_id)
        labels = _label_file(image)
        if os.path.isfile(labels):
            add_labels(read_text(labels), str(labels), len(names), rows)
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
    return rows.finish(names, category_ids_of(names), is_normalized=True)


def class_names(file: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """The classes a data.yaml names, in the order of their numbers."""
    names = content.get("names")
    if isinstance(names, dict):
        if names.keys() != set(range(len(names))):
            raise InputError(
                f"data {file}: names must be numbered 0 to {len(names) - 1} without gaps"
            )
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(f"data {file}: names is missing; expected a list of class names")
    if "nc" in content and content["nc"] != len(names):
        raise InputError(
            f"data {file}: nc is {reprlib.repr(content['nc'])}, but names has {len(names)} classes"
        )
    return tuple(_text(file, f"names[{number}]", name) for number, name in enumerate(names))


def root_folder(file: Path, content: dict[str, Any]) -> Path:
    """The folder that `path` of a data.yaml names, by itself or from where the file lies."""
    return file.parent / _text(file, "path", content.get("path") or ".")


def split_sources(file: Path, content: dict[str, Any], split: str, expected: str) -> list[str]:
    """What a data.yaml names under `split:`, a text or a list of these; raises MissingSplit, with
    what is expected there."""
    sources = content.get(split)
    if not sources:
        raise MissingSplit(f"data {file}: no {split} split; expected {expected} under `{split}:`")
    entries = sources if isinstance(sources, list) else [sources]
    return [_text(file, split, entry) for entry in entries]


def _text(file: Path, key: str, value: object) -> str:
    """A value of a data.yaml; numbers and dates are names too.

    Nothing else is: a few hundred bytes of aliases can stand for a list whose text fills the
    memory.
    """
    if not isinstance(value, str | int | float | date):
        raise InputError(f"data {file}: {key} is a {type(value).__name__}, expected a text")
    return str(value)


def _images(file: Path, content: dict[str, Any], split: str) -> list[Path]:
    root = root_folder(file, content)
    images: list[Path] = []
    for source in split_sources(file, content, split, "a folder or a list of images"):
        location = root / source
        if not os.path.exists(location) and source.startswith("../"):
            # Roboflow writes ../train/images into a data.yaml that lies beside train/.
            location = root / source.removeprefix("../")
        if os.path.isdir(location):
            images += list_images(location).images
        elif os.path.isfile(location):
            images += _listed(location, root)
        else:
            raise InputError(f"data {file}: {split} is {source}, but {location} does not exist")
    return images


def _listed(file: Path, root: Path) -> list[Path]:
    """The images of a list: a path a line, absolute or from where the list lies."""
    folder = root if is_inside(root, file) else file.parent
    images = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if name := line.strip():
            limit = Path("/") if os.path.isabs(name) else folder
            images.append(inside(limit, file.parent / name, f"{file}:{number}"))
    return images


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def image_ids(images: list[Path]) -> list[int]:
    """COCO's file names are its image ids, and results must use them; other names are numbered from
    1."""
    stems = [image.stem for image in images]
    numbers = [
        int(stem)
        for stem in stems
        if stem.isascii() and stem.isdigit() and len(stem) <= _MOST_DIGITS
    ]
    fit = max(numbers, default=0) < _LARGEST_ID
    if fit and len(numbers) == len(stems) == len(set(numbers)):
        return numbers
    return list(range(1, len(images) + 1))


def add_labels(text: str, source: str, num_classes: int, rows: AnnotationRows) -> None:
    """Adds the objects of a label file, `source`, to the image that was started last."""
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        where = f"{source}:{number}"
        try:
            label, *numbers = (_finite(field) for field in fields)
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


def _finite(field: str) -> float:
    number = float(field)
    if not math.isfinite(number):
        raise ValueError(f"{field} is not a finite number")
    return number
