"""Evaluation by all ranks: each detects on its share, and the detections go to the ranks that score
their classes.

No rank waits for another's private work, no image is seen twice, and every rank ends with the same
numbers.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hvd_yolo.comm import Comm, gather_json, log
from hvd_yolo.config import EvalConfig
from hvd_yolo.config.data_options import num_unreadable_allowed
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.inputs import Item
from hvd_yolo.data.loader import Batch
from hvd_yolo.data.orientation import turn_back
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate.classes import ClassMap
from hvd_yolo.evaluate.inference import infer
from hvd_yolo.evaluate.scoring import Table, score, score_share
from hvd_yolo.evaluate.sharing import share_out
from hvd_yolo.models.losses import Losses

__all__ = [
    "Evaluation",
    "Table",
    "detection_rows",
    "evaluate",
    "in_annotation_frame",
    "results_json",
    "score",
]


@dataclass
class Evaluation:
    """What evaluate() found: `metrics` for reports, truths and detections, and its time.

    table: of all images and classes on rank 0, of the classes that the rank scores elsewhere;
    turned (K, 4): image id, EXIF orientation, width and height of each image whose boxes are turned
    with it; see in_annotation_frame().
    """

    metrics: dict[str, Any]
    table: Table
    seconds: float
    turned: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    batches: Iterable[Batch],
    comm: Comm,
    options: EvalConfig,
    classes: ClassMap | None = None,
    amp: str = "none",
) -> Evaluation:
    """Scores the model on the data set; every rank gives its own evaluation_batches of it. The
    forward passes compute in `amp`: none, bf16 or fp16.

    classes: how those of the data set and of the model correspond; None: they are the same. A data
    set without truth is not scored: metrics has images and unreadable alone.

    metrics: COCO's twelve numbers (AP, AP50, AP75, AP_small, AP_medium, AP_large, AR_1, AR_10,
    AR_100, AR_small, AR_medium, AR_large), precision, recall and f1 at the threshold that is best
    over all classes at IoU 0.5, per_class, images and unreadable, and with options.loss val_loss
    and its terms. A number without objects to score against is None. Equal on all ranks, whatever
    their number.
    """
    started = time.monotonic()
    was_training = model.training
    model.eval()
    own = _Rows()
    for found in infer(model, batches, comm.device, amp, options.loss):
        own.unreadable += len(found.unreadable)
        for message in found.unreadable:
            log(comm).error("not evaluated, an unreadable image: %s", message)
        own.losses.add(found.losses)
        for item, rows in zip(found.items, found.rows, strict=True):
            own.add(item, rows)
    model.train(was_training)

    num_unreadable = int(comm.sum(torch.tensor([own.unreadable])))
    allowed = num_unreadable_allowed(options.max_unreadable, len(dataset))
    if num_unreadable > allowed:
        raise InputError(
            f"{num_unreadable} of {len(dataset)} images to evaluate could not be read, "
            f"eval.max_unreadable {options.max_unreadable:g} allows {allowed}; each is named above"
        )
    table, names = own.table(), dataset.names
    if classes is not None:
        table, names = _select(table, classes, comm), classes.names
    share = share_out(table, len(names), comm)
    metrics: dict[str, Any] = {}
    if dataset.has_truth:
        metrics |= score_share(
            share.table, share.labels, names, comm, options.scorer, options.max_dets
        )
    metrics |= {"images": len(share.table.image_ids), "unreadable": num_unreadable}
    if options.loss:
        metrics.update(own.losses.metrics(comm, share.num_truths))
    turned = torch.cat(comm.gather(torch.from_numpy(np.concatenate(own.turned)))).numpy()
    return Evaluation(metrics, share.table, time.monotonic() - started, turned)


def in_annotation_frame(detections: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """Detections (D, 7) with boxes in the frame that the annotations state: those of images that
    are `turned` (K, 4), as in Evaluation, are turned back to the stored image."""
    detections = detections.copy()
    order = np.argsort(detections[:, 0], kind="stable")
    ids = detections[order, 0]
    for image_id, orientation, width, height in turned.tolist():
        rows = order[slice(*np.searchsorted(ids, [image_id, image_id + 1]))]
        boxes = turn_back(detections[rows, 1:5], int(orientation), width, height)
        detections[rows, 1:5] = boxes
    return detections


def _select(table: Table, classes: ClassMap, comm: Comm) -> Table:
    """What is scored of a rank's table, in the labels of the scores; rank 0 tells what is not, of
    all ranks."""
    found = classes.apply(table)
    counts = [len(table.truths) - len(found.truths), len(table.detections) - len(found.detections)]
    counts = comm.sum(torch.tensor(counts)).tolist()
    if comm.is_main and any(counts):
        told = "of classes that are not scored: %s objects and %s detections, left out"
        log(comm).warning(told, *counts)
    return found


def results_json(detections: np.ndarray, category_ids: tuple[int, ...]) -> list[dict[str, Any]]:
    """The detections in COCO's results format: image_id, category_id, bbox (x, y, w, h) in pixels,
    score."""
    return [
        {
            "image_id": int(row[0]),
            "category_id": int(category_ids[int(row[6])]),
            "bbox": [row[1], row[2], row[3] - row[1], row[4] - row[2]],
            "score": row[5],
        }
        for row in detections.tolist()
    ]


class _LossSum:
    """Loss terms and their weights, summed over batches and ranks."""

    def __init__(self) -> None:
        # Pairs (2) in float64 on the device.
        self.sums: dict[str, Tensor] = {}

    def add(self, losses: Losses | None) -> None:
        """Takes in the losses of one batch, if they were asked for."""
        if losses is not None:
            for name, value in losses.terms.items():
                pair = torch.stack((value.detach(), losses.weight_of(name).detach())).double()
                self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def metrics(self, comm: Comm, num_truths: int) -> dict[str, Any]:
        """val_loss and val_losses; a rank without images does not know the terms' names and learns
        them here. NaN where there are objects and no divisor: of a model whose scores have all
        become 0 no point answers for any object, and its loss of 0 would be the best. None where
        there are no objects, by which losses are divided."""
        values = torch.stack(list(self.sums.values())).tolist() if self.sums else []
        parts = gather_json(comm, dict(zip(self.sums, values, strict=True)))
        terms: dict[str, float] = {}
        if not num_truths:
            return {"val_loss": None, "val_losses": terms}
        for name in sorted({name for part in parts for name in part}):
            totals, weights = zip(*(part.get(name, (0.0, 0.0)) for part in parts), strict=True)
            terms[name] = (
                float("nan") if sum(weights) == 0 else sum(totals) / max(sum(weights), 1.0)
            )
        return {"val_loss": sum(terms.values()), "val_losses": terms}


class _Rows:
    """What one rank finds on its share: rows as in Table and Evaluation.turned, the number of
    unreadable images, and the losses."""

    def __init__(self) -> None:
        self.image_ids = [np.zeros((0, 1))]
        self.truths = [np.zeros((0, 8))]
        self.detections = [np.zeros((0, 7))]
        self.turned = [np.zeros((0, 4))]
        self.unreadable = 0
        self.losses = _LossSum()

    def add(self, item: Item, rows: np.ndarray) -> None:
        """Take in one image; rows (M, 6): box in input pixels, score, label."""
        self.image_ids.append(np.array([[item.image_id]], dtype=np.float64))
        self.truths.append(_truth_rows(item))
        detections = detection_rows(item, rows)
        # Rounded once, before anything is made of them: ranks send float32.
        detections[:, 1:6] = detections[:, 1:6].astype(np.float32)
        self.detections.append(detections)
        if item.turn != 1:
            self.turned.append(
                np.array([[item.image_id, item.turn, item.width, item.height]], dtype=np.float64)
            )

    def table(self) -> Table:
        """The rows of this rank."""
        image_ids, truths, detections = (
            np.concatenate(rows) for rows in (self.image_ids, self.truths, self.detections)
        )
        return Table(image_ids[:, 0], truths, detections)


def detection_rows(item: Item, rows: np.ndarray) -> np.ndarray:
    """(M, 7): image id, box in pixels of the file, score, label; from rows (M, 6): box in input
    pixels, score, label."""
    rows = rows.astype(np.float64)
    boxes = item.box.undo(rows[:, :4], item.width, item.height)
    ids = np.full((len(rows), 1), item.image_id, dtype=np.float64)
    return np.concatenate((ids, boxes, rows[:, 4:]), axis=1)


def _truth_rows(item: Item) -> np.ndarray:
    """(N, 8): image id, box in pixels of the file, label, area, is_crowd."""
    truth = item.truth
    ids = np.full((len(truth.boxes), 1), item.image_id, dtype=np.float64)
    rest = np.stack((truth.labels, truth.areas, truth.is_crowd), axis=1)
    return np.concatenate((ids, truth.boxes, rest), axis=1)
