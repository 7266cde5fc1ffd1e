"""The table of an evaluation as a file, for curves and pictures that are drawn later."""

import io

import numpy as np

from hvd_yolo.evaluate.scoring import MAX_DETS, Table


def packed(table: Table, names: tuple[str, ...], most: int = MAX_DETS[-1]) -> bytes:
    """An .npz file: image_ids (N) int64, truths (T, 8) and detections (D, 7) float64 as in Table,
    the best of each class of an image, as many as are scored, `most`, boxes and scores rounded to
    float32, and the names (K) of the classes."""
    image, score, label = table.detections[:, [0, 5, 6]].T
    detections = table.detections[np.lexsort((-score, label, image))]
    pairs = detections[:, [0, 6]]
    _, first, counts = np.unique(pairs, axis=0, return_index=True, return_counts=True)
    place = np.arange(len(detections)) - np.repeat(first, counts)
    # Zeros in half of their bits; ids of images need all.
    detections[:, 1:] = detections[:, 1:].astype(np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        image_ids=table.image_ids.astype(np.int64),
        truths=table.truths,
        detections=detections[place < most],
        names=np.array(names),
    )
    return buffer.getvalue()
