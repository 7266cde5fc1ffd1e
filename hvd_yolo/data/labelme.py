"""LabelMe: a JSON file per image, `imagePath` beside it, and a list of shapes in pixels.

A folder holds the images of one split; train/, val/ (or valid/) and test/ below FOLDER are splits,
a folder without them is one split, `all`. A rectangle, polygon, circle or mask becomes the box
around it; points and lines have no box and are left out, counted. LabelMe shows an image turned
upright as its EXIF says, so its coordinates are those of the displayed image.
"""

import math
import os
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from hvd_yolo.data.annotation_rows import AnnotationRows, Box
from hvd_yolo.data.category_ids import category_ids_of
from hvd_yolo.data.coco_entries import stated_size
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.data.image_folders import is_hidden, is_image_name, list_images, visible_files
from hvd_yolo.data.pixel_boxes import refuse_shares, report_repeated
from hvd_yolo.data.split_names import ALL, USUAL, common_split, split_remedy
from hvd_yolo.data.text_files import is_inside, read_json
from hvd_yolo.errors import InputError, MissingSplit

# Where the JSON files lie that are not beside their images.
_LABEL_FOLDERS = ("annotations", "labels", "jsons", "json", "images")
_IMAGE_FOLDERS = ("images", "imgs", "JPEGImages")
# Bytes that are enough to tell a LabelMe file, whose keys may be in any order, and files that are
# looked at: others may lie among them.
_HEAD, _MOST_LOOKED = 4096, 20
_KEYS = (b'"shapes"', b'"imageData"', b'"imagePath"')

_WITHOUT_BOX = ("point", "points", "line", "linestrip")


def is_folder(folder: Path) -> bool:
    """Whether the folder, or one of its splits, has LabelMe files."""
    return bool(_places(folder))


def split_names(folder: Path) -> list[str]:
    """The splits of a LabelMe folder."""
    return sorted(_places(folder))


def open_split(folder: Path, split: str, names: tuple[str, ...] | None = None) -> ImageFiles:
    """The split of a LabelMe folder. `names` orders the classes; without it they are those found,
    in alphabetical order. Raises InputError."""
    places = _places(folder)
    if split not in places:
        text = f"data {folder}: no {split} split"
        if set(places) == {ALL}:
            text += f"; all its images are one split, `{ALL}`; {split_remedy(folder)}"
        raise MissingSplit(text)
    contents = {file: _content(file) for file in sorted(_json_files(places[split]))}
    if names is None:
        others = (file for place in places.values() for file in _json_files(place))
        labels = {
            shape["label"]
            for file in others
            for shape in (contents.get(file) or _content(file))["shapes"]
            if shape.get("shape_type") not in _WITHOUT_BOX
        }
        names = tuple(sorted(labels))
    label_of_name = {name: label for label, name in enumerate(names)}
    images = set(list_images(places[split]).images)
    stems = {os.path.splitext(image)[0] for image in images}
    rows = AnnotationRows(f"{folder} {split}")
    for number, (file, content) in enumerate(contents.items(), 1):
        size = _size(file, content)
        image = _image_file(file, content["imagePath"], folder)
        if image.stem != file.stem and os.path.splitext(file)[0] in stems:
            # As in files that were renamed or copied.
            rows.problems.add(
                "files whose imagePath is another image than their own, used", str(file)
            )
        rows.start_image(image, number, size)
        for place, shape in enumerate(content["shapes"]):
            _add_shape(shape, f"{file}: shapes[{place}]", label_of_name, rows)
    for image in sorted(images - set(rows.files)):
        rows.problems.add("images without a LabelMe file, left out", image)
    report_repeated(rows.files, rows.problems)
    refuse_shares(rows.rows, rows.source)
    return rows.finish(names, category_ids_of(names), is_normalized=False, is_clipped=True)


def _places(folder: Path) -> dict[str, Path]:
    """The folder of each split; empty where there are no LabelMe files."""
    found = {
        common_split(place.name): place
        for place in sorted(folder.iterdir())
        if common_split(place.name) in USUAL and place.is_dir() and _has_labelme(place, "all")
    }
    return found or ({ALL: folder} if _has_labelme(folder, "usual") else {})


