"""A split in numbers: how many objects and images of which class, how large, of what shape."""

from collections import Counter
from typing import Any

import numpy as np

from hvd_yolo.data.survey import Survey, as_annotations

# Where COCO's evaluation divides small, medium and large, in pixels of area.
_SMALL, _MEDIUM = 32**2, 96**2

_QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}


def measure(names: tuple[str, ...], survey: Survey) -> dict[str, Any]:
    """The numbers of one split, as JSON holds them.

    Crowds are counted, and are no objects in all else. An aspect ratio is width by height, of boxes
    that have both; quantiles of nothing are empty.
    """
    truth = as_annotations(survey.objects)
    is_object = ~truth.is_crowd
    areas = truth.areas[is_object]
    widths, heights = (truth.boxes[is_object, 2:] - truth.boxes[is_object, :2]).T
    has_shape = (widths > 0) & (heights > 0)
    is_read = survey.is_read
    owners = survey.owners[is_object]
    per_image = np.bincount(owners, minlength=len(is_read))[is_read]
    return {
        "images": len(is_read),
        "unreadable": int((~is_read).sum()),
        "background": int((survey.images[is_read, 2] == 0).sum()),
        "objects": len(areas),
        "crowds": int(truth.is_crowd.sum()),
        "objects_per_image": _quantiles(per_image),
        "areas": {
            "small": int((areas < _SMALL).sum()),
            "medium": int(((areas >= _SMALL) & (areas < _MEDIUM)).sum()),
            "large": int((areas >= _MEDIUM).sum()),
        },
        "widths": _quantiles(widths),
        "heights": _quantiles(heights),
        "aspect_ratios": _quantiles(widths[has_shape] / heights[has_shape]),
        "classes": _classes(names, truth.labels[is_object], owners),
        "image_sizes": _image_sizes(survey.images[is_read, :2]),
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(values, list(_QUANTILES.values())).tolist()
    return {**dict(zip(_QUANTILES, found, strict=True)), "mean": float(values.mean())}


def _classes(
    names: tuple[str, ...], labels: np.ndarray, owners: np.ndarray
) -> dict[str, dict[str, int]]:
    """How many objects each class has, and on how many images."""
    pairs = np.unique(np.stack((labels, owners)), axis=1)
    objects = np.bincount(labels, minlength=len(names)).tolist()
    images = np.bincount(pairs[0], minlength=len(names)).tolist()
    return {
        name: {"objects": objects[label], "images": images[label]}
        for label, name in enumerate(names)
    }


def _image_sizes(sides: np.ndarray) -> dict[str, int]:
    """`{"640x480": 205}`, the most frequent first."""
    counts = Counter(f"{width}x{height}" for width, height in sides.tolist())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
