"""Precision, recall and F1 of each class, over recall and over the score threshold, as curves to
draw: all from the arrays that pycocotools accumulates, at IoU 0.5."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hvd_yolo.evaluate.scoring import (
    MAX_DETS,
    Table,
    at_thresholds,
    best_operating_point,
    score_categories,
)

RECALLS = np.linspace(0.0, 1.0, 101)
THRESHOLDS = np.linspace(0.0, 1.0, 501)


class Curves(NamedTuple):
    """Of the K classes with truth, for all areas and the best detections of an image, as many
    as max_dets[-1].

    labels (K); precision (K, 101): interpolated, over RECALLS; at_score: precision, recall and F1
    (K, 501) over THRESHOLDS, precision NaN where no detection is left; best: the operating
    point of scoring.best_operating_point.
    """

    labels: np.ndarray
    precision: np.ndarray
    at_score: dict[str, np.ndarray]
    best: dict[str, float | None]

    @property
    def ap50(self) -> np.ndarray:
        """(K): the area under each class's curve, AP at IoU 0.5."""
        return self.precision.mean(1)


def curves(
    table: Table, num_classes: int, scorer: str = "auto", max_dets: Sequence[int] = MAX_DETS
) -> Curves:
    """The curves of an evaluation; without any truth, those of no class."""
    every = np.arange(num_classes)
    precision, _, scores = score_categories(table, every, scorer, max_dets, at_iou_50=True)
    precision, scores = precision[:, 0, :, 0, 0], scores[:, 0, :, 0, 0]
    labels = np.flatnonzero(precision[:, 0] > -1)
    best = best_operating_point(precision, scores)
    precision, scores = precision[labels], scores[labels]
    # Recall steps that are never reached have score 0.
    p, r, f1 = at_thresholds(precision, scores, np.maximum(THRESHOLDS, 1e-9))
    # No recall step is reached where none is found: then precision has no meaning.
    is_left = scores.max(1, initial=0.0)[:, None] >= THRESHOLDS
    at_score = {"precision": np.where(is_left, p, np.nan), "recall": r, "F1": f1}
    return Curves(labels, precision, at_score, best)