def _has_labelme(folder: Path, below: Literal["usual", "all"]) -> bool:
    """Whether one of the first JSON files of the folder, or of one in it, begins as LabelMe's do.

    below: the folders in it that are looked at, those that are called as label folders or all.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    inner = names if below == "all" else _LABEL_FOLDERS
    for place in (folder, *(folder / name for name in inner if not is_hidden(name))):
        files = [f for f in sorted(place.glob("*.json")) if not is_hidden(f.name) and f.is_file()]
        if any(map(_begins_like_labelme, files[:_MOST_LOOKED])):
            return True
    return False


def _begins_like_labelme(file: Path) -> bool:
    try:
        with open(file, "rb") as opened:
            head = opened.read(_HEAD)
    except OSError:
        return False
    return any(key in head for key in _KEYS)


def _size(file: Path, content: dict[str, Any]) -> tuple[int, int]:
    """The width and height that are stated; 0, 0 unless both are. Raises InputError."""
    sides = {key: content.get(key) for key in ("imageWidth", "imageHeight")}
    try:
        return stated_size(sides, lambda key: f"{key} is {sides[key]!r:.40}")
    except ValueError as error:
        raise InputError(f"{file}: {error}, expected a number of pixels") from error


def _add_shape(
    shape: dict[str, Any], where: str, label_of_name: dict[str, int], rows: AnnotationRows
) -> None:
    if shape.get("shape_type") in _WITHOUT_BOX:
        rows.problems.add("points and lines, which have no box, left out", where)
        return
    name = shape["label"]
    if name not in label_of_name:
        raise InputError(f"{where}: class {name!r} is not among {', '.join(label_of_name)}")
    rows.add_usable(_box(shape, where), label_of_name[name], where)


def _box(shape: dict[str, Any], where: str) -> Box:
    """The box around a shape, xyxy in pixels; raises InputError."""
    kind = shape.get("shape_type") or "polygon"
    points = shape["points"]
    least = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2, "rotation": 3}.get(kind)
    if least is None or len(points) < least:
        needed = f"at least {least}" if least else "a rectangle, polygon, circle or mask"
        raise InputError(f"{where}: a {kind} of {len(points)} points; expected {needed}")
    if kind == "circle":
        (x, y), edge = points[:2]
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, x + radius, y + radius
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _content(file: Path) -> dict[str, Any]:
    """The file's object, with the fields used here checked; raises InputError."""
    content = read_json(file)
    if not (
        isinstance(content, dict)
        and isinstance(content.get("imagePath"), str)
        and isinstance(content.get("shapes"), list)
    ):
        raise InputError(f"{file}: not a LabelMe file: it needs `imagePath` and a list `shapes`")
    # The image itself, as text: the files of a split would fill the memory.
    content.pop("imageData", None)
    for place, shape in enumerate(content["shapes"]):
        points = shape.get("points") if isinstance(shape, dict) else None
        if not isinstance(points, list) or not points or not all(map(_is_point, points)):
            raise InputError(
                f"{file}: shapes[{place}] has points {reprlib.repr(points)}, expected [x, y] pairs"
            )
        label = shape.get("label")
        shape["label"] = str(label).strip() if isinstance(label, str | int) else ""
        if not shape["label"] and shape.get("shape_type") not in _WITHOUT_BOX:
            raise InputError(f"{file}: shapes[{place}] has label {label!r:.40}, expected a name")
    return content


def _is_point(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(side) in (int, float) and math.isfinite(side) for side in value)
    )


def _image_file(file: Path, name: str, root: Path) -> Path:
    """The image that `imagePath` names or, where it is not there, the one of the file's own stem.

    The path may come from another machine: of one that leads out of the data set the name alone
    counts.
    """
    path = name.replace("\\", "/")
    beside = [file.parent.parent / folder / Path(path).name for folder in _IMAGE_FOLDERS]
    for candidate in (file.parent / path, file.parent / Path(path).name, *beside):
        if is_inside(root, candidate) and os.path.isfile(candidate):
            return Path(os.path.normpath(candidate))
    same = [entry for entry in sorted(os.listdir(file.parent)) if Path(entry).stem == file.stem]
    images = [entry for entry in same if is_image_name(entry)]
    return file.parent / (images[0] if images else Path(path).name)


def _json_files(folder: Path) -> Iterator[Path]:
    return (file for file in visible_files(folder) if file.suffix.lower() == ".json")
