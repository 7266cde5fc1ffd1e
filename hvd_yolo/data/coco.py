"""COCO JSON: FOLDER/annotations/instances_SPLIT.json (or instances_SPLIT2017.json), images beside
it.

Boxes and areas are kept as the file has them, crowds and boxes at the edge too, so that scores are
those of pycocotools on that file; training clips and leaves out for itself (dataset.load_sample).
"""

import json
import os
import reprlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hvd_yolo.data.image_files import AnnotationRows, ImageFiles
from hvd_yolo.data.text_files import inside, read_text
from hvd_yolo.errors import InputError, MissingSplit

# Ids and coordinates travel as float64.
_LARGEST = 1 << 53

Entry = dict[str, Any]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_id(value: object) -> bool:
    return type(value) is int and -_LARGEST < value < _LARGEST


def _is_number(value: object) -> bool:
    """Neither NaN, nor infinite, nor true or false."""
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def _is_length(value: object) -> bool:
    return _is_number(value) and value > 0


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_flag(value: object) -> bool:
    return value in (0, 1)


# What the entries of each list must have: the test of each value, and what to call those that
# pass.
_FIELDS: dict[str, dict[str, tuple[Callable[[object], bool], str]]] = {
    "categories": {"id": (_is_id, "a whole number"), "name": (_is_text, "a text")},
    "images": {
        "id": (_is_id, "a whole number"),
        "file_name": (_is_text, "a text"),
        "width": (_is_length, "a number above 0"),
        "height": (_is_length, "a number above 0"),
    },
    "annotations": {
        "image_id": (_is_id, "a whole number"),
        "category_id": (_is_id, "a whole number"),
        "bbox": (_is_box, "four numbers"),
        "area": (_is_number, "a number"),
        "iscrowd": (_is_flag, "0 or 1"),
    },
}
_OPTIONAL = {"area", "iscrowd"}


def open_split(folder: Path, split: str, names: tuple[str, ...] | None = None) -> ImageFiles:
    """The split of a COCO folder. `names` picks and orders the classes; without it they go by
    category id."""
    file = _annotation_file(folder, split)
    try:
        content = json.loads(read_text(file))
    # RecursionError: brackets in brackets.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not a JSON file: {error}") from error
    try:
        return _read(file, folder, split, content, names)
    except ValueError as error:
        raise InputError(f"{file}: {error}; expected COCO's instances format") from error


def _read(
    file: Path, folder: Path, split: str, content: object, names: tuple[str, ...] | None
) -> ImageFiles:
    has_truth = not isinstance(content, dict) or "annotations" in content
    if not has_truth:
        content = {**content, "annotations": []}
    categories, images, annotations = (_entries(content, key) for key in _FIELDS)
    _check_unique(categories, "categories", "id")
    _check_unique(categories, "categories", "name")
    _check_unique(images, "images", "id")
    id_of_name = {c["name"]: c["id"] for c in sorted(categories, key=lambda c: c["id"])}
    names = names or tuple(id_of_name)
    if missing := set(names) - id_of_name.keys():
        raise InputError(f"{file}: no category is named {', '.join(sorted(missing))}")
    category_ids = tuple(id_of_name[name] for name in names)
    label_of_id = {category: label for label, category in enumerate(category_ids)}

    of_image = _numbers_by_image(images, annotations, set(id_of_name.values()))
    image_folder = _image_folder(folder, file, images)
    rows = AnnotationRows(f"{file}")
    for place, image in enumerate(images):
        path = inside(folder, image_folder / image["file_name"], f"{file}: images[{place}]")
        rows.start_image(path, image["id"])
        for number in of_image[image["id"]]:
            annotation = annotations[number]
            if annotation["category_id"] not in label_of_id:
                continue
            x, y, w, h = annotation["bbox"]
            where = f"annotations[{number}]"
            if w <= 0 or h <= 0:
                rows.problems.add("boxes without area, not trained on", where)
            elif x < 0 or y < 0 or x + w > image["width"] or y + h > image["height"]:
                rows.problems.add("boxes partly outside the image, clipped in training", where)
            label = label_of_id[annotation["category_id"]]
            is_crowd = bool(annotation.get("iscrowd", 0))
            rows.add((x, y, x + w, y + h), label, annotation.get("area", w * h), is_crowd)
    return replace(rows.finish(names, category_ids, is_normalized=False), has_truth=has_truth)


def _numbers_by_image(
    images: list[Entry], annotations: list[Entry], category_ids: set[int]
) -> dict[int, list[int]]:
    """Which annotations each image has, by its id; raises ValueError for one of an image or
    category that there is not."""
    of_image: dict[int, list[int]] = {image["id"]: [] for image in images}
    for number, annotation in enumerate(annotations):
        for key, ids in (("category_id", category_ids), ("image_id", of_image)):
            if annotation[key] not in ids:
                raise ValueError(
                    f"annotations[{number}] has {key} {annotation[key]}, which no entry has as id"
                )
        of_image[annotation["image_id"]].append(number)
    return of_image


def _entries(content: object, key: str) -> list[Entry]:
    """The entries of a list of the file, all as _FIELDS says; raises ValueError."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"it has no list {key!r}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{key}[{number}] is {reprlib.repr(entry)}, not an object")
        for field, (is_right, expected) in _FIELDS[key].items():
            if field in entry:
                if not is_right(entry[field]):
                    raise ValueError(
                        f"{key}[{number}] has {field} {reprlib.repr(entry[field])}, which is not "
                        f"{expected}"
                    )
            elif field not in _OPTIONAL:
                raise ValueError(f"{key}[{number}] has no {field!r}")
    return entries


def _check_unique(entries: list[Entry], key: str, field: str) -> None:
    first: dict[int | str, int] = {}
    for number, entry in enumerate(entries):
        earlier = first.setdefault(entry[field], number)
        if earlier != number:
            raise ValueError(
                f"{key}[{number}] has the {field} of {key}[{earlier}], {entry[field]!r}"
            )


def _annotation_file(folder: Path, split: str) -> Path:
    annotations = folder / "annotations"
    exact = annotations / f"instances_{split}.json"
    if exact.is_file():
        return exact
    found = sorted(annotations.glob(f"instances_{split}[0-9]*.json"))
    if len(found) != 1:
        kind = InputError if found else MissingSplit
        raise kind(
            f"data {folder}: expected {exact}, or one file instances_{split}YEAR.json beside it; "
            f"found {len(found)}"
        )
    return found[0]


def _image_folder(folder: Path, file: Path, images: list[Entry]) -> Path:
    """COCO names folders after the annotation file (train2017/); others put all under images/."""
    split = file.stem.removeprefix("instances_")
    places = [folder / split, folder / "images" / split, folder / "images", folder]
    if not images:
        return folder
    first = images[0]["file_name"]
    for place in places:
        if os.path.isfile(inside(folder, place / first, f"{file}: images[0]")):
            return place
    looked = ", ".join(str(place) for place in places)
    raise InputError(f"{file}: its first image {first} is in none of {looked}")
