"""Whether two hosts, or a run and its resumption, see the same data set."""

import hashlib
import os
from typing import Any

import numpy as np

from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.image_files import ImageFiles

# What to do where they do not.
MAKE_ALIKE = "rsync -a --delete --checksum from one host to the others, or read a shared disk"


def summary(dataset: Dataset) -> dict[str, Any]:
    """A split in short, as JSON holds it: the number of images, and digests of their files in order
    and of all that digest_of_truth() looks at."""
    files = digest_of_files(dataset)
    return {
        "images": len(dataset),
        "files": files.hexdigest()[:12],
        "truth": _digest_of_truth(dataset, files).hexdigest()[:12],
    }


def digest_of_files(dataset: Dataset) -> "hashlib._Hash":
    """Of the names of all image files in their order, or what decides the drawn ones; not of
    folders, nor of what is in the files."""
    if isinstance(dataset, ImageFiles):
        names = [os.path.basename(file) for file in dataset.files.tolist()]
        return hashlib.sha256(repr(names).encode())
    return hashlib.sha256(dataset.fingerprint())


def digest_of_truth(dataset: Dataset) -> "hashlib._Hash":
    """Of the classes, and of names and annotations of all images, or what decides the drawn ones;
    not of folders, lengths and times, which may differ by host."""
    return _digest_of_truth(dataset, digest_of_files(dataset))


def _digest_of_truth(dataset: Dataset, files: "hashlib._Hash") -> "hashlib._Hash":
    total = hashlib.sha256(repr((dataset.names, dataset.category_ids)).encode())
    total.update(files.digest())
    if isinstance(dataset, ImageFiles):
        for rows in (dataset.ids, dataset.offsets, dataset.boxes, dataset.labels, dataset.is_crowd):
            total.update(np.ascontiguousarray(rows).tobytes())
        if dataset.sizes is not None:
            total.update(dataset.sizes.tobytes())
    return total
