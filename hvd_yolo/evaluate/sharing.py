"""Detections and truths on their way to the ranks that score their classes, and all of them to rank
0."""

from typing import NamedTuple

import numpy as np
import torch

from hvd_yolo.comm import Comm
from hvd_yolo.evaluate.scoring import Table, deal_labels

# A detection on its way, as 32-bit words: place of its image, label, box and score.
_WORDS = 7


class Share(NamedTuple):
    """What a rank has to score: the table, of all classes on rank 0, of those in `labels`
    elsewhere; the labels (k); and the number of truths of all ranks, without crowds."""

    table: Table
    labels: np.ndarray
    num_truths: int


def share_out(own: Table, num_classes: int, comm: Comm) -> Share:
    """Sends each row of the ranks' tables to the rank that scores its class, and to rank 0.

    Boxes and scores of detections must be float32 numbers. Labels that are no class go to rank 0
    alone. All ranks get all ids of images.
    """
    is_class = (own.detections[:, 6] >= 0) & (own.detections[:, 6] < num_classes)
    labels = own.detections[is_class, 6].astype(np.int64)
    counts = np.bincount(labels, minlength=num_classes)
    num_truths = int((own.truths[:, 7] == 0).sum())
    sums = comm.sum(torch.from_numpy(np.append(counts, num_truths))).numpy()
    dealt = [deal_labels(sums[:-1], rank, comm.size) for rank in range(comm.size)]
    if comm.size == 1:
        return Share(own, dealt[0], num_truths)

    parts = comm.gather(torch.from_numpy(own.image_ids.astype(np.float64)))
    first = sum(len(part) for part in parts[: comm.rank])
    image_ids = torch.cat(parts).numpy()
    words = _packed(own.detections, own.image_ids, first)
    received = comm.exchange(_parts(words, own.detections[:, 6], dealt))
    detections = _unpacked(torch.cat(received).numpy(), image_ids)
    truths = torch.cat(comm.exchange(_parts(own.truths, own.truths[:, 5], dealt))).numpy()
    return Share(Table(image_ids, truths, detections), dealt[comm.rank], int(sums[-1]))


def _parts(rows: np.ndarray, labels: np.ndarray, dealt: list[np.ndarray]) -> list[torch.Tensor]:
    """The rows for each rank."""
    others = [rows[np.isin(labels, own)] for own in dealt[1:]]
    return [torch.from_numpy(part) for part in (np.ascontiguousarray(rows), *others)]


def _packed(detections: np.ndarray, image_ids: np.ndarray, first: int) -> np.ndarray:
    """Detections (D, 7) as words (D, 7) int32; first: the place of image_ids[0] among those of all
    ranks."""
    words = np.empty((len(detections), _WORDS), dtype=np.int32)
    order = np.argsort(image_ids, kind="stable")
    places = order[np.searchsorted(image_ids[order], detections[:, 0])] if len(order) else 0
    words[:, 0] = first + places
    words[:, 1] = detections[:, 6]
    words[:, 2:] = detections[:, 1:6].astype(np.float32).view(np.int32)
    return words


def _unpacked(words: np.ndarray, image_ids: np.ndarray) -> np.ndarray:
    detections = np.empty((len(words), 7))
    detections[:, 0] = image_ids[words[:, 0]]
    detections[:, 1:6] = np.ascontiguousarray(words[:, 2:]).view(np.float32)
    detections[:, 6] = words[:, 1]
    return detections
