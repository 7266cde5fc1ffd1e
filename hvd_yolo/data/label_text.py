"""Labels as text: a YOLO line, a VOC tree, a LabelMe or COCO file. The readers of this folder
read them back."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable

import numpy as np

from hvd_yolo.data.dataset import Annotations


def yolo_text(truth: Annotations, width: int, height: int) -> str:
    """`class cx cy w h` a line, as shares of the sides; nine digits are well below a pixel's
    millionth."""
    lows, highs = truth.boxes[:, :2], truth.boxes[:, 2:]
    shares = np.concatenate(((lows + highs) / 2, highs - lows), axis=1)
    shares /= (width, height, width, height)
    rows = zip(truth.labels.tolist(), shares.tolist(), strict=True)
    return "".join(f"{label} {' '.join(f'{v:.9g}' for v in numbers)}\n" for label, numbers in rows)


def voc_xml(
    truth: Annotations, file_name: str, width: int, height: int, names: tuple[str, ...]
) -> str:
    """The annotation of one image. Crowds are marked difficult, corners are written in full."""
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = file_name
    _append(ET.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    for box, label, is_crowd in zip(truth.boxes, truth.labels, truth.is_crowd, strict=True):
        item = ET.SubElement(root, "object")
        _append(item, {"name": names[label], "difficult": int(is_crowd)})
        corners = (np.format_float_positional(side, trim="-") for side in box)
        sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        _append(ET.SubElement(item, "bndbox"), dict(sides))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _append(parent: ET.Element, values: dict[str, object]) -> None:
    for tag, value in values.items():
        ET.SubElement(parent, tag).text = str(value)


def labelme_json(
    truth: Annotations, file_name: str, width: int, height: int, names: tuple[str, ...]
) -> str:
    """The LabelMe file of one image: a rectangle per object."""
    shapes = [
        {
            "label": names[label],
            "points": [[left, top], [right, bottom]],
            "group_id": None,
            "description": "",
            "shape_type": "rectangle",
            "flags": {},
        }
        for (left, top, right, bottom), label in zip(
            truth.boxes.tolist(), truth.labels.tolist(), strict=True
        )
    ]
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": file_name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def coco_json(
    images: Iterable[tuple[int, str, int, int, Annotations]],
    names: tuple[str, ...],
    category_ids: tuple[int, ...],
) -> str:
    """The instances file of one split, from the id, file name, width, height and objects of its
    images."""
    entries, annotations = [], []
    for image_id, file_name, width, height, truth in images:
        entries.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for (left, top, right, bottom), label, area, is_crowd in zip(
            *(column.tolist() for column in truth), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": area,
                    "iscrowd": int(is_crowd),
                }
            )
    categories = [
        {"id": number, "name": name} for number, name in zip(category_ids, names, strict=True)
    ]
    return json.dumps({"images": entries, "annotations": annotations, "categories": categories})
