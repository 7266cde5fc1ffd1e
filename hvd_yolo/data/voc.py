"""Pascal VOC: an XML an image; voc_folders.py says where these, the images and the lists may lie.

Corners are taken as written, and cut to the image when it is opened. Objects marked difficult are
neither learnt nor scored: they are kept as crowds, which COCO's scoring ignores both ways.
"""

import math
import os
import xml.etree.ElementTree as ET
from pathlib import Path

from hvd_yolo.data.annotation_rows import AnnotationRows
from hvd_yolo.data.category_ids import category_ids_of
from hvd_yolo.data.coco_entries import stated_size
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.data.pixel_boxes import refuse_shares, report_repeated
from hvd_yolo.data.split_names import ALL, USUAL, split_remedy
from hvd_yolo.data.text_files import is_inside, read_text
from hvd_yolo.data.voc_folders import Layout, Place, candidates, find_layout
from hvd_yolo.errors import InputError, MissingSplit


def is_folder(folder: Path) -> bool:
    """Whether there are VOC annotations in it."""
    return find_layout(folder) is not None


def split_names(folder: Path) -> list[str]:
    """The splits of a VOC folder."""
    layout = find_layout(folder)
    return layout.splits if layout else []


def open_split(folder: Path, split: str, names: tuple[str, ...] | None = None) -> ImageFiles:
    """The split of a VOC folder. `names` orders the classes; without it they are those found, by
    the alphabet."""
    layout = find_layout(folder)
    if layout is None or split not in (layout.lists or layout.places):
        raise MissingSplit(_missing(folder, split, layout))
    names = names or _all_names(layout)
    rows = AnnotationRows(f"{folder} {split}")
    label_of_name = {name: label for label, name in enumerate(names)}
    if layout.lists:
        place = layout.places[ALL]
        files = _listed(layout.lists[split], place, rows)
    else:
        place = layout.places[split]
        files = place.xml_files()
    for file in files:
        _read_image(file, place, label_of_name, rows)
    if not layout.lists:
        used = set(map(Path, rows.files))
        for image in place.images_without_xml(used):
            rows.problems.add("images without an XML, left out", str(image))
    report_repeated(rows.files, rows.problems)
    refuse_shares(rows.rows, rows.source)
    problems = rows.problems.problems()
    if not rows.files and problems:
        raise InputError(f"data {folder}: the {split} split has no images; {problems[0]}")
    return rows.finish(names, category_ids_of(names), is_normalized=False, is_clipped=True)


def _missing(folder: Path, split: str, layout: Layout | None) -> str:
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    text = f"data {folder}: no {split} split ({listing} is missing)"
    if layout is None:
        return text
    if layout.lists or set(layout.places) != {ALL}:
        text += f"; it has {', '.join(layout.splits)}"
        if set(layout.splits) & set(USUAL):
            return text
    else:
        text += f"; there are no lists, and all its images are one split, `{ALL}`"
    return f"{text}; {split_remedy(folder)}"


def _listed(listing: Path, place: Place, rows: AnnotationRows) -> list[Path]:
    """The XML of each line; one that has none is an error that is counted."""
    files = []
    for number, line in enumerate(read_text(listing).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{listing}:{number}"
        file = _listed_xml(line, place)
        if file is None:
            rows.problems.add("listed images without an XML, left out", where, "error")
        else:
            files.append(file)
    return files


def _listed_xml(line: str, place: Place) -> Path | None:
    """The XML inside the folder that a line of a list means, if it is there. Of the path of another
    machine the end counts."""
    paths = [
        place.annotations / f"{stem}{suffix}"
        for stem in candidates(line)
        for suffix in (".xml", ".XML")
    ]
    own = (path for path in paths if is_inside(place.root, path))
    return next(filter(os.path.isfile, own), None)


def _read_image(
    file: Path, place: Place, label_of_name: dict[str, int], rows: AnnotationRows
) -> None:
    root = _parse(file)
    if root.find("image") is not None:
        raise InputError(
            f"{file}: an XML of all images, as CVAT for images; export them as COCO, Pascal VOC or "
            "YOLO"
        )
    stem = file.relative_to(place.annotations).with_suffix("").as_posix()
    file_name = (root.findtext("filename") or "").strip().replace("\\", "/")
    image, is_ambiguous = place.image(stem, file_name, str(file))
    if is_ambiguous:
        rows.problems.add("images of the same name, one taken", str(image))
    try:
        rows.start_image(image, len(rows.files) + 1, _size(root))
        for item in root.iter("object"):
            _read_object(item, file, label_of_name, rows)
    except ValueError as error:
        raise InputError(f"{file}: not a VOC annotation: {error}") from error


def _size(root: ET.Element) -> tuple[int, int]:
    """The width and height that are stated; 0, 0 unless both are."""
    size = root.find("size")
    texts = {
        side: None if size is None else size.findtext(side, "").strip()
        for side in ("width", "height")
    }
    return stated_size(texts, lambda side: f"its size has {side} {texts[side]}")


def _read_object(
    item: ET.Element,
    file: Path,
    label_of_name: dict[str, int],
    rows: AnnotationRows,
) -> None:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no name; give it that of its class")
    corners = item.find("bndbox")
    if corners is None:
        kind = "a turned box" if item.find("robndbox") is not None else "no bndbox"
        return rows.problems.add(f"objects with {kind}, left out", f"{file} {name}")
    if name not in label_of_name:
        raise InputError(f"{file}: class {name!r} is not among {', '.join(label_of_name)}")
    x1, y1, x2, y2 = (_number(corners, "bndbox", k) for k in ("xmin", "ymin", "xmax", "ymax"))
    where = f"{file} {name} {x1, y1, x2, y2}"
    is_difficult = (item.findtext("difficult") or "").strip().lower() in ("1", "true")
    return rows.add_usable((x1, y1, x2, y2), label_of_name[name], where, is_difficult)


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


def _all_names(layout: Layout) -> tuple[str, ...]:
    """The classes of all XML; what cannot be read is an error where it is listed."""
    found = set()
    for file in {file for place in layout.places.values() for file in place.xml_files()}:
        try:
            root = _parse(file)
        except InputError:
            continue
        found |= {(item.findtext("name") or "").strip() for item in root.iter("object")}
    return tuple(sorted(name for name in found if name))


class _Tree(ET.TreeBuilder):
    """Stops at a document type: no annotation has one, and the entities that it may declare can
    fill the memory from a few hundred bytes."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Called before what the document type holds is read."""
        raise ValueError(f"remove its <!DOCTYPE {name}>, which annotations have no use for")


def _parse(file: Path) -> ET.Element:
    try:
        root = ET.parse(file, ET.XMLParser(target=_Tree())).getroot()
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    # An encoding that Python or its parser does not know is a LookupError or a ValueError.
    except (ET.ParseError, LookupError, ValueError) as error:
        raise InputError(f"{file}: not XML in UTF-8: {error}") from error
    if root.tag.startswith("{"):
        # A namespace, before every tag.
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
    return root
