"""Whether a split holds anything to learn from, or to score against, as far as its labels tell
without the images."""

import numpy as np

from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.errors import InputError


def has_objects(dataset: Dataset) -> bool:
    """Return whether a label of the split has an area and is no crowd. Boxes in pixels may still
    lie outside their images, which only the images tell."""
    if not isinstance(dataset, ImageFiles):
        return True
    has_area = (dataset.boxes[:, 2:] > dataset.boxes[:, :2]).all(1)
    return bool(np.any(has_area & ~dataset.is_crowd))


def refuse_without_objects(dataset: Dataset, data: str, split: str) -> None:
    """Raise InputError where the split has no object, naming what the reader left out."""
    if has_objects(dataset):
        return
    problems = dataset.problems if isinstance(dataset, ImageFiles) else []
    reasons = list(map(str, problems))
    if isinstance(dataset, ImageFiles) and dataset.is_crowd.any():
        reasons.append(f"crowds, which are not learned from: {int(dataset.is_crowd.sum())}")
    found = "; ".join(reasons) or "every image is background: are the labels where they belong?"
    raise InputError(
        f"data {data}: the {split} split has no object on any of its {len(dataset)} images, so "
        f"there is nothing to learn from: {found}"
    )
