"""Pascal VOC: FOLDER/ImageSets/Main/SPLIT.txt, Annotations/STEM.xml, JPEGImages/STEM.jpg.

Corners are taken as written. Objects marked difficult are neither learnt nor scored: they are kept
as crowds, which COCO's scoring ignores both ways.
"""

import math
import os
import xml.etree.ElementTree as ET
from pathlib import Path

from hvd_yolo.data.category_ids import category_ids_of
from hvd_yolo.data.image_files import AnnotationRows, ImageFiles
from hvd_yolo.data.text_files import inside, read_text
from hvd_yolo.errors import InputError, MissingSplit


def open_split(folder: Path, split: str, names: tuple[str, ...] | None = None) -> ImageFiles:
    """The split of a VOC folder. `names` orders the classes; without it they are those found, by
    the alphabet."""
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        raise MissingSplit(f"data {folder}: no {split} split ({listing} is missing)")
    names = names or _all_names(folder)
    label_of_name = {name: label for label, name in enumerate(names)}
    rows = AnnotationRows(f"{folder} {split}")
    for number, line in enumerate(read_text(listing).splitlines(), 1):
        if line.strip():
            stem = line.split()[0]
            file = inside(folder, folder / "Annotations" / f"{stem}.xml", f"{listing}:{number}")
            _read_image(file, folder, stem, label_of_name, rows)
    return rows.finish(names, category_ids_of(names), is_normalized=False)


def _read_image(
    file: Path, folder: Path, stem: str, label_of_name: dict[str, int], rows: AnnotationRows
) -> None:
    root = _parse(file)
    image = folder / "JPEGImages" / f"{stem}.jpg"
    if not os.path.isfile(image):
        image = image.parent / (root.findtext("filename") or image.name)
    rows.start_image(inside(folder, image, f"{file}, filename"), len(rows.files) + 1)
    try:
        width, height = (_number(root.find("size"), "size", side) for side in ("width", "height"))
        if not (width > 0 and height > 0):
            raise ValueError(f"its size is {width:g} x {height:g}")
        for item in root.iter("object"):
            _read_object(item, file, label_of_name, width, height, rows)
    except ValueError as error:
        raise InputError(f"{file}: not a VOC annotation: {error}") from error


def _read_object(
    item: ET.Element,
    file: Path,
    label_of_name: dict[str, int],
    width: float,
    height: float,
    rows: AnnotationRows,
) -> None:
    name = item.findtext("name")
    if name not in label_of_name:
        raise InputError(f"{file}: class {name!r} is not among {', '.join(label_of_name)}")
    is_difficult = (item.findtext("difficult") or "0").strip() == "1"
    corners = item.find("bndbox")
    box = tuple(_number(corners, "bndbox", side) for side in ("xmin", "ymin", "xmax", "ymax"))
    where = f"{file} {name} {box}"
    rows.add_clipped(box, label_of_name[name], width, height, where, is_crowd=is_difficult)


def _number(parent: ET.Element | None, name: str, key: str) -> float:
    """The number that `parent`, an element of that name, has under the key; raises ValueError."""
    text = None if parent is None else parent.findtext(key)
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} {key} is {text!r}, expected a number")
    return number


def _all_names(folder: Path) -> tuple[str, ...]:
    found = {
        item.findtext("name")
        for file in (folder / "Annotations").glob("*.xml")
        for item in _parse(file).iter("object")
    }
    return tuple(sorted(name for name in found if name))


class _Tree(ET.TreeBuilder):
    """Stops at a document type: no annotation has one, and the entities that it may declare can
    fill the memory from a few hundred bytes."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Called before what the document type holds is read."""
        raise ValueError(f"remove its <!DOCTYPE {name}>, which annotations have no use for")


def _parse(file: Path) -> ET.Element:
    try:
        return ET.parse(file, ET.XMLParser(target=_Tree())).getroot()
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    # An encoding that Python or its parser does not know is a LookupError or a ValueError.
    except (ET.ParseError, LookupError, ValueError) as error:
        raise InputError(f"{file}: not XML in UTF-8: {error}") from error
