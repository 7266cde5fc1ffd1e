"""Where the annotated picture and the text of each source go: in the tree of the sources, no two in
one place, also where upper and lower case are one."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hvd_yolo.data.sources import Place
from hvd_yolo.errors import InputError

# What OpenCV encodes; other pictures, .mpo say, are written as .jpg.
_WRITABLE = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class OutputNames(NamedTuple):
    """Paths of one source below images/ and labels/, with `/`."""

    image: str
    label: str


def output_names(places: Sequence[Place]) -> list[OutputNames]:
    """For each place DIR/NAME.SUFFIX: images/DIR/NAME.SUFFIX and labels/DIR/NAME.txt, with
    _000001 and so on after NAME for the frames of a video.

    Where two would meet, NAME_SUFFIX stands for NAME, and a number follows if that does not help. A
    picture whose name can stay keeps it.
    """
    images = [_image_choices(place) for place in places]
    labels = [[f"{stem}.txt" for stem in _stems(place)] for place in places]
    keeps = [first == place.name for (first, *_), place in zip(images, places, strict=True)]
    order = sorted(range(len(places)), key=lambda number: not keeps[number])
    taken = _claim(images, order, _folders(images))
    # No label has the first right to a name: NAME.txt would not say which picture it belongs to.
    twice = Counter(_key(choices[0]) for choices in labels)
    is_shared = [twice[_key(choices[0])] > 1 for choices in labels]
    labels = [choices[shared:] for choices, shared in zip(labels, is_shared, strict=True)]
    order = sorted(range(len(places)), key=lambda number: is_shared[number])
    texts = _claim(labels, order, _folders(labels))
    return [OutputNames(*pair) for pair in zip(taken, texts, strict=True)]


def _image_choices(place: Place) -> list[str]:
    suffix = PurePosixPath(place.name).suffix
    if place.frame or suffix.lower() not in _WRITABLE:
        suffix = ".jpg"
    return [stem + suffix for stem in _stems(place)]


def _stems(place: Place) -> tuple[str, str]:
    stem, suffix = os.path.splitext(place.name)
    frame = f"_{place.frame:06}" if place.frame else ""
    return f"{stem}{frame}", f"{stem}_{suffix[1:]}{frame}"


def _claim(choices: list[list[str]], order: Iterable[int], folders: set[str]) -> list[str]:
    """The first of its choices, or of numbered ones, that no other has and that is no folder."""
    taken = set(folders)
    names = [""] * len(choices)
    for number in order:
        names[number] = next(
            name
            for name in chain(choices[number], _numbered(choices[number][-1]))
            if _key(name) not in taken
        )
        taken.add(_key(names[number]))
    return names


def _numbered(name: str) -> Iterator[str]:
    stem, suffix = os.path.splitext(name)
    return (f"{stem}_{number}{suffix}" for number in count(2))


def _folders(choices: list[list[str]]) -> set[str]:
    """The folders that the files lie in, which cannot be files."""
    folders = {os.path.dirname(first) for first, *_ in choices}
    parents = {str(parent) for folder in folders for parent in PurePosixPath(folder).parents}
    return {_key(folder) for folder in folders | parents}


def _key(name: str) -> str:
    """The same for names that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def refuse_output(folder: Path, sources: Sequence[Path], root: Path, is_tree: bool) -> None:
    """Raises InputError when writing to the folder would touch a source, or mix with what is there.

    is_tree: files that come into `root` become sources; the next run would detect on the output of
    this one.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output {folder} is a file: name a new folder")
    real = [Path(os.path.realpath(folder / part)) for part in ("images", "labels")]
    places = {os.path.realpath(folder) for folder in {file.parent for file in sources}}
    if any(Path(place).is_relative_to(part) for place in places for part in real):
        raise InputError(
            f"output {folder}: the sources lie there, and would be written over: name another "
            "folder with --output"
        )
    above = Path(os.path.realpath(root))
    if is_tree and any(place.is_relative_to(above) for place in real):
        raise InputError(
            f"output {folder} lies in the source {root}, and the next run would detect on what "
            "this one writes: name a folder outside it with --output"
        )
    for name in ("images", "labels", "detections.json"):
        part = folder / name
        if os.path.lexists(part) and not (part.is_dir() and not any(part.iterdir())):
            raise InputError(
                f"output {folder}: {name} is there already, of an earlier run or another data set: "
                "name a new folder, or remove it"
            )
