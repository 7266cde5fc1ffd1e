"""Where each format that is written keeps its images and labels."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """Paths below the data set's folder.

    labels: what the label files hold. image, label: path of one image and of its label file, with
    {split}, {name} and {stem}; label is empty where one file holds the labels of a split, or where
    they lie in the image's shard. annotations: path of that one file. folders: what the splits'
    folders are called if not as the splits.
    """

    labels: Literal["yolo", "voc", "coco", "labelme"]
    image: str
    label: str = ""
    annotations: str = ""
    folders: dict[str, str] = field(default_factory=dict)

    def image_path(self, split: str, name: str) -> Path:
        """The path of an image."""
        return Path(self.image.format(split=self.folders.get(split, split), name=name))

    def label_path(self, split: str, name: str) -> Path:
        """The path of the label file of the image of that name."""
        split = self.folders.get(split, split)
        return Path(self.label.format(split=split, stem=Path(name).stem))

    def annotation_path(self, split: str) -> Path:
        """The path of the file with all labels of a split."""
        return Path(self.annotations.format(split=self.folders.get(split, split)))


_ROBOFLOW = {"val": "valid"}

LAYOUTS = {
    "yolo": Layout("yolo", "images/{split}/{name}", "labels/{split}/{stem}.txt"),
    "darknet": Layout("yolo", "obj_{split}_data/{name}", "obj_{split}_data/{stem}.txt"),
    "webdataset": Layout("yolo", "images/{split}/{name}"),
    "coco": Layout(
        "coco", "images/{split}/{name}", annotations="annotations/instances_{split}.json"
    ),
    "roboflow_coco": Layout(
        "coco", "{split}/{name}", "", "{split}/_annotations.coco.json", _ROBOFLOW
    ),
    "voc": Layout("voc", "JPEGImages/{name}", "Annotations/{stem}.xml"),
    "roboflow_voc": Layout("voc", "{split}/{name}", "{split}/{stem}.xml", "", _ROBOFLOW),
    "labelme": Layout("labelme", "{split}/{name}", "{split}/{stem}.json"),
}
