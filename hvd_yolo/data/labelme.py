"""LabelMe: a JSON file per image, `imagePath` beside it, and a list of shapes in pixels.

A folder holds the images of one split; train/, val/ (or valid/) and test/ below FOLDER are splits,
a folder without them is one split, `all`. A rectangle, polygon, circle or mask becomes the box
around it; points and lines have no box and are left out, counted. LabelMe shows an image turned
upright as its EXIF says, so its coordinates are those of the displayed image.
"""

import json
import math
import os
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hvd_yolo.data.category_ids import category_ids_of
from hvd_yolo.data.image_files import AnnotationRows, ImageFiles
from hvd_yolo.data.image_folders import is_image_name, visible_files
from hvd_yolo.data.text_files import inside, read_text
from hvd_yolo.errors import InputError

Box = tuple[float, float, float, float]

_WITHOUT_BOX = ("point", "points", "line", "linestrip")


def is_labelme(folder: Path) -> bool:
    """Whether the first JSON file below the folder is one of LabelMe's."""
    file = next(_json_files(folder), None)
    return file is not None and '"shapes"' in read_text(file) and '"imagePath"' in read_text(file)


def read_folders(
    source: str, folders: Sequence[Path], all_folders: Sequence[Path], names: tuple[str, ...] | None
) -> ImageFiles:
    """The images of one split. names: the classes in their order; None: those found in
    `all_folders`, the folders of all splits, in alphabetical order. Raises InputError."""
    contents = {file: _content(file) for folder in folders for file in sorted(_json_files(folder))}
    if names is None:
        others = (file for folder in all_folders for file in _json_files(folder))
        labels = {
            str(shape.get("label"))
            for file in others
            for shape in (contents.get(file) or _content(file))["shapes"]
            if shape.get("shape_type") not in _WITHOUT_BOX
        }
        names = tuple(sorted(labels))
    label_of_name = {name: label for label, name in enumerate(names)}
    rows = AnnotationRows(source)
    for number, (file, content) in enumerate(contents.items(), 1):
        rows.start_image(_image_file(file, content["imagePath"]), number)
        for place, shape in enumerate(content["shapes"]):
            _add_shape(shape, f"{file}: shapes[{place}]", label_of_name, rows)
    return rows.finish(names, category_ids_of(names), is_normalized=False)


def _add_shape(
    shape: dict[str, Any], where: str, label_of_name: dict[str, int], rows: AnnotationRows
) -> None:
    if shape.get("shape_type") in _WITHOUT_BOX:
        rows.problems.add("points and lines, which have no box, left out", where)
        return
    name = str(shape.get("label"))
    if name not in label_of_name:
        raise InputError(f"{where}: class {name!r} is not among {', '.join(label_of_name)}")
    x1, y1, x2, y2 = _box(shape, where)
    if not (x2 > x1 and y2 > y1):
        rows.problems.add("boxes without area, left out", where)
        return
    rows.add((x1, y1, x2, y2), label_of_name[name])


def _box(shape: dict[str, Any], where: str) -> Box:
    """The box around a shape, xyxy in pixels; raises InputError."""
    kind = shape.get("shape_type") or "polygon"
    points = shape["points"]
    least = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}.get(kind)
    if least is None or len(points) < least:
        needed = f"expected at least {least} points" if least else "expected a rectangle, polygon"
        raise InputError(f"{where}: a {kind} of {len(points)} points; {needed}, circle or mask")
    if kind == "circle":
        (x, y), edge = points[:2]
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, x + radius, y + radius
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _content(file: Path) -> dict[str, Any]:
    """The file's object, with the fields used here checked; raises InputError."""
    try:
        content = json.loads(read_text(file))
    # RecursionError: brackets in brackets.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not a JSON file: {error}") from error
    if not (
        isinstance(content, dict)
        and isinstance(content.get("imagePath"), str)
        and isinstance(content.get("shapes"), list)
    ):
        raise InputError(f"{file}: not a LabelMe file: it needs `imagePath` and a list `shapes`")
    for place, shape in enumerate(content["shapes"]):
        points = shape.get("points") if isinstance(shape, dict) else None
        if not isinstance(points, list) or not points or not all(map(_is_point, points)):
            raise InputError(
                f"{file}: shapes[{place}] has points {reprlib.repr(points)}, expected [x, y] pairs"
            )
    return content


def _is_point(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(side) in (int, float) and math.isfinite(side) for side in value)
    )


def _image_file(file: Path, name: str) -> Path:
    """The image that `imagePath` names or, where it is not there, the one of the file's own stem.

    The path may come from another machine: of one that leads elsewhere the name alone counts.
    """
    parts = Path(name.replace("\\", "/"))
    for candidate in (parts, Path(parts.name)):
        if not candidate.is_absolute() and ".." not in candidate.parts:
            image = inside(file.parent, file.parent / candidate, f"{file}, imagePath")
            if os.path.isfile(image):
                return image
    stem = file.stem
    beside = [entry for entry in sorted(os.listdir(file.parent)) if Path(entry).stem == stem]
    images = [entry for entry in beside if is_image_name(entry)]
    return file.parent / (images[0] if images else parts.name)


def _json_files(folder: Path) -> Iterator[Path]:
    return (file for file in visible_files(folder) if file.suffix.lower() == ".json")
