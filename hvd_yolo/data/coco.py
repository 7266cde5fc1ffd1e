"""COCO JSON, a file a split; coco_files.py says where it and the images may lie.

Boxes and areas are kept as the file has them, crowds and boxes at the edge too, so that scores are
those of pycocotools on that file; training clips and leaves out for itself (dataset.load_sample).
An annotation that cannot be used is counted and left out. A file without the list `annotations`,
as challenges hand it out, is a split without truth.
"""

from pathlib import Path

from hvd_yolo.data.annotation_rows import AnnotationRows
from hvd_yolo.data.coco_entries import (
    Entry,
    box_of,
    entries_of,
    flag_of,
    ids_of,
    number_of,
    size_of,
    text_of,
    whole_number,
)
from hvd_yolo.data.coco_files import ROBOFLOW, ImageNames, annotation_files
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.data.pixel_boxes import refuse_shares
from hvd_yolo.data.split_names import USUAL, split_remedy
from hvd_yolo.data.text_files import read_json
from hvd_yolo.errors import InputError, MissingSplit

_LEFT_OUT = "annotations {}, left out"


def is_folder(folder: Path) -> bool:
    """Whether there is COCO JSON in it."""
    return bool(annotation_files(folder))


def split_names(folder: Path) -> list[str]:
    """The splits of a COCO folder, a file once."""
    return sorted(_splits_by_file(annotation_files(folder)).values())


def _splits_by_file(files: dict[str, list[Path]]) -> dict[Path, str]:
    """The first split that each file is, where it is the only one."""
    return {own[0]: split for split, own in reversed(files.items()) if len(own) == 1}


def open_split(folder: Path, split: str, names: tuple[str, ...] | None = None) -> ImageFiles:
    """The split of a COCO folder. `names` picks and orders the classes; without it they go by
    category id."""
    files = annotation_files(folder)
    if split not in files:
        raise MissingSplit(_missing(folder, split, files))
    if len(files[split]) > 1:
        raise InputError(
            f"data {folder}: {', '.join(map(str, files[split]))} can all be the {split} split; "
            f"leave one of them there, or name it instances_{split}.json"
        )
    (file,) = files[split]
    others = [other for other in _splits_by_file(files) if other != file]
    try:
        return _read(file, folder, split, read_json(file), names, others)
    except ValueError as error:
        raise InputError(f"{file}: {error}; expected COCO's instances format") from error


def _missing(folder: Path, split: str, files: dict[str, list[Path]]) -> str:
    expected = folder / "annotations" / f"instances_{split}.json"
    if any(own.name == ROBOFLOW for several in files.values() for own in several):
        expected = folder / ("valid" if split == "val" else split) / ROBOFLOW
    text = f"data {folder}: no {split} split; expected {expected}"
    if not files:
        return text
    text += f"; it has {', '.join(f'{name} ({f})' for f, name in _splits_by_file(files).items())}"
    if files.keys() & set(USUAL):
        return text
    return f"{text}; {split_remedy(folder)}"


def _read(
    file: Path,
    folder: Path,
    split: str,
    content: object,
    names: tuple[str, ...] | None,
    others: list[Path],
) -> ImageFiles:
    images = entries_of(content, "images")
    has_truth = isinstance(content, dict) and content.get("annotations") is not None
    annotations = entries_of(content, "annotations") if has_truth else []
    categories = entries_of(content, "categories")
    if not names:
        categories = _without_root(categories, annotations, others)
    id_of_name = _category_ids(categories)
    names = names or tuple(id_of_name)
    id_of_name = id_of_name | _ids_elsewhere(set(names) - id_of_name.keys(), id_of_name, others)
    if missing := set(names) - id_of_name.keys():
        raise InputError(f"{file}: no category is named {', '.join(sorted(missing))}")
    category_ids = tuple(id_of_name[name] for name in names)

    rows = AnnotationRows(f"{file}")
    if not has_truth:
        rows.problems.add("no list `annotations`, a split without truth", str(file))
    label_of_id = dict.fromkeys(id_of_name.values(), -1)
    label_of_id |= {category: label for label, category in enumerate(category_ids)}
    _add_images(rows, file, folder, images, annotations, label_of_id)
    refuse_shares(rows.rows, rows.source)
    return rows.finish(names, category_ids, is_normalized=False, has_truth=has_truth)


def _add_images(
    rows: AnnotationRows,
    file: Path,
    folder: Path,
    images: list[Entry],
    annotations: list[Entry],
    label_of_id: dict[int, int],
) -> None:
    """Adds all images with their objects. label_of_id: -1 for a category that `names` leaves out.

    Raises InputError when all annotations are faulty.
    """
    ids = ids_of(images, "images")
    file_names = [text_of(e, "file_name", f"images[{n}]") for n, e in enumerate(images)]
    image_names = ImageNames(folder, file, file_names)
    first_of_path: dict[Path, int] = {}
    of_image, num_faulty = _numbers_by_image(ids, annotations, rows)
    for place, (image, image_id, name) in enumerate(zip(images, ids, file_names, strict=True)):
        path, where = image_names.path(name, place), f"images[{place}]"
        if (first := first_of_path.setdefault(path, place)) != place:
            rows.problems.add("entries of images that name the same file", f"{where}, {first}")
        size = size_of(image, where)
        rows.start_image(path, image_id, size)
        for number in of_image[image_id]:
            num_faulty += not _add(rows, annotations[number], number, label_of_id, *size)
    if annotations and num_faulty == len(annotations):
        first = rows.problems.problems()[0]
        raise InputError(f"{file}: none of its {num_faulty} annotations can be used; {first}")


