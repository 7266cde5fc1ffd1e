"""How often an image is drawn, where not each once an epoch."""

from pathlib import Path

import numpy as np

from hvd_yolo.data.cache import CachedImages
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.errors import InputError


def class_balance(dataset: Dataset, power: float) -> np.ndarray:
    """Weights (N): (f_max / f)^power for the rarest class of an image, f the share of images with a
    class; 1 for an image without objects.

    Repeat-factor sampling (Gupta et al. 2019, LVIS, section 4.1, there with power 0.5) measured
    against the commonest class.
    """
    classes = [np.unique(dataset.annotations(index, 1, 1).labels) for index in range(len(dataset))]
    counts = np.bincount(np.concatenate(classes), minlength=len(dataset.names))
    factors = (counts.max() / np.maximum(counts, 1)) ** power
    return np.array([factors[found].max(initial=1.0) for found in classes])


def read_image_weights(file: Path, dataset: Dataset) -> np.ndarray:
    """Weights (N) from a text file, `NAME WEIGHT` a line, NAME an image's file name; images it does
    not name have weight 1. Raises InputError."""
    if isinstance(dataset, CachedImages):
        dataset = dataset.dataset
    if not isinstance(dataset, ImageFiles):
        raise InputError("order.image_weights: this data set has no files to name")
    places: dict[str, list[int]] = {}
    for index, image in enumerate(dataset.files.tolist()):
        places.setdefault(Path(image).name, []).append(index)
    weights = np.ones(len(dataset))
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"order.image_weights {file}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, text = line.strip().rpartition(" ")
        where = f"order.image_weights {file}:{number}"
        if name.strip() not in places:
            raise InputError(f"{where}: no image of the train split is named {name.strip()!r}")
        try:
            weight = float(text)
        except ValueError as error:
            raise InputError(f"{where}: {error}; expected `NAME WEIGHT`") from error
        if not 0 <= weight < float("inf"):
            raise InputError(f"{where}: the weight is {text}, it must be 0 or more")
        weights[places[name.strip()]] = weight
    if not weights.any():
        raise InputError(f"order.image_weights {file}: no image has a weight above 0")
    return weights
