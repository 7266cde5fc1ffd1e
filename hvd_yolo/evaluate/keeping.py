"""The table of an evaluation as a file, for curves and pictures that are drawn later."""

import io

import numpy as np

from hvd_yolo.evaluate.scoring import Table

# COCO scores so many an image.
_MOST_DETECTIONS = 100


def packed(table: Table, names: tuple[str, ...]) -> bytes:
    """An .npz file: image_ids (N) int64, truths (T, 8) float64 and detections (D, 7) float32 as in
    Table, the 100 best an image, and the names (K) of the classes."""
    by_score = np.lexsort((-table.detections[:, 5], table.detections[:, 0]))
    detections = table.detections[by_score]
    _, first, counts = np.unique(detections[:, 0], return_index=True, return_counts=True)
    place = np.arange(len(detections)) - np.repeat(first, counts)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        image_ids=table.image_ids.astype(np.int64),
        truths=table.truths,
        detections=detections[place < _MOST_DETECTIONS].astype(np.float32),
        names=np.array(names),
    )
    return buffer.getvalue()