def _numbers_by_image(
    ids: list[int], annotations: list[Entry], rows: AnnotationRows
) -> tuple[dict[int, list[int]], int]:
    """Which annotations each image has, by its id; and how many are of no image."""
    of_image: dict[int, list[int]] = {image_id: [] for image_id in ids}
    num_faulty = 0
    for number, annotation in enumerate(annotations):
        image_id = annotation.get("image_id")
        own = of_image.get(image_id if type(image_id) is int else whole_number(image_id))
        if own is None:
            num_faulty += 1
            where = f"annotations[{number}], image_id {image_id!r:.40}"
            rows.problems.add(_LEFT_OUT.format("of an image that is not listed"), where)
        else:
            own.append(number)
    return of_image, num_faulty


def _add(
    rows: AnnotationRows,
    annotation: Entry,
    number: int,
    label_of_id: dict[int, int],
    width: int,
    height: int,
) -> bool:
    """Adds annotations[number], on an image of that size if it is not 0; False if it is faulty."""
    category = annotation.get("category_id")
    label = label_of_id.get(category if type(category) is int else whole_number(category))
    box = box_of(annotation)
    if label is None or box is None:
        what = "without a box" if box is None else "of a category that is not listed"
        detail = "bbox" if box is None else "category_id"
        where = f"annotations[{number}], {detail} {annotation.get(detail)!r:.40}"
        rows.problems.add(_LEFT_OUT.format(what), where)
        return False
    where = f"annotations[{number}]"
    if label < 0:
        rows.problems.add("objects of categories that `names` does not have, left out", where)
        return True
    x, y, w, h = box
    if w <= 0 or h <= 0:
        rows.problems.add("boxes without area, not trained on", where)
    elif x < 0 or y < 0 or (width and (x + w > width or y + h > height)):
        rows.problems.add("boxes partly outside the image, clipped in training", where)
    area, is_crowd = number_of(annotation.get("area")), flag_of(annotation.get("iscrowd"))
    if area is None and annotation.get("area") is not None:
        rows.problems.add("areas that are not numbers, taken from the box", where)
    if is_crowd is None:
        rows.problems.add("iscrowd that is neither 0 nor 1, taken as 0", where)
    rows.add((x, y, x + w, y + h), label, w * h if area is None else area, bool(is_crowd))
    return True


def _category_ids(categories: list[Entry]) -> dict[str, int]:
    """The id of each class name, by id; raises ValueError for what two categories share."""
    ids = ids_of(categories, "categories")
    first: dict[str, int] = {}
    for number, category in enumerate(categories):
        name = text_of(category, "name", f"categories[{number}]")
        if (earlier := first.setdefault(name, number)) != number:
            raise ValueError(
                f"categories[{number}] has the name of categories[{earlier}], {name!r}"
            )
    return {name: ids[number] for name, number in sorted(first.items(), key=lambda i: ids[i[1]])}


def _without_root(
    categories: list[Entry], annotations: list[Entry], others: list[Path]
) -> list[Entry]:
    """The categories but one that is no class: the supercategory of all others, as Roboflow writes
    it, without an annotation in any split."""
    for root in categories:
        rest = [category for category in categories if category is not root]
        if rest and all(category.get("supercategory") == root.get("name") for category in rest):
            number = whole_number(root.get("id"))
            is_used = _has_category(annotations, number) or any(
                _has_category(_entries_elsewhere(file, "annotations"), number) for file in others
            )
            return categories if is_used else rest
    return categories


def _has_category(annotations: list[Entry], number: int | None) -> bool:
    return any(whole_number(one.get("category_id")) == number for one in annotations)


def _entries_elsewhere(file: Path, key: str) -> list[Entry]:
    """Those of another split; what is wrong with its file is found when that is read."""
    try:
        return entries_of(read_json(file), key)
    except (InputError, ValueError):
        return []


def _ids_elsewhere(
    missing: set[str], id_of_name: dict[str, int], others: list[Path]
) -> dict[str, int]:
    """The ids of classes that this split has no category for, and another split has."""
    if not missing:
        return {}
    found: dict[str, int] = {}
    taken = set(id_of_name.values())
    for category in (one for file in others for one in _entries_elsewhere(file, "categories")):
        name, number = category.get("name"), whole_number(category.get("id"))
        if name in missing and name not in found and number is not None and number not in taken:
            found[name] = number
            taken.add(number)
    return found
