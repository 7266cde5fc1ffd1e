"""Where a folder has its VOC annotations, an XML an image, its images and its splits.

Annotations/, JPEGImages/ and lists, ImageSets/Main/SPLIT.txt (Pascal VOC, CVAT); without lists,
    all is one split, `all` (LabelImg); annotations/, annots/ or labels/ and images/ serve too
SPLIT/ with images beside their XML, or with two such folders (Roboflow)
Annotations/SPLIT/ and images/SPLIT/
images beside their XML: one split, `all`
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hvd_yolo.data.image_folders import (
    UNREADABLE_SUFFIXES,
    is_image_name,
    visible_files,
    visible_names,
)
from hvd_yolo.data.split_names import ALL, USUAL, common_split
from hvd_yolo.data.text_files import inside
from hvd_yolo.errors import InputError

_ANNOTATIONS = ("annotations", "annotation", "annots", "xmls", "xml", "labels")
_IMAGES = ("jpegimages", "images", "image", "imgs", "img")


@dataclass(frozen=True)
class Place:
    """A folder of XML and the folder of its images, which may be the same; `root` has both."""

    root: Path
    annotations: Path
    images: Path

    def xml_files(self) -> list[Path]:
        """All there are, those of folders below too."""
        return sorted(f for f in visible_files(self.annotations) if f.suffix.lower() == ".xml")

    def image(self, stem: str, file_name: str, where: str) -> tuple[Path, bool]:
        """The image of STEM.xml, and whether others could be meant too.

        STEM with the suffix .jpg, that of <filename> or any other; or, where there is none, what
        <filename> says, or an image of its stem. STEM.jpg where there is none. The name inside
        stays when files are renamed, and may be that of another image by now.
        """
        usual = inside(self.root, self.images / f"{stem}.jpg", where)
        if os.path.isfile(usual):
            return usual, False
        # A path of the machine that wrote it says nothing here.
        whole = [] if file_name.startswith("/") else [file_name]
        names = [name for name in (*whole, file_name.rpartition("/")[2]) if name]
        same_suffix = usual.with_name(f"{usual.stem}{os.path.splitext(file_name)[1]}")
        if is_image_name(same_suffix.name) and os.path.isfile(same_suffix):
            return same_suffix, False
        if found := self._of_stem(stem):
            return found[0], len(found) > 1
        for name in names:
            path = inside(self.root, self.images / name, f"{where}, filename")
            if os.path.isfile(path):
                return path, False
        for name in names:
            # Not what comes after a dot that is part of the name.
            if found := self._of_stem(os.path.splitext(name)[0]):
                return found[0], len(found) > 1
        return usual, False

    def _of_stem(self, name: str) -> list[Path]:
        found = self._images_by_stem
        return found.get(name) or found.get(name.lower()) or []

    @cached_property
    def _images_by_stem(self) -> dict[str, list[Path]]:
        """Image files by their place below `images` without suffix, also in small letters; last
        those of a format that is not read, for a message that says so."""
        found: dict[str, list[Path]] = {}
        files = sorted(visible_files(self.images))
        for file in sorted(files, key=lambda file: not is_image_name(file.name)):
            suffix = file.suffix.lower()
            if is_image_name(file.name) or suffix in UNREADABLE_SUFFIXES:
                stem = file.relative_to(self.images).with_suffix("").as_posix()
                for key in {stem, stem.lower()}:
                    found.setdefault(key, []).append(file)
        return found

    def images_without_xml(self, used: set[Path]) -> list[Path]:
        """The images that are not among those used."""
        files = {file for found in self._images_by_stem.values() for file in found}
        return sorted(files - used)


@dataclass(frozen=True)
class Layout:
    """Splits of a folder: by lists in one place, or a place a split."""

    lists: dict[str, Path]
    places: dict[str, Place]

    @property
    def splits(self) -> list[str]:
        """Their names; of several where there are lists of single classes, without these."""
        if not self.lists:
            return sorted(self.places)
        ends = tuple(f"_{name}" for name in self.lists)
        return sorted(name for name in self.lists if not name.endswith(ends))


def find_layout(folder: Path) -> Layout | None:
    """None where the folder is none of VOC's."""
    annotations = _subfolder(folder, _ANNOTATIONS)
    images = _subfolder(folder, _IMAGES)
    if annotations and (images or _has(annotations, is_image_name)):
        place = Place(folder, annotations, images or annotations)
        # Folders of these names can be of YOLO text too.
        if any(_is_xml(file.name) for file in visible_files(annotations)):
            if lists := _lists(folder):
                return Layout(lists, {ALL: place})
            return Layout({}, _by_split(place) or {ALL: place})
    return _split_folders(folder) or _one_folder(folder)


