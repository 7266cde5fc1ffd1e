"""Where a folder has its COCO JSON, a file a split, and its images.

    annotations/instances_SPLIT.json, with or without a year; also person_keypoints_SPLIT.json,
        image_info_SPLIT.json (COCO's test splits), SPLIT.json or the one .json that is there
    SPLIT/_annotations.coco.json beside the images (Roboflow), or the one .json of SPLIT/
    the one .json of the folder itself

A split is called by what its file or folder is called, but valid and validation are val, in small
letters where it is train, val or test.
"""

import os
import re
from pathlib import Path

from hvd_yolo.data.image_folders import names_in, visible_names
from hvd_yolo.data.split_names import USUAL, common_split
from hvd_yolo.data.text_files import LONGEST_PATH, inside, is_inside
from hvd_yolo.errors import InputError, MissingSplit

ROBOFLOW = "_annotations.coco.json"

# In the order in which they are preferred.
_KINDS = ("instances", "", "person_keypoints", "image_info")
_OTHER_KINDS = ("captions", "panoptic", "stuff")
_NO_SPLITS = {"instances", "annotations", "annotation", "coco", "labels", "label"}
_YEAR = re.compile(r"_?(19|20)[0-9]{2}$")
# Tried before an image folder is given up.
_MAX_TRIED = 100
# More in one folder are one an image.
_MAX_JSON = 10
# Folders that are listed: beyond it costs more than it saves.
_MAX_LISTED = 1000


def annotation_files(folder: Path) -> dict[str, list[Path]]:
    """The JSON file of each split; empty where the folder is none of COCO's. Where it cannot be
    told which one is meant, there are several."""
    return _of_annotations(folder) or _of_split_folders(folder) or _of_root(folder)


def _split_of_file(stem: str) -> str:
    """What the stem of a file calls its split, also among words that say nothing of it:
    train_annotations.coco, annotations_train."""
    words = [word for word in re.split(r"[._-]", stem) if word.lower() not in _NO_SPLITS]
    split = common_split("_".join(words))
    return split if split in USUAL else common_split(stem)


def _of_annotations(folder: Path) -> dict[str, list[Path]]:
    """The files below annotations/ by split, those alone that are preferred most."""
    ranks: dict[str, dict[int, list[Path]]] = {}
    # Annotations/ too, which is VOC's where it holds XML.
    places = [folder / name for name in visible_names(folder) if name.lower() == "annotations"]
    for file in (file for place in places for file in _json_files(place)):
        if file.stem.startswith(_OTHER_KINDS):
            continue
        kind = next((k for k in _KINDS if k and file.stem.startswith(f"{k}_")), "")
        stem = file.stem.removeprefix(f"{kind}_")
        exact, dated = _split_of_file(stem), _split_of_file(_YEAR.sub("", stem))
        # A file that says exactly instances_SPLIT comes before one with a year.
        rank = 2 * _KINDS.index(kind)
        ranks.setdefault(exact, {}).setdefault(rank, []).append(file)
        if dated not in (exact, ""):
            ranks.setdefault(dated, {}).setdefault(rank + 1, []).append(file)
    return {split: by_rank[min(by_rank)] for split, by_rank in ranks.items()}


def _of_split_folders(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for name in visible_names(folder):
        split, place = common_split(name), folder / name
        if split not in USUAL or not place.is_dir():
            continue
        exact = place / ROBOFLOW
        files = [exact] if exact.is_file() else _coco_like(_json_files(place))
        if files:
            found[split] = found.get(split, []) + files
    return found


def _of_root(folder: Path) -> dict[str, list[Path]]:
    files = _coco_like(_json_files(folder))
    if len(files) == 1:
        stem = files[0].stem.removeprefix("instances_")
        split = _split_of_file(stem)
        return {split if split in USUAL or stem == "default" else "all": files}
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of_file(file.stem), []).append(file)
    return splits if splits and splits.keys() <= set(USUAL) else {}


def _coco_like(files: list[Path]) -> list[Path]:
    """Not those that belong to an image each, as LabelMe writes them, nor settings."""
    return [file for file in files if _begins_like_coco(file)] if len(files) <= _MAX_JSON else []


def _begins_like_coco(file: Path) -> bool:
    try:
        with open(file, "rb") as stream:
            head = stream.read(1 << 16)
    except OSError:
        return False
    keys = (b'"images"', b'"annotations"', b'"categories"', b'"info"', b'"licenses"')
    return any(key in head for key in keys) and b'"shapes"' not in head


