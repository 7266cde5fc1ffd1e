"""Which object was taken for which: detections matched with truth whatever their class, the
confusion matrix and the faults of each image."""

from typing import NamedTuple

import numpy as np
import torch

from hvd_yolo.boxes import area, pairwise_iou
from hvd_yolo.evaluate.scoring import Table


class Matches(NamedTuple):
    """Rows of a table: pairs (P, 2) of truths and detections that belong together, truths that were
    missed (M) and detections of nothing (F)."""

    pairs: np.ndarray
    missed: np.ndarray
    unfounded: np.ndarray


class Faults(NamedTuple):
    """How many objects of an image were missed, found where nothing is, and given a wrong class."""

    missed: int
    unfounded: int
    mistaken: int


def match(table: Table, threshold: float = 0.25, iou: float = 0.5) -> Matches:
    """Matches detections of at least that score with truths of their image, the pair of the largest
    IoU first, each box once.

    The class is not looked at, so that one class taken for another can be told. What lies in a
    crowd by more than `iou` of its own area, and is no pair, is not counted; crowds are not missed.
    """
    found = np.flatnonzero(table.detections[:, 5] >= threshold)
    found = found[np.argsort(table.detections[found, 0], kind="stable")]
    ids = table.detections[found, 0]
    by_image = np.argsort(table.truths[:, 0], kind="stable")
    truth_ids = table.truths[by_image, 0]
    pairs, missed, unfounded = [np.zeros((0, 2), np.int64)], [], []
    for image_id in np.union1d(truth_ids, ids):
        truths = by_image[slice(*np.searchsorted(truth_ids, (image_id, image_id + 1)))]
        own = found[slice(*np.searchsorted(ids, (image_id, image_id + 1)))]
        is_crowd = table.truths[truths, 7].astype(bool)
        crowds, truths = truths[is_crowd], truths[~is_crowd]
        boxes = table.detections[own, 1:5]
        taken = _greedy(table.truths[truths, 1:5], boxes, iou)
        pairs.append(np.stack((truths[taken[:, 0]], own[taken[:, 1]]), axis=1))
        missed.append(np.delete(truths, taken[:, 0]))
        is_left = ~_is_inside(boxes, table.truths[crowds, 1:5], iou)
        is_left[taken[:, 1]] = False
        unfounded.append(own[is_left])
    empty = np.zeros(0, np.int64)
    return Matches(
        np.concatenate(pairs), np.concatenate([empty, *missed]), np.concatenate([empty, *unfounded])
    )


def confusion(table: Table, matches: Matches, num_classes: int) -> np.ndarray:
    """The confusion matrix (K + 1, K + 1) int64: a row for each class that was found, a column for
    each class that is there, and last the background: missed objects in its row, detections of
    nothing in its column."""
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    there = table.truths[:, 5].astype(np.int64)
    found = table.detections[:, 6].astype(np.int64)
    np.add.at(matrix, (found[matches.pairs[:, 1]], there[matches.pairs[:, 0]]), 1)
    np.add.at(matrix[num_classes], there[matches.missed], 1)
    np.add.at(matrix[:, num_classes], found[matches.unfounded], 1)
    return matrix


def faults_by_image(table: Table, matches: Matches) -> dict[int, Faults]:
    """The faults of each image by its id."""
    truths, found = matches.pairs.T
    is_mistaken = table.truths[truths, 5] != table.detections[found, 6]
    owners = (
        table.truths[matches.missed, 0],
        table.detections[matches.unfounded, 0],
        table.truths[truths[is_mistaken], 0],
    )
    counts = [dict(zip(*np.unique(ids, return_counts=True), strict=True)) for ids in owners]
    return {
        int(image_id): Faults(*(int(count.get(image_id, 0)) for count in counts))
        for image_id in table.image_ids
    }


def _greedy(truths: np.ndarray, found: np.ndarray, least: float) -> np.ndarray:
    """(P, 2): truth and detection of each pair with at least that IoU, the largest first, each row
    of truths (N, 4) and found (D, 4) once."""
    ious = pairwise_iou(torch.from_numpy(truths), torch.from_numpy(found).double()).numpy()
    rows, columns = np.nonzero(ious >= least)
    pairs, used_rows, used_columns = [], set(), set()
    for place in np.argsort(-ious[rows, columns], kind="stable"):
        row, column = int(rows[place]), int(columns[place])
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            pairs.append((row, column))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _is_inside(boxes: np.ndarray, crowds: np.ndarray, share: float) -> np.ndarray:
    """Which of boxes (D, 4) lie in one of crowds (C, 4) by more than that share of their area."""
    if not len(crowds):
        return np.zeros(len(boxes), dtype=bool)
    low = np.maximum(boxes[:, None, :2], crowds[:, :2])
    high = np.minimum(boxes[:, None, 2:], crowds[:, 2:])
    covered = np.maximum(high - low, 0).prod(-1)
    own = area(torch.from_numpy(boxes)).numpy()
    return (covered > share * own[:, None]).any(1)
