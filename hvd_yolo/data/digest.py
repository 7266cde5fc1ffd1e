"""Whether two hosts see the same data set."""

import hashlib
import os

import numpy as np

from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.image_files import ImageFiles

# What to do where they do not.
MAKE_ALIKE = "rsync -a --delete --checksum from one host to the others, or read a shared disk"


def digest_of_truth(dataset: Dataset) -> "hashlib._Hash":
    """Of the classes, and of names and annotations of all images, or what decides the drawn ones;
    not of folders, lengths and times, which may differ by host."""
    total = hashlib.sha256(repr((dataset.names, dataset.category_ids)).encode())
    if isinstance(dataset, ImageFiles):
        names = [os.path.basename(file) for file in dataset.files.tolist()]
        total.update(repr(names).encode())
        for rows in (dataset.ids, dataset.offsets, dataset.boxes, dataset.labels, dataset.is_crowd):
            total.update(np.ascontiguousarray(rows).tobytes())
        if dataset.sizes is not None:
            total.update(dataset.sizes.tobytes())
    else:
        total.update(dataset.fingerprint())
    return total
