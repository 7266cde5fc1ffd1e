"""COCO's numbers from detections and truth, the work dealt to ranks by category.

pycocotools matches each category for itself, so a rank can score some of them; their precision
arrays are put together again and summarised by pycocotools itself. faster-coco-eval does the same
in C++ with identical numbers.
"""

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hvd_yolo.comm import Comm
from hvd_yolo.errors import InputError

# The order of pycocotools' stats.
COCO_NUMBERS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip


# COCO's own counts of detections of a class of an image.
MAX_DETS = (1, 10, 100)


class Table(NamedTuple):
    """Everything to score, boxes xyxy in pixels of the file, float64.

    image_ids (N); truths (T, 8): image id, box, label, area, is_crowd; detections (D, 7): image id,
    box, score, label.
    """

    image_ids: np.ndarray
    truths: np.ndarray
    detections: np.ndarray


def score(
    table: Table,
    names: tuple[str, ...],
    comm: Comm,
    scorer: str = "auto",
    max_dets: Sequence[int] = MAX_DETS,
) -> dict[str, Any]:
    """COCO's twelve numbers, precision, recall and F1 at the best threshold, and each class's AP:
    AP is their mean.

    Every rank gives the same whole table and gets the same numbers; see score_share, which needs
    less.
    """
    load = np.bincount(table.detections[:, 6].astype(np.int64), minlength=len(names))
    own = deal_labels(load, comm.rank, comm.size)
    return score_share(table, own, names, comm, scorer, max_dets)


def score_share(
    table: Table,
    own: np.ndarray,
    names: tuple[str, ...],
    comm: Comm,
    scorer: str = "auto",
    max_dets: Sequence[int] = MAX_DETS,
) -> dict[str, Any]:
    """The numbers of score() from tables that hold all images, and truths and detections of the
    labels that the rank scores: its `own` (k), of deal_labels.

    All ranks get the same numbers. A number without any truth behind it is undefined: None, where
    pycocotools has -1. max_dets: so many detections of a class of an image count for AR_1, AR_10
    and all else.
    """
    precision, recall, scores = score_categories(table, own, scorer, max_dets)
    order = torch.cat(comm.gather(torch.from_numpy(own))).numpy()
    precision, recall, scores = (
        _put_together(comm, part, order) for part in (precision, recall, scores)
    )
    stats = [value if value > -1 else None for value in _summarise(precision, recall)]
    metrics: dict[str, Any] = dict(zip(COCO_NUMBERS, stats, strict=True))
    # IoU 0.5, all areas, the most detections.
    metrics.update(best_operating_point(precision[:, 0, :, 0, -1], scores[:, 0, :, 0, -1]))
    metrics["per_class"] = {
        name: {"AP": _mean(precision[k, :, :, 0, -1]), "AP50": _mean(precision[k, 0, :, 0, -1])}
        for k, name in enumerate(names)
    }
    return metrics


def best_operating_point(precision: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """Precision, recall, F1 and the score threshold at which the mean F1 over classes is highest;
    each None where no class has truth.

    precision, scores (K, 101): the interpolated precision at recall 0, 0.01, ..., 1 and the score
    that reaches it, as pycocotools accumulates them; a class without truth has -1. Recall is known
    in steps of 0.01 therefore.
    """
    has_truth = precision[:, 0] > -1
    precision, scores = precision[has_truth], scores[has_truth]
    thresholds = np.unique(scores[scores > 0])
    if not has_truth.any():
        return dict.fromkeys(("precision", "recall", "f1", "threshold"))
    if not len(thresholds):
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0, "threshold": 0.0}
    p, r, f1 = at_thresholds(precision, scores, thresholds)
    best = int(f1.mean(0).argmax())
    return {
        "precision": float(p[:, best].mean()),
        "recall": float(r[:, best].mean()),
        "f1": float(f1[:, best].mean()),
        "threshold": float(thresholds[best]),
    }


