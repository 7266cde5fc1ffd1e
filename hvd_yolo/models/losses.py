"""Losses as sums with their divisor, and the loss of anchor-free YOLO heads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_yolo import boxes as box_ops
from hvd_yolo.models.assigners import assign_aligned, places_of
from hvd_yolo.models.distances import Prediction, boxes_around, distance_loss
from hvd_yolo.targets import PaddedTargets, pad_targets

Targets = Sequence[dict[str, Tensor]]


@dataclass(frozen=True)
class Losses:
    """Sums over the images given, and the number that makes them means.

    terms: scalars by name, summed over the batch, gains applied; weight: scalar to divide them by;
    own_weights: other divisors of single terms, by name. The trainer adds up terms and weights over
    ranks and micro-batches before it divides, so how the images were dealt changes nothing. A term
    with a divisor of its own is divided by the one of the update before, for the gradients of all
    terms are one sum when this update's divisors are known; that sum is multiplied by the last main
    divisor over this one, so such a term weighs more where there are few objects. An update with
    none at all, a weight below 1, is divided by those of the update before.
    """

    terms: dict[str, Tensor]
    weight: Tensor
    own_weights: dict[str, Tensor] = field(default_factory=dict)

    def total(self) -> Tensor:
        """The sum of all terms, undivided."""
        return torch.stack(list(self.terms.values())).sum()

    def weight_of(self, name: str) -> Tensor:
        """The divisor of a term."""
        return self.own_weights.get(name, self.weight)


def as_losses(losses: "dict[str, Tensor] | Losses", num_images: int) -> Losses:
    """Losses from what a detector returned: a dict holds means over its images, so the weight is
    their number."""
    if isinstance(losses, Losses):
        return losses
    terms = {name: value * num_images for name, value in losses.items()}
    return Losses(terms, next(iter(terms.values())).new_full((), float(num_images)))


# Of a detector, images and targets: what training makes small.
LossesOf = Callable[[nn.Module, Tensor, Targets], "dict[str, Tensor] | Losses"]


def own_losses(model: nn.Module, images: Tensor, targets: Targets) -> "dict[str, Tensor] | Losses":
    """What the detector itself returns in training mode; a LossesOf."""
    return model(images, targets)


def losses_of_tensors(
    losses_of: LossesOf, model: nn.Module, images: Tensor, boxes: Tensor, labels: Tensor,
    counts: Tensor,
) -> "dict[str, Tensor] | Losses":  # fmt: skip
    """The losses of targets given as the tensors of PaddedTargets.

    For torch.compile: numbers of objects on the host would make each batch a graph of its own, so
    the model gets the most that there can be; built-in ones do not read them.
    """
    targets = PaddedTargets(boxes, labels, counts, [labels.shape[1]] * len(labels))
    return losses_of(model, images, targets)


# Gains of the three terms, those of YOLOv8.
_GAIN_BOX, _GAIN_CLASS, _GAIN_DISTANCE = 7.5, 0.5, 1.5


def aligned_losses(
    prediction: Prediction, targets: Targets, num_candidates: int = 10, eps: float = 1e-30
) -> Losses:
    """CIoU, class and distance losses under task-aligned assignment, as sums; the weight is the sum
    of target scores.

    targets: PaddedTargets, or one dict an image with "boxes" (N, 4) in input pixels and "labels"
    (N); num_candidates: points that answer for an object, ten in YOLOv8 (TOOD itself takes 13);
    eps: see task_aligned. Box and distance terms are weighted by the target score of their point
    (Feng et al. 2021, equation 6 and 7). Every term is connected to the prediction even without an
    object, so that the backward pass is the same on every rank.
    """
    dtype = exact_type(prediction.logits)
    logits, strides = prediction.logits.to(dtype), prediction.strides.to(dtype)[:, None]
    points = prediction.points.to(dtype)
    padded = pad_targets(targets, dtype, logits.device)
    with torch.no_grad():
        assigned = assign_aligned(
            logits.sigmoid(), boxes_around(points, prediction.distances.to(dtype)) * strides,
            points * strides, padded.boxes, padded.labels, padded.is_real(), num_candidates, eps,
        )  # fmt: skip
    scores = assigned.scores(logits.shape[-1])
    class_loss = F.binary_cross_entropy_with_logits(logits, scores, reduction="sum")

    num_points = len(points)
    size = len(logits) * min(padded.labels.shape[1] * num_candidates, num_points)
    places, is_place = places_of(assigned.is_positive.flatten(), size)
    weight = assigned.quality.flatten().index_select(0, places) * is_place
    point = places % num_points
    distances = rows_at(prediction.distances, places, is_place).to(dtype)
    own_points = points[point]
    boxes = boxes_around(own_points, distances)
    object_boxes = assigned.boxes.flatten(0, 1).index_select(0, places) / strides[point]
    object_boxes = torch.where(is_place[:, None], object_boxes, boxes.detach())
    sides = torch.cat((own_points - object_boxes[:, :2], object_boxes[:, 2:] - own_points), dim=-1)
    box_loss = ((1 - box_ops.complete_iou(boxes, object_boxes)) * weight).sum()
    side_loss = (distance_loss(distances, sides) * weight).sum()
    terms = {
        "box": _GAIN_BOX * box_loss,
        "cls": _GAIN_CLASS * class_loss,
        "dfl": _GAIN_DISTANCE * side_loss,
    }
    return Losses(terms, assigned.quality.sum())


def rows_at(values: Tensor, places: Tensor, is_place: Tensor) -> Tensor:
    """Rows (P, ...) of values (B, A, ...) at flat places (P) of (B, A); zeros where is_place (P) is
    not, whatever the values there."""
    rows = values.flatten(0, 1).index_select(0, places)
    return rows.masked_fill(~is_place.view(-1, *[1] * (rows.ndim - 1)), 0)


def exact_type(x: Tensor) -> torch.dtype:
    """The precision to compute losses in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
