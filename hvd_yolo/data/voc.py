"""Pascal VOC: FOLDER/ImageSets/Main/SPLIT.txt, Annotations/STEM.xml, JPEGImages/STEM.jpg.

Corners are taken as written. Objects marked difficult are neither learnt nor scored: they are kept
as crowds, which COCO's scoring ignores both ways.
"""

import xml.etree.ElementTree as ET
from pathlib import Path

from hvd_yolo.data.dataset import AnnotationRows, ImageFiles
from hvd_yolo.errors import InputError


def open_split(folder: Path, split: str, names: tuple[str, ...] | None = None) -> ImageFiles:
    """The split of a VOC folder. `names` orders the classes; without it they are those found, by
    the alphabet."""
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        raise InputError(f"data {folder}: no {split} split ({listing} is missing)")
    names = names or _all_names(folder)
    label_of_name = {name: label for label, name in enumerate(names)}
    rows = AnnotationRows(f"{folder} {split}")
    stems = [line.split()[0] for line in listing.read_text().splitlines() if line.strip()]
    for number, stem in enumerate(stems, 1):
        file = folder / "Annotations" / f"{stem}.xml"
        root = _parse(file)
        image = folder / "JPEGImages" / f"{stem}.jpg"
        if not image.is_file():
            image = image.with_name(root.findtext("filename") or image.name)
        rows.start_image(image, number)
        try:
            width, height = (
                float(root.find("size").findtext(side)) for side in ("width", "height")
            )
            if not (width > 0 and height > 0):
                raise ValueError(f"its size is {width:g} x {height:g}")
            for item in root.iter("object"):
                _read_object(item, file, label_of_name, width, height, rows)
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"{file}: not a VOC annotation: {error}") from error
    return rows.finish(names, tuple(range(len(names))), is_normalized=False)


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
    box = tuple(float(corners.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
    where = f"{file} {name} {box}"
    rows.add_clipped(box, label_of_name[name], width, height, where, is_crowd=is_difficult)


def _all_names(folder: Path) -> tuple[str, ...]:
    found = {
        item.findtext("name")
        for file in (folder / "Annotations").glob("*.xml")
        for item in _parse(file).iter("object")
    }
    return tuple(sorted(name for name in found if name))


def _parse(file: Path) -> ET.Element:
    try:
        return ET.parse(file).getroot()
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing") from error
    except ET.ParseError as error:
        raise InputError(f"{file}: not XML: {error}") from error
