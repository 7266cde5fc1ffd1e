"""Data sets of colored rectangles, and checkpoints of a detector that finds them."""

import json

import cv2
import numpy as np
import torch
import yaml

from hvd_yolo import checkpoint
from hvd_yolo.config import Config, to_yaml
from tests.models.color_detector import COLORS, build

SIZE = 64


def draw(rows):
    """(64, 64, 3) uint8 BGR with rectangles (color, x, y, w, h)."""
    image = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    for color, x, y, w, h in rows:
        image[y : y + h, x : x + w] = COLORS[color][::-1]
    return image


def some_rows(seed, num_colors=3):
    """Up to nine rectangles that do not touch."""
    rng = np.random.default_rng(seed)
    cells = [(20 * i + 2, 20 * j + 2) for i in range(3) for j in range(3)]
    return [
        (int(rng.integers(num_colors)), x, y, int(rng.integers(6, 18)), int(rng.integers(6, 18)))
        for x, y in cells
        if rng.random() < 0.7
    ]


def make_yolo(folder, names, images, label_of=None, split="val"):
    """A data.yaml whose splits train and val are `images`, rows of draw() each; label_of: the class
    of each color, its own number where that is None."""
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(images):
        cv2.imwrite(str(folder / "images" / split / f"{number}.png"), draw(rows))
        lines = [
            f"{color if label_of is None else label_of[color]} {(x + w / 2) / SIZE} "
            f"{(y + h / 2) / SIZE} {w / SIZE} {h / SIZE}\n"
            for color, x, y, w, h in rows
        ]
        (folder / "labels" / split / f"{number}.txt").write_text("".join(lines))
    content = {"path": ".", "train": f"images/{split}", "val": f"images/{split}", "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def make_coco(folder, names, ids, images, split="val", has_annotations=True):
    """A COCO folder with those categories, the class of a color being its place."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "images" / split).mkdir(parents=True)
    annotations = []
    for number, rows in enumerate(images, 1):
        cv2.imwrite(str(folder / "images" / split / f"{number}.png"), draw(rows))
        for color, x, y, w, h in rows:
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": ids[color],
                "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
            })  # fmt: skip
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": SIZE, "height": SIZE}
            for i in range(1, len(images) + 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)],
    }
    if has_annotations:
        content["annotations"] = annotations
    file = folder / "annotations" / f"instances_{split}.json"
    file.write_text(json.dumps(content))
    return file


def write_checkpoint(file, names, data, is_rough=False, ids=None):
    """A checkpoint of the detector, its class k the k-th color."""
    model = build(len(names))
    model.is_rough = torch.tensor(float(is_rough))
    config = Config(model="tests.models.color_detector:build", data=str(data), imgsz=SIZE)
    checkpoint.save(file, {
        "config": to_yaml(config), "names": list(names), "weights": model.state_dict(),
        "category_ids": list(ids or range(1, len(names) + 1)),
    })  # fmt: skip
    return str(file)
