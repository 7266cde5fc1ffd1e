"""A data set written to a folder in one of the formats of layouts.py.

Each part of what is to be written (entries.py) is written by some rank (write_part), and last what
stands once for all (write_index): a folder without data.yaml is unfinished.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml

from hvd_yolo.data import open_dataset
from hvd_yolo.data.dataset import Annotations, UnreadableImage
from hvd_yolo.data.entries import Entry, Part, own_name
from hvd_yolo.data.image_files import ImageFiles, LooseFiles
from hvd_yolo.data.image_folders import IMAGE_SUFFIXES
from hvd_yolo.data.label_text import coco_json, labelme_json, voc_xml, yolo_text
from hvd_yolo.data.layouts import LAYOUTS
from hvd_yolo.errors import InputError
from hvd_yolo.letterbox import clip_boxes

# Moves of a box by less than this share of the image are rounding.
_SLACK = 1e-6

# Text of one image's labels from its objects, file name, width, height and the classes.
_LABEL_TEXT: dict[str, Callable[[Annotations, str, int, int, tuple[str, ...]], str]] = {
    "yolo": lambda truth, _, width, height, __: yolo_text(truth, width, height),
    "voc": voc_xml,
    "labelme": labelme_json,
}
# Whose labels have no mark for a crowd.
_WITHOUT_CROWDS = ("yolo", "labelme")


def refuse_occupied(folder: Path) -> None:
    """Raises InputError when there is something in the folder that could be overwritten."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"output {folder} is there and not empty: name a new or empty folder")


def refuse_missing_writer(to: str) -> None:
    """Raises InputError when the format is written by a package that is not installed."""
    if to == "webdataset":
        _tar_writer()


def write_part(part: Part, folder: Path, to: str, images: str) -> Counter[str]:
    """Writes the images, and labels that do not stand in one file for all; returns how much of what
    could not be held.

    images: copy or link. Raises InputError for what cannot be written.
    """
    if to == "webdataset":
        return _write_shard(part.entries, folder / part.path)
    (entry,) = part.entries
    truth, lost = _fitted(entry, to)
    layout = LAYOUTS[to]
    _write_image(entry, folder / part.path, images)
    if layout.label:
        text = _LABEL_TEXT[layout.labels](
            truth, entry.name, entry.width, entry.height, entry.dataset.names
        )
        _write_text(folder / layout.label_path(entry.split, entry.name), text)
    return lost


def write_index(parts: Sequence[Part], folder: Path, to: str) -> list[str]:
    """Writes lists, JSON files and data.yaml; returns what of numbers and names could not be held.

    Raises InputError when not all that the ranks wrote is here.
    """
    missing = [part.path for part in parts if not (folder / part.path).exists()]
    if missing:
        raise InputError(
            f"output {folder}: {len(missing)} of {len(parts)} files are not there, the first is "
            f"{missing[0]}; all hosts must write to one folder"
        )
    entries = [entry for part in parts for entry in part.entries]
    dataset = entries[0].dataset
    layout = LAYOUTS[to]
    reader = to if to == "webdataset" else layout.labels
    content = {"path": ".", "format": reader, "names": list(dataset.names)}
    splits = list(dict.fromkeys(entry.split for entry in entries))
    for split in splits:
        own = [entry for entry in entries if entry.split == split]
        if to == "yolo":
            content[split] = f"images/{split}"
        elif to == "darknet":
            content[split] = f"{split}.txt"
            paths = (layout.image_path(split, entry.name).as_posix() for entry in own)
            _write_text(folder / f"{split}.txt", "".join(f"{path}\n" for path in paths))
        elif to == "webdataset":
            last = sum(part.entries[0].split == split for part in parts) - 1
            content[split] = f"{split}-{{{0:06}..{last:06}}}.tar"
        elif to == "voc":
            stems = "".join(f"{Path(entry.name).stem}\n" for entry in own)
            _write_text(folder / "ImageSets" / "Main" / f"{split}.txt", stems)
        elif layout.annotations:
            images = ((e.image_id, e.name, e.width, e.height, e.truth) for e in own)
            text = coco_json(images, dataset.names, dataset.category_ids)
            _write_text(folder / layout.annotation_path(split), text)
    if to == "darknet":
        _write_darknet(folder, dataset.names, splits)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    _write_text(folder / "data.yaml", text)
    return _identity_lost(entries, folder / "data.yaml", splits)


def _write_darknet(folder: Path, names: tuple[str, ...], splits: Sequence[str]) -> None:
    """Writes obj.names and obj.data, which darknet and CVAT read."""
    _write_text(folder / "obj.names", "".join(f"{name}\n" for name in names))
    keys = {"train": "train", "val": "valid"}
    lines = [f"classes = {len(names)}"]
    lines += [f"{keys.get(split, split)} = {split}.txt" for split in splits]
    lines += ["names = obj.names", "backup = backup/"]
    _write_text(folder / "obj.data", "".join(f"{line}\n" for line in lines))