def _json_files(folder: Path) -> list[Path]:
    names = (name for name in visible_names(folder) if name.lower().endswith(".json"))
    return [folder / name for name in names if (folder / name).is_file()]


class ImageNames:
    """The image files that the entries of one JSON name, looked up where they lie.

    Each folder is listed once: a question a file would take longer than reading the JSON.
    """

    def __init__(self, folder: Path, file: Path, names: list[str]) -> None:
        """Raises InputError when not one of the first images is there."""
        self._folder = folder
        self._file = file
        self._listings: dict[Path, dict[str, list[str]]] = {}
        # Where names begin, and what they begin with that is left out.
        self._place, self._dropped = self._find(names)
        # What most names are: files of one folder, in need of no other look.
        self._names_there = set(names_in(self._place))

    def path(self, name: str, number: int) -> Path:
        """The file of images[number]; as it is written where there is none, also not in letters of
        another case."""
        if not self._dropped and name in self._names_there:
            return self._place / name
        parts = _parts(name)
        num_dropped = len(self._dropped)
        if parts[:num_dropped] == self._dropped:
            parts = parts[num_dropped:]
        path = self._inside(parts, self._place, number)
        return self._found(path) or path

    def _inside(self, parts: list[str], place: Path, number: int) -> Path:
        return inside(self._folder, place.joinpath(*parts), f"{self._file}: images[{number}]")

    def _found(self, path: Path) -> Path | None:
        """The file, or the one file whose name differs in the case of letters alone."""
        listing = self._listing(path.parent)
        if listing is None:
            return path if os.path.isfile(path) else None
        same = listing.get(path.name.lower(), [])
        if path.name in same:
            return path
        return path.with_name(same[0]) if len(same) == 1 else None

    def _listing(self, folder: Path) -> dict[str, list[str]] | None:
        """File names by their small letters; None for more folders than are worth it."""
        if folder not in self._listings:
            if len(self._listings) >= _MAX_LISTED:
                return None
            names: dict[str, list[str]] = {}
            for file in names_in(folder):
                names.setdefault(file.lower(), []).append(file)
            self._listings[folder] = names
        return self._listings[folder]

    def _find(self, names: list[str]) -> tuple[Path, list[str]]:
        """COCO names folders after the annotation file (train2017/); others put all under images/,
        and some write the folders above it into the names, which are left out until it fits."""
        places = self._places()
        outside: tuple[list[str], Path, int] | None = None
        for number, name in enumerate(names[:_MAX_TRIED]):
            parts = _parts(name)
            # Those of an absolute path are looked for in the folder too.
            for num_dropped in range(parts[0] == "/", len(parts)):
                for place in places:
                    # Of the path of another machine the end counts.
                    path = place.joinpath(*parts[num_dropped:])
                    if not is_inside(self._folder, path) or len(str(path)) > LONGEST_PATH:
                        outside = outside or (parts[num_dropped:], place, number)
                        continue
                    found = self._found(Path(os.path.normpath(path)))
                    if found and os.path.isfile(found):
                        return place, parts[:num_dropped]
        if not names:
            return self._folder, []
        if outside:
            self._inside(*outside)
        looked = ", ".join(str(place) for place in places)
        # COCO hands out the lists of its test images with the annotations of the others.
        kind = MissingSplit if self._file.stem.startswith("image_info_") else InputError
        raise kind(f"{self._file}: its first image {names[0]} is in none of {looked}")

    def _places(self) -> list[Path]:
        folder, stem = self._folder, self._file.stem
        for kind in _KINDS:
            stem = stem.removeprefix(f"{kind}_")
        splits = dict.fromkeys((stem, _YEAR.sub("", stem), common_split(_YEAR.sub("", stem))))
        if "val" in splits:
            splits |= {"valid": None, "validation": None}
        places = [folder / split for split in splits if split]
        places += [folder / "images" / split for split in splits if split]
        places += [folder / "images", folder / "data", folder / "JPEGImages"]
        beside = self._file.parent
        own = [beside, beside / "images"] if beside.name.lower() != "annotations" else []
        return [*own, *places, folder, *([] if own else [beside])]


def _parts(name: str) -> list[str]:
    r"""The parts of a file name, of Windows too; `./` is left out. Those that lead upwards stay."""
    parts = [part for part in name.replace("\\", "/").split("/") if part != "."] or [""]
    return ["/", *parts[1:]] if not parts[0] and len(parts) > 1 else parts
