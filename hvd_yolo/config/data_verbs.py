"""The options of `python -m hvd_yolo.data`, a dataclass a verb."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from hvd_yolo.config.comm_options import CommConfig

Format = Literal[
    "yolo", "coco", "voc", "webdataset", "labelme", "darknet", "roboflow_coco", "roboflow_voc"
]  # fmt: skip


@dataclass
class CheckConfig:
    """Read every image of a data set and tell what is wrong, on any number of ranks.

    Args:
        data: data set, as in training.
        splits: comma separated; empty: those of train, val and test
            that there are, or all where there is none of these.
        output: file to write the findings to, as JSON.
        comm: how ranks talk.
    """

    data: str = ""
    splits: str = ""
    output: str = ""
    comm: CommConfig = field(default_factory=CommConfig)


@dataclass
class StatsConfig:
    """Count and measure the objects and images of a data set, on any number of ranks.

    Args:
        data: data set, as in training.
        splits: comma separated; empty: those of train, val and test
            that there are, or all where there is none of these.
        output: file to write the numbers to, as JSON.
        comm: how ranks talk.
    """

    data: str = ""
    splits: str = ""
    output: str = ""
    comm: CommConfig = field(default_factory=CommConfig)


@dataclass
class ConvertConfig:
    """Write a data set in another format, on any number of ranks.

    Args:
        data: data set, as in training.
        splits: comma separated; empty: those of train, val and test
            that there are, or all where there is none of these.
        to: yolo (text), coco (JSON), voc (XML), webdataset (images and text in tar shards), labelme
            (JSON per image), darknet (obj.data), roboflow_coco or roboflow_voc (labels beside the
            images of train/, valid/, test/). CVAT imports coco, voc and darknet.
        output: folder to write to, empty or not there yet.
        images: copy, or link: symbolic links to the images there are, but not in shards.
        shard_images: images a shard, at most.
        comm: how ranks talk.
    """

    data: str = ""
    splits: str = ""
    to: Format = "yolo"
    output: str = ""
    images: Literal["copy", "link"] = "copy"
    shard_images: PositiveInt = 5000
    comm: CommConfig = field(default_factory=CommConfig)


@dataclass
class SplitConfig:
    """Pool the images of a data set and deal them anew, identical ones to the same split.

    Args:
        data: data set, as in training.
        splits: splits to pool, comma separated; empty: those of train, val and test
            that there are, or all where there is none of these.
        shares: what train, val and test get, comma separated, 1 in sum; two numbers: no test.
        seed: of the dealing.
        to: yolo (text), coco (JSON), voc (XML), webdataset (images and text in tar shards), labelme
            (JSON per image), darknet (obj.data), roboflow_coco or roboflow_voc (labels beside the
            images of train/, valid/, test/). CVAT imports coco, voc and darknet.
        output: folder to write to, empty or not there yet.
        images: link: symbolic links to the images there are, but not in shards; or copy.
        shard_images: images a shard, at most.
        comm: how ranks talk.
    """

    data: str = ""
    splits: str = ""
    shares: str = "0.8,0.1,0.1"
    seed: NonNegativeInt = 0
    to: Format = "yolo"
    output: str = ""
    images: Literal["copy", "link"] = "link"
    shard_images: PositiveInt = 5000
    comm: CommConfig = field(default_factory=CommConfig)


@dataclass
class DrawConfig:
    """Draw images with their labels on contact sheets, on any number of ranks.

    Args:
        data: data set, as in training.
        split: train, val or test.
        images: images a sheet.
        sheets: how many sheets, at most.
        size: side of an image on the sheet, pixels.
        seed: which images.
        output: folder for the sheets; empty: the next free runs/draw, runs/draw2, ...
        comm: how ranks talk.
    """

    data: str = ""
    split: str = "train"
    images: PositiveInt = 16
    sheets: PositiveInt = 1
    size: PositiveInt = 400
    seed: NonNegativeInt = 0
    output: str = ""
    comm: CommConfig = field(default_factory=CommConfig)
