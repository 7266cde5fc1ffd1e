"""COCO JSON: FOLDER/annotations/instances_SPLIT.json (or instances_SPLIT2017.json), images beside
it.

Boxes and areas are kept as the file has them, crowds and boxes at the edge too, so that scores are
those of pycocotools on that file; training clips and leaves out for itself (dataset.load_sample).
"""

import json
from pathlib import Path
from typing import Any

from hvd_yolo.data.dataset import AnnotationRows, ImageFiles
from hvd_yolo.errors import InputError


def open_split(folder: Path, split: str, names: tuple[str, ...] | None = None) -> ImageFiles:
    """The split of a COCO folder. `names` picks and orders the classes; without it they go by
    category id."""
    file = _annotation_file(folder, split)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return _read(file, folder, split, content, names)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a JSON file: {error}") from error
    except KeyError as error:
        raise InputError(
            f"{file}: an entry has no {error}; expected COCO's instances format"
        ) from error


def _read(
    file: Path, folder: Path, split: str, content: dict[str, Any], names: tuple[str, ...] | None
) -> ImageFiles:
    id_of_name = {c["name"]: c["id"] for c in sorted(content["categories"], key=lambda c: c["id"])}
    names = names or tuple(id_of_name)
    if missing := set(names) - id_of_name.keys():
        raise InputError(f"{file}: no category is named {', '.join(sorted(missing))}")
    category_ids = tuple(id_of_name[name] for name in names)
    label_of_id = {category: label for label, category in enumerate(category_ids)}
    known_ids = set(id_of_name.values())

    of_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["category_id"] not in known_ids:
            raise InputError(
                f"{file}: annotation {annotation['id']} has category_id "
                f"{annotation['category_id']}, which is not "
                "among the categories"
            )
        if annotation["image_id"] not in of_image:
            raise InputError(
                f"{file}: annotation {annotation['id']} has image_id {annotation['image_id']}, "
                f"which is not among "
                "the images"
            )
        if annotation["category_id"] in label_of_id:
            of_image[annotation["image_id"]].append(annotation)

    image_folder = _image_folder(folder, file, content["images"])
    rows = AnnotationRows(f"{file}")
    for image in content["images"]:
        rows.start_image(image_folder / image["file_name"], image["id"])
        for annotation in of_image[image["id"]]:
            x, y, w, h = annotation["bbox"]
            where = f"annotation {annotation['id']}"
            if w <= 0 or h <= 0:
                rows.fault("without area, not trained on", where)
            elif x < 0 or y < 0 or x + w > image["width"] or y + h > image["height"]:
                rows.fault("partly outside the image, clipped in training", where)
            label = label_of_id[annotation["category_id"]]
            is_crowd = bool(annotation.get("iscrowd", 0))
            rows.add((x, y, x + w, y + h), label, annotation.get("area", w * h), is_crowd)
    return rows.finish(names, category_ids, is_normalized=False)


def _annotation_file(folder: Path, split: str) -> Path:
    annotations = folder / "annotations"
    exact = annotations / f"instances_{split}.json"
    if exact.is_file():
        return exact
    found = sorted(annotations.glob(f"instances_{split}[0-9]*.json"))
    if len(found) != 1:
        raise InputError(
            f"data {folder}: expected {exact}, or one file instances_{split}YEAR.json beside it; "
            f"found {len(found)}"
        )
    return found[0]


def _image_folder(folder: Path, file: Path, images: list[dict[str, Any]]) -> Path:
    """COCO names folders after the annotation file (train2017/); others put all under images/."""
    split = file.stem.removeprefix("instances_")
    places = [folder / split, folder / "images" / split, folder / "images", folder]
    if not images:
        return folder
    first = images[0]["file_name"]
    for place in places:
        if (place / first).is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise InputError(f"{file}: its first image {first} is in none of {looked}")