def _lists(folder: Path) -> dict[str, Path]:
    """Text files of lists by split."""
    for place in (folder / "ImageSets" / "Main", folder / "ImageSets", folder):
        files = [place / name for name in visible_names(place) if name.endswith(".txt")]
        if place == folder:
            # Of any folder: these names alone are lists.
            files = [file for file in files if common_split(file.stem) in USUAL]
        lists: dict[str, Path] = {}
        for file in files:
            other = lists.setdefault(common_split(file.stem), file)
            if other != file:
                raise InputError(
                    f"data {folder}: {other} and {file} can both list the "
                    f"{common_split(file.stem)} split; remove or rename one of them"
                )
        if lists:
            return lists
    return {}


def _by_split(place: Place) -> dict[str, Place]:
    """Annotations/train/ and images/train/, and so on."""
    found = {}
    for name in visible_names(place.annotations):
        own, images = place.annotations / name, place.images / name
        if common_split(name) in USUAL and _has(own, _is_xml) and images.is_dir():
            found[common_split(name)] = Place(place.root, own, images)
    return found


def _split_folders(folder: Path) -> Layout | None:
    places: dict[str, Place] = {}
    for name in visible_names(folder):
        split, below = common_split(name), folder / name
        if split not in USUAL or not below.is_dir():
            continue
        annotations, images = _subfolder(below, _ANNOTATIONS), _subfolder(below, _IMAGES)
        if annotations and images and _has(annotations, _is_xml):
            place = Place(below, annotations, images)
        elif _has(below, _is_xml):
            place = Place(below, below, images or below)
        else:
            continue
        if split in places:
            raise InputError(
                f"data {folder}: {places[split].root} and {below} can both be the {split} split; "
                "remove or rename one of the folders"
            )
        places[split] = place
    return Layout({}, places) if places else None


def _one_folder(folder: Path) -> Layout | None:
    """Images beside their XML, in the folder or in its images/."""
    for place in (folder, _subfolder(folder, _IMAGES)):
        if place and _has(place, _is_xml):
            images = _subfolder(folder, _IMAGES) or place
            return Layout(_lists(folder), {ALL: Place(folder, place, images)})
    return None


def _subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The folder of one of these names, in small or large letters; the first of `names` first."""
    there = {name.lower(): name for name in reversed(visible_names(folder))}
    for name in names:
        if name in there and (folder / there[name]).is_dir():
            return folder / there[name]
    return None


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


def _has(folder: Path, is_right: Callable[[str], bool]) -> bool:
    """Whether a file of such a name is in it."""
    return any(is_right(name) for name in visible_names(folder))


def candidates(line: str) -> Iterator[str]:
    """What a line of a list can call an image, without a suffix: the whole line, and its first
    word; a path, and its end."""
    line = line.strip().replace("\\", "/")
    for word in dict.fromkeys((line, line.split()[0])):
        name = word.removeprefix("./")
        yield name
        has_suffix = is_image_name(os.path.basename(name)) or _is_xml(name)
        stem = os.path.splitext(name)[0] if has_suffix else name
        yield stem
        if "/" in stem:
            yield stem.rpartition("/")[2]