def at_thresholds(
    precision: np.ndarray, scores: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 (K, S) of each class when detections below a score are dropped, for
    S scores; zeros where nothing is left. precision, scores (K, 101): as in best_operating_point,
    of classes with truth."""
    grid = np.linspace(0.0, 1.0, precision.shape[1])
    # How many recall steps each class (rows) still reaches at each threshold (columns): scores fall
    # along a row.
    steps = [np.searchsorted(-row, -thresholds, side="right") for row in scores]
    steps = np.array(steps, dtype=np.int64).reshape(len(scores), len(thresholds))
    reached = steps > 0
    at = np.maximum(steps - 1, 0)
    p = np.take_along_axis(precision, at, axis=1) * reached
    r = grid[at] * reached
    return p, r, 2 * p * r / np.maximum(p + r, 1e-16)


def _engine(scorer: str) -> tuple[type, type]:
    """The COCO and COCOeval classes of a scorer."""
    installed = importlib.util.find_spec("faster_coco_eval") is not None
    if scorer == "faster-coco-eval" and not installed:
        raise InputError(
            "eval.scorer is faster-coco-eval, which is not installed: pip install "
            "'hvd_yolo[fast-eval]'"
        )
    if scorer == "pycocotools" or not installed:
        return COCO, COCOeval
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster

    return FasterCOCO, COCOeval_faster


def deal_labels(load: np.ndarray, rank: int, size: int) -> np.ndarray:
    """The labels (int64) that `rank` scores, ascending as pycocotools sorts them; load (K): the
    detections of each."""
    # The busiest are dealt first, so that no rank gets many of them.
    return np.sort(np.argsort(-load, kind="stable")[rank::size]).astype(np.int64)


def score_categories(
    table: Table,
    labels: np.ndarray,
    scorer: str = "auto",
    max_dets: Sequence[int] = MAX_DETS,
    at_iou_50: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision (k, T, R, A, M), recall (k, T, A, M) and scores (k, T, R, A, M) of k labels.

    T IoU thresholds, R recall steps, A area ranges, M detections an image, as pycocotools
    accumulates them. at_iou_50: T, A and M are 1, of IoU 0.5, all areas and 100 detections, which
    takes a fraction of the time.
    """
    coco_class, eval_class = _engine(scorer)
    if not len(labels):
        return np.zeros((0, 10, 101, 4, 3)), np.zeros((0, 10, 4, 3)), np.zeros((0, 10, 101, 4, 3))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _as_coco(coco_class, table.image_ids, labels, _truth_annotations(table, labels))
        found = _as_coco(coco_class, table.image_ids, labels, _found_annotations(table, labels))
        evaluation = eval_class(truth, found, "bbox")
        params = evaluation.params
        params.catIds = labels.tolist()
        params.imgIds = sorted(int(i) for i in table.image_ids)
        params.maxDets = list(max_dets)
        if at_iou_50:
            params.iouThrs, params.maxDets = np.array([0.5]), [max_dets[-1]]
            params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
        evaluation.evaluate()
        evaluation.accumulate()
    result = evaluation.eval
    shape = result["precision"].shape
    scores = np.asarray(result["scores"]).reshape(shape)
    return (
        np.ascontiguousarray(np.moveaxis(result["precision"], 2, 0)),
        np.ascontiguousarray(np.moveaxis(result["recall"], 1, 0)),
        np.ascontiguousarray(np.moveaxis(scores, 2, 0)),
    )


def _truth_annotations(table: Table, labels: np.ndarray) -> list[dict[str, Any]]:
    rows = table.truths[np.isin(table.truths[:, 5], labels)]
    return [
        _annotation(number, row[:5], row[5]) | {"area": row[6], "iscrowd": int(row[7]), "ignore": 0}
        for number, row in enumerate(rows.tolist(), 1)
    ]


def _found_annotations(table: Table, labels: np.ndarray) -> list[dict[str, Any]]:
    rows = table.detections[np.isin(table.detections[:, 6], labels)]
    annotations = []
    for number, row in enumerate(rows.tolist(), 1):
        annotation = _annotation(number, row[:5], row[6])
        area = annotation["bbox"][2] * annotation["bbox"][3]
        annotations.append(annotation | {"area": area, "iscrowd": 0, "score": row[5]})
    return annotations


def _annotation(number: int, id_and_box: list[float], label: float) -> dict[str, Any]:
    image_id, x1, y1, x2, y2 = id_and_box
    return {
        "id": number,
        "image_id": int(image_id),
        "category_id": int(label),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
    }


def _as_coco(
    coco_class: type,
    image_ids: np.ndarray,
    labels: np.ndarray,
    annotations: list[dict[str, Any]],
) -> Any:  # noqa: ANN401 (COCO of either package)
    coco = coco_class()
    coco.dataset = {
        "info": {},
        "images": [{"id": int(i)} for i in image_ids],
        "categories": [{"id": int(label), "name": str(label)} for label in labels],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _put_together(comm: Comm, part: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The rows of all ranks, row k for label k; `order` holds the labels as gathered."""
    joined = torch.cat(comm.gather(torch.from_numpy(part))).numpy()
    whole = np.empty_like(joined)
    whole[order] = joined
    return whole


def _summarise(precision: np.ndarray, recall: np.ndarray) -> list[float]:
    """pycocotools' twelve numbers from the arrays of all categories. It finds the counts of
    detections by their place among its own 1, 10 and 100, whichever they were here."""
    evaluation = COCOeval(iouType="bbox")
    evaluation.eval = {
        "precision": np.moveaxis(precision, 0, 2),
        "recall": np.moveaxis(recall, 0, 1),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if len(known) else None