def keypoints_lost(entries: Sequence[Entry]) -> Counter[str]:
    """How many objects have keypoints, which no format holds yet."""
    lost: Counter[str] = Counter()
    for entry in entries:
        if isinstance(entry.dataset, ImageFiles) and entry.dataset.keypoints is not None:
            lost["keypoints of objects, left out"] += len(entry.truth.labels)
    return lost


def _fitted(entry: Entry, to: str) -> tuple[Annotations, Counter[str]]:
    """The objects that the format can hold, and how many it cannot, or not as they are."""
    truth = entry.truth
    labels = LAYOUTS[to].labels
    if labels == "coco":
        return truth, Counter()
    sides = np.array((entry.width, entry.height) * 2)
    boxes = clip_boxes(truth.boxes, entry.width, entry.height)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    keep = has_area & ~truth.is_crowd if labels in _WITHOUT_CROWDS else has_area
    is_cut = (np.abs(boxes - truth.boxes) > _SLACK * sides).any(1)
    box_areas = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(1)
    lost = {
        "boxes without area in the image, left out": ~has_area,
        "crowds, left out: the format has no mark for them": has_area & ~keep,
        "boxes partly outside the image, cut to it": keep & is_cut,
        "areas that differ from those of the boxes": keep & ~np.isclose(truth.areas, box_areas),
    }
    fitted = Annotations(boxes[keep], *(column[keep] for column in truth[1:]))
    return fitted, Counter({what: int(rows.sum()) for what, rows in lost.items()})


def _identity_lost(entries: Sequence[Entry], file: Path, splits: list[str]) -> list[str]:
    """Reads the data set back and compares its image ids and category ids, and file names."""
    written = {split: open_dataset(str(file), split) for split in splits}
    ids = {
        (split, Path(str(name)).name): int(number)
        for split, dataset in written.items()
        for name, number in zip(dataset.files, dataset.ids, strict=True)
    }
    lost = []
    renamed = [entry for entry in entries if entry.name != own_name(entry.dataset, entry.index)]
    if renamed:
        lost.append(f"file names: {len(renamed)} (the first is now {renamed[0].name})")
    if any(ids[entry.split, entry.name] != entry.image_id for entry in entries):
        lost.append("image ids: the images are numbered anew")
    category_ids = written[splits[0]].category_ids
    if category_ids != entries[0].dataset.category_ids:
        now = ", ".join(map(str, category_ids[:3]))
        lost.append(f"category ids: the format has none, those of the first classes are now {now}")
    return lost


def _write_image(entry: Entry, target: Path, images: str) -> None:
    known = _with_file(entry)
    if images == "link" and known and isinstance(known.storage, LooseFiles):
        source = os.path.abspath(str(known.files[entry.index]))
        _write_whole(target, lambda temporary: temporary.symlink_to(source))
    else:
        _write_whole(target, lambda temporary: temporary.write_bytes(_image_bytes(entry)))


def _write_shard(entries: Sequence[Entry], target: Path) -> Counter[str]:
    """KEY.jpg and KEY.txt of each image; returns how much of what could not be held."""
    writer = _tar_writer()
    lost: Counter[str] = Counter()

    def write(temporary: Path) -> None:
        """All of it. PAX holds names of any length and alphabet; equal images give equal shards,
        for they bear no time."""
        settings = {"encoder": False, "mtime": 0, "format": "PAX_FORMAT"}
        with open(temporary, "wb") as file, writer(file, **settings) as tar:
            for entry in entries:
                truth, own_lost = _fitted(entry, "webdataset")
                lost.update(own_lost)
                labels = yolo_text(truth, entry.width, entry.height).encode()
                stem, suffix = os.path.splitext(entry.name)
                tar.write({"__key__": stem, suffix[1:]: _image_bytes(entry), "txt": labels})

    _write_whole(target, write)
    return lost


def _tar_writer() -> type:
    """TarWriter of the webdataset package."""
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise InputError(f"{error}; install it: pip install 'hvd_yolo[shards]'") from error
    return TarWriter


def _image_bytes(entry: Entry) -> bytes:
    """The image's file, encoded anew where it has none."""
    known = _with_file(entry)
    if known:
        return known.encoded(entry.index).tobytes()
    return cv2.imencode(".png", entry.dataset.image(entry.index))[1].tobytes()


def _with_file(entry: Entry) -> ImageFiles | None:
    """The entry's data set, if the image has a file in it that every format can hold as it is."""
    dataset = entry.dataset
    if not isinstance(dataset, ImageFiles):
        return None
    suffix = Path(str(dataset.files[entry.index])).suffix.lower()
    return dataset if suffix in IMAGE_SUFFIXES else None


def _write_text(target: Path, text: str) -> None:
    _write_whole(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Puts the file there whole or not at all; raises InputError.

    It is not forced to disk as a checkpoint is: what a power cut takes can be written again.
    """
    temporary = target.with_name(f".{target.name}.writing")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, target)
    except (OSError, UnreadableImage) as error:
        raise InputError(f"output {target} cannot be written: {error}") from error
