"""Data sets of known objects, written in each format by code of its own.

The readers are not used here: what a file holds is worked out from the formats' definitions, so
that a reader that is wrong cannot be right by the same mistake.
"""

import json
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field

import cv2
import numpy as np

from tests.data.small_files import encode, with_exif

NAMES = ("red cell", "white-cell", "Platelet")

# Where the point (x, y) of a stored w x h image is displayed (EXIF 2.32, tag 274).
TURNS = {
    1: lambda x, y, w, h: (x, y),
    2: lambda x, y, w, h: (w - x, y),
    3: lambda x, y, w, h: (w - x, h - y),
    4: lambda x, y, w, h: (x, h - y),
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - y, x),
    7: lambda x, y, w, h: (h - y, w - x),
    8: lambda x, y, w, h: (y, w - x),
}


@dataclass
class Object:
    """A box xyxy in pixels of the stored image; a crowd is not learned."""

    name: str
    box: tuple[float, float, float, float]
    is_crowd: bool = False


@dataclass
class Picture:
    """An image file of `width` x `height` as stored, which `orientation` turns for display."""

    stem: str
    suffix: str
    width: int
    height: int
    orientation: int = 1
    objects: list[Object] = field(default_factory=list)

    @property
    def file(self):
        return self.stem + self.suffix

    @property
    def stored_size(self):
        return self.width, self.height

    @property
    def size(self):
        """Width and height as displayed."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    def displayed(self, box):
        """A stored box in pixels of the displayed image."""
        turn = TURNS[self.orientation]
        (xa, ya), (xb, yb) = (turn(x, y, *self.stored_size) for x, y in (box[:2], box[2:]))
        return min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)

    def truth(self):
        """[(name, displayed box)] of what is learned."""
        return [(o.name, self.displayed(o.box)) for o in self.objects if not o.is_crowd]

    def encoded(self):
        """The file: gray noise, in which the first object is white."""
        seed = self.width * 1000 + self.height + sum(map(ord, self.stem))
        pixels = np.random.default_rng(seed).integers(0, 90, (self.height, self.width, 3))
        if self.objects:
            x1, y1, x2, y2 = (round(side) for side in self.objects[0].box)
            pixels[y1:y2, x1:x2] = 255
        if self.suffix == ".png":
            return encode(".png", pixels.astype(np.uint8))
        jpeg = encode(".jpg", pixels.astype(np.uint8), cv2.IMWRITE_JPEG_QUALITY, 95)
        return with_exif(jpeg, self.orientation) if self.orientation > 1 else jpeg


def draw_pictures(rng, count, num_objects=0, crowds=False):
    """Some images with `num_objects` objects each, or 1 to 5; the sides of an image differ, and the
    first object of each has corners of whole pixels and is 8 pixels wide and high or more."""
    pictures = []
    for number in range(count):
        width, height = rng.choice(np.arange(24, 57), 2, replace=False).tolist()
        suffix = str(rng.choice([".jpg", ".JPG", ".jpeg", ".png"]))
        orientation = int(rng.integers(1, 9)) if suffix != ".png" else 1
        stem = f"{rng.choice(['im', 'Bild 7', 'a.b', '0'])}_{number}"
        picture = Picture(stem, suffix, width, height, orientation)
        x, y = int(rng.integers(0, width - 12)), int(rng.integers(0, height - 12))
        sides = (int(rng.integers(8, width - x + 1)), int(rng.integers(8, height - y + 1)))
        boxes = [(x, y, x + sides[0], y + sides[1])]
        while len(boxes) < (num_objects or rng.integers(1, 6)):
            xs, ys = (np.sort(rng.uniform(0, side, 2)) for side in (width, height))
            if min(np.diff(xs)[0], np.diff(ys)[0]) > 0.5:
                boxes.append((xs[0], ys[0], xs[1], ys[1]))
        for place, box in enumerate(boxes):
            is_crowd = bool(crowds and place and rng.integers(4) == 0)
            name = str(rng.choice(NAMES))
            picture.objects.append(Object(name, tuple(map(float, box)), is_crowd))
        pictures.append(picture)
    return pictures


def save(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def shares(picture, box):
    """cx cy w h as shares of the displayed image."""
    (x1, y1, x2, y2), (width, height) = picture.displayed(box), picture.size
    return (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height


def text_of(numbers):
    return " ".join(map(repr, map(float, numbers)))


def box_line(picture, item, rng):
    return f"{NAMES.index(item.name)} {text_of(shares(picture, item.box))}\n"


def polygon_line(picture, item, rng):
    """A polygon of 3 to 6 points that touches all four sides of the box, or the box itself."""
    if rng.integers(2):
        return box_line(picture, item, rng)
    (x1, y1, x2, y2), (width, height) = picture.displayed(item.box), picture.size
    points = [(x1, y1), (x2, rng.uniform(y1, y2)), (rng.uniform(x1, x2), y2)]
    points += [(rng.uniform(x1, x2), rng.uniform(y1, y2)) for _ in range(rng.integers(4))]
    numbers = [n for x, y in points for n in (x / width, y / height)]
    return f"{NAMES.index(item.name)} {text_of(numbers)}\n"


def pose_line(picture, item, rng):
    """The box and two keypoints of x, y, visibility."""
    points = [(*rng.uniform(0, 1, 2), rng.integers(3)) for _ in range(2)]
    numbers = text_of(n for point in points for n in point)
    return f"{box_line(picture, item, rng).strip()} {numbers}\n"


def label_text(picture, rng, line=box_line):
    return "".join(line(picture, item, rng) for item in picture.objects)


NAMES_YAML = f"nc: {len(NAMES)}\nnames: {json.dumps(NAMES)}\n"


def yolo_folders(rng, folder, pictures, line=box_line, more=""):
    for picture in pictures:
        save(folder / "images" / "train" / picture.file, picture.encoded())
        text = label_text(picture, rng, line)
        save(folder / "labels" / "train" / f"{picture.stem}.txt", text)
    save(
        folder / "data.yaml", f"path: .\ntrain: images/train\nval: images/train\n{NAMES_YAML}{more}"
    )
    return folder / "data.yaml"


def yolo_polygons(rng, folder, pictures):
    return yolo_folders(rng, folder, pictures, polygon_line)


def yolo_pose(rng, folder, pictures):
    return yolo_folders(rng, folder, pictures, pose_line, "kpt_shape: [2, 3]\n")


def yolo_lists(rng, folder, pictures):
    """Lines that count from `path`; beside labels/ or, in one folder, beside the image."""
    yolo_folders(rng, folder, pictures)
    save(folder / "train.txt", "".join(f"./images/train/{p.file}\n" for p in pictures))
    yaml_text = f"path: .\ntrain: train.txt\nval: train.txt\n{NAMES_YAML}"
    save(folder / "data.yaml", yaml_text)
    return folder / "data.yaml"


def darknet(rng, folder, pictures):
    """As CVAT exports it: obj.data, obj.names, and lists whose lines begin with data/."""
    for picture in pictures:
        save(folder / "obj_train_data" / picture.file, picture.encoded())
        save(folder / "obj_train_data" / f"{picture.stem}.txt", label_text(picture, rng))
    save(folder / "train.txt", "".join(f"data/obj_train_data/{p.file}\n" for p in pictures))
    save(folder / "obj.names", "".join(f"{name}\n" for name in NAMES))
    lines = ["classes = 3", "train = data/train.txt", "names = data/obj.names", "backup = backup/"]
    save(folder / "obj.data", "\n".join(lines) + "\n")
    return folder / "obj.data"


def coco_content(pictures, is_stored=False, first_id=1, file_name=lambda picture: picture.file):
    """Sizes and boxes of the displayed images, or of those stored where a turn by EXIF swaps the
    sides."""
    images, annotations = [], []
    for number, picture in enumerate(pictures, first_id):
        is_turned = not (is_stored and picture.orientation >= 5)
        width, height = picture.size if is_turned else picture.stored_size
        entry = {"id": number, "file_name": file_name(picture), "width": width, "height": height}
        images.append(entry)
        for item in picture.objects:
            x1, y1, x2, y2 = picture.displayed(item.box) if is_turned else item.box
            annotation = {
                "id": len(annotations) + 1, "image_id": number, "iscrowd": int(item.is_crowd),
                "category_id": 10 * NAMES.index(item.name) + 7, "area": (x2 - x1) * (y2 - y1),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }  # fmt: skip
            annotations.append(annotation)
    categories = [{"id": 10 * i + 7, "name": name} for i, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco(rng, folder, pictures, is_stored=False):
    for picture in pictures:
        save(folder / "images" / "train" / picture.file, picture.encoded())
    content = coco_content(pictures, is_stored, int(rng.integers(1, 1000)))
    save(folder / "annotations" / "instances_train.json", json.dumps(content))
    return folder


def coco_stored(rng, folder, pictures):
    return coco(rng, folder, pictures, is_stored=True)


def roboflow_coco(rng, folder, pictures):
    """_annotations.coco.json beside the images, and a root category without annotations."""
    content = coco_content(pictures)
    for category in content["categories"]:
        category["supercategory"] = "cells"
    root = {"id": 0, "name": "cells", "supercategory": "none"}
    content["categories"].insert(0, root)
    for place in ("train", "valid"):
        save(folder / place / "_annotations.coco.json", json.dumps(content))
        for picture in pictures:
            save(folder / place / picture.file, picture.encoded())
    return folder


def cvat_coco(rng, folder, pictures):
    """instances_default.json, and all images in images/."""
    for picture in pictures:
        save(folder / "images" / picture.file, picture.encoded())
    content = {"licenses": [{"name": "", "id": 0, "url": ""}], **coco_content(pictures)}
    save(folder / "annotations" / "instances_default.json", json.dumps(content))
    return folder


def voc_xml(picture, is_stored=False):
    is_turned = not (is_stored and picture.orientation >= 5)
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = picture.file
    size = ET.SubElement(root, "size")
    sides = (*(picture.size if is_turned else picture.stored_size), 3)
    for tag, side in zip(("width", "height", "depth"), sides, strict=True):
        ET.SubElement(size, tag).text = str(side)
    for item in picture.objects:
        entry = ET.SubElement(root, "object")
        ET.SubElement(entry, "name").text = item.name
        ET.SubElement(entry, "difficult").text = str(int(item.is_crowd))
        box = ET.SubElement(entry, "bndbox")
        corners = picture.displayed(item.box) if is_turned else item.box
        for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ET.SubElement(box, tag).text = repr(float(side))
    return ET.tostring(root)


def voc(rng, folder, pictures, is_stored=False):
    for picture in pictures:
        save(folder / "JPEGImages" / picture.file, picture.encoded())
        save(folder / "Annotations" / f"{picture.stem}.xml", voc_xml(picture, is_stored))
    lines = "".join(f"{picture.stem}\n" for picture in pictures)
    save(folder / "ImageSets" / "Main" / "train.txt", lines)
    return folder


def voc_stored(rng, folder, pictures):
    return voc(rng, folder, pictures, is_stored=True)


def roboflow_voc(rng, folder, pictures):
    """XML beside the images."""
    for place in ("train", "valid"):
        for picture in pictures:
            save(folder / place / picture.file, picture.encoded())
            save(folder / place / f"{picture.stem}.xml", voc_xml(picture))
    return folder


def labelme(rng, folder, pictures):
    """A JSON file beside each image: rectangles by two corners in any order, or polygons."""
    for picture in pictures:
        shapes = []
        for item in picture.objects:
            x1, y1, x2, y2 = picture.displayed(item.box)
            is_box = bool(rng.integers(2))
            corners = [[x2, y1], [x1, y2]] if rng.integers(2) else [[x1, y1], [x2, y2]]
            polygon = [[x1, y1], [x2, (y1 + y2) / 2], [(x1 + x2) / 2, y2]]
            shape = {"label": item.name, "points": corners if is_box else polygon}
            shapes.append({**shape, "shape_type": "rectangle" if is_box else "polygon"})
        width, height = picture.size
        content = {
            "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": picture.file,
            "imageData": None, "imageHeight": height, "imageWidth": width,
        }  # fmt: skip
        save(folder / "train" / picture.file, picture.encoded())
        save(folder / "train" / f"{picture.stem}.json", json.dumps(content))
    return folder


def split_of(writer):
    """What the split that it writes is called."""
    return "default" if writer is cvat_coco else "train"
