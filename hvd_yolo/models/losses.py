"""Losses as sums with their divisor, and the loss of anchor-free YOLO heads."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_yolo import boxes as box_ops
from hvd_yolo.models.assigners import task_aligned
from hvd_yolo.models.distances import DISTANCE_BINS, Prediction, distance_loss


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
    return Losses(terms, next(iter(terms.values())).new_tensor(float(num_images)))


# Of a detector, images and targets: what training makes small.
LossesOf = Callable[[nn.Module, Tensor, list[dict[str, Tensor]]], "dict[str, Tensor] | Losses"]


def own_losses(
    model: nn.Module, images: Tensor, targets: list[dict[str, Tensor]]
) -> "dict[str, Tensor] | Losses":
    """What the detector itself returns in training mode; a LossesOf."""
    return model(images, targets)


# Gains of the three terms, those of YOLOv8.
_GAIN_BOX, _GAIN_CLASS, _GAIN_DISTANCE = 7.5, 0.5, 1.5


def aligned_losses(
    prediction: Prediction,
    targets: list[dict[str, Tensor]],
    num_candidates: int = 10,
    eps: float = 1e-30,
) -> Losses:
    """CIoU, class and distance losses under task-aligned assignment, as sums; the weight is the sum
    of target scores.

    targets: one dict an image with "boxes" (N, 4) in input pixels and "labels" (N);
    num_candidates: points that answer for an object, ten in YOLOv8 (TOOD itself takes 13); eps: see
    task_aligned. Box and
    distance terms are weighted by the target score of their point (Feng et al. 2021, equation 6 and
    7). Every term is connected to the prediction even without an object, so that the backward pass
    is the same on every rank.
    """
    dtype = torch.float64 if prediction.logits.dtype == torch.float64 else torch.float32
    distances, logits = prediction.distances.to(dtype), prediction.logits.to(dtype)
    prediction = Prediction(
        distances, logits, prediction.points.to(dtype), prediction.strides.to(dtype)
    )
    strides = prediction.strides[:, None]
    boxes = prediction.boxes_in_strides()
    true_boxes, true_labels, is_real = pad_targets(targets, dtype, logits.device)
    assigned = task_aligned(
        logits.detach().sigmoid(),
        boxes.detach() * strides,
        prediction.points * strides,
        true_boxes,
        true_labels,
        is_real,
        num_candidates,
        eps,
    )

    class_loss = F.binary_cross_entropy_with_logits(logits, assigned.scores, reduction="sum")
    positive = assigned.is_positive
    weight = assigned.scores.sum(-1)[positive]
    object_boxes = (assigned.boxes / strides)[positive]
    points = prediction.points.expand(len(logits), -1, -1)[positive]
    sides = torch.cat((points - object_boxes[:, :2], object_boxes[:, 2:] - points), dim=-1)
    box_loss = ((1 - box_ops.complete_iou(boxes[positive], object_boxes)) * weight).sum()
    side_logits = distances[positive].view(-1, 4, DISTANCE_BINS)
    side_loss = (distance_loss(side_logits, sides) * weight).sum()
    terms = {
        "box": _GAIN_BOX * box_loss,
        "cls": _GAIN_CLASS * class_loss,
        "dfl": _GAIN_DISTANCE * side_loss,
    }
    return Losses(terms, assigned.scores.sum())


def pad_targets(
    targets: list[dict[str, Tensor]], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, M, 4), labels (B, M) and is_real (B, M), M the most objects of an image; the rest
    is zeros."""
    most = max((len(t["boxes"]) for t in targets), default=0)
    boxes = torch.zeros(len(targets), most, 4, dtype=dtype, device=device)
    labels = torch.zeros(len(targets), most, dtype=torch.long, device=device)
    is_real = torch.zeros(len(targets), most, dtype=torch.bool)
    for i, target in enumerate(targets):
        count = len(target["boxes"])
        boxes[i, :count] = target["boxes"]
        labels[i, :count] = target["labels"]
        is_real[i, :count] = True
    return boxes, labels, is_real.to(device)
