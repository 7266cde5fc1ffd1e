"""What folders and files call the splits of a data set, whatever the format."""

from pathlib import Path

USUAL = ("train", "val", "test")

# The split of a folder that is not divided.
ALL = "all"

_SYNONYMS = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}


def common_split(name: str) -> str:
    """train, val or test, where a file or folder of this name can only mean that one; or the
    name."""
    low = name.lower()
    low = _SYNONYMS.get(low, low)
    return low if low in USUAL else name


def split_remedy(folder: Path) -> str:
    """The command that divides a data set without a train split."""
    return (
        f"`python -m hvd_yolo.data split --data {folder} --output {folder}_split` deals "
        f"the images into train, val and test, to train on {folder}_split/data.yaml"
    )
