"""Which prediction answers for which object."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hvd_yolo import boxes as box_ops

# Alignment = score^0.5 * CIoU^6 and ten candidates an object: the settings of YOLOv8. TOOD itself
# takes score^1 and 13.
_SCORE_POWER, _IOU_POWER, _NUM_CANDIDATES = 0.5, 6.0, 10
_EPS = 1e-9


class Assignment(NamedTuple):
    """What each anchor point (A) of each image (B) is to predict.

    is_positive (B, A): it answers for an object; boxes (B, A, 4): that object's box, in pixels;
    scores (B, A, K): the class target, its box quality in 0..1, zero for background.
    """

    is_positive: Tensor
    boxes: Tensor
    scores: Tensor


@torch.no_grad()
def task_aligned(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    true_boxes: Tensor,
    true_labels: Tensor,
    is_real: Tensor,
) -> Assignment:
    """Task-aligned assignment (Feng et al. 2021, TOOD, section 3.3).

    scores (B, A, K) in 0..1, boxes (B, A, 4) and points (A, 2) in pixels; true_boxes (B, M, 4),
    true_labels (B, M), is_real (B, M): False where an image has fewer than M objects. A point can
    answer for an object whose box it lies in; each object takes the ten best aligned; a point
    claimed twice goes to the object it overlaps most.
    """
    num_images, num_points, num_classes = scores.shape
    num_objects = true_boxes.shape[1]
    if num_objects == 0 or num_images == 0:
        return Assignment(
            scores.new_zeros((num_images, num_points), dtype=torch.bool),
            boxes.new_zeros(num_images, num_points, 4),
            torch.zeros_like(scores),
        )

    is_inside = _lies_inside(points, true_boxes) & is_real[..., None]
    overlaps = box_ops.complete_iou(true_boxes[:, :, None], boxes[:, None]).clamp_(min=0)
    overlaps = overlaps * is_inside
    labels = true_labels.clamp(min=0)
    label_scores = scores.transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, num_points))
    alignment = label_scores.pow(_SCORE_POWER) * overlaps.pow(_IOU_POWER) * is_inside

    is_candidate = _best(alignment)
    is_contested = is_candidate.sum(1, keepdim=True) > 1
    is_best_overlap = F.one_hot(overlaps.argmax(1), num_objects).transpose(1, 2).bool()
    is_candidate = torch.where(is_contested, is_best_overlap & is_inside, is_candidate)

    is_positive = is_candidate.any(1)
    owner = is_candidate.to(torch.uint8).argmax(1)
    point_boxes = true_boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    point_labels = labels.gather(1, owner)

    # An object's best point gets its largest overlap as target, the others in proportion to their
    # alignment.
    alignment, overlaps = alignment * is_candidate, overlaps * is_candidate
    best_alignment = alignment.amax(2, keepdim=True)
    best_overlap = overlaps.amax(2, keepdim=True)
    quality = (alignment * best_overlap / (best_alignment + _EPS)).amax(1)
    one_hot = F.one_hot(point_labels, num_classes).to(scores.dtype)
    return Assignment(is_positive, point_boxes, one_hot * (quality * is_positive)[..., None])


def _lies_inside(points: Tensor, true_boxes: Tensor) -> Tensor:
    """(B, M, A): point inside box, by more than a rounding error."""
    to_sides = torch.cat(
        (points[None, None] - true_boxes[:, :, None, :2], true_boxes[:, :, None, 2:] - points),
        dim=-1,
    )
    return to_sides.amin(-1) > _EPS


def _best(alignment: Tensor) -> Tensor:
    """(B, M, A): among the object's ten highest, and above zero."""
    count = min(_NUM_CANDIDATES, alignment.shape[-1])
    chosen = alignment.topk(count, dim=-1).indices
    is_chosen = torch.zeros_like(alignment, dtype=torch.bool).scatter_(-1, chosen, True)
    return is_chosen & (alignment > 0)
