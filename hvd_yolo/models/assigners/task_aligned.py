"""The assignment of YOLOv8, YOLO11 and YOLOv10."""

from typing import NamedTuple

import torch
from torch import Tensor

from hvd_yolo.models.assigners import tables
from hvd_yolo.models.assigners.owners import settle_owners

# Alignment = score^0.5 * CIoU^6: the setting of YOLOv8. TOOD itself takes score^1.
_EPS = 1e-9


class Assignment(NamedTuple):
    """What each anchor point (A) of each image (B) is to predict.

    is_positive (B, A): it answers for an object; boxes (B, A, 4): that object's box, in pixels;
    labels (B, A): its class; quality (B, A): of the point's box in 0..1, zero for background.
    """

    is_positive: Tensor
    boxes: Tensor
    labels: Tensor
    quality: Tensor

    def scores(self, num_classes: int) -> Tensor:
        """The class target (B, A, K): the quality at the class."""
        zeros = self.quality.new_zeros(*self.labels.shape, num_classes)
        return zeros.scatter_(2, self.labels[..., None], self.quality[..., None])


@torch.no_grad()
def task_aligned(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    true_boxes: Tensor,
    true_labels: Tensor,
    is_real: Tensor,
    num_candidates: int = 10,
    eps: float = 1e-30,
) -> Assignment:
    """Task-aligned assignment (Feng et al. 2021, TOOD, section 3.3).

    scores (B, A, K) in 0..1, boxes (B, A, 4) and points (A, 2) in pixels; true_boxes (B, M, 4),
    true_labels (B, M), is_real (B, M): False where an image has fewer than M objects. A point can
    answer for an object whose box it lies in; each object takes the num_candidates best aligned; a
    point claimed twice goes to the object it overlaps most.

    eps: in the divisor of the targets; it only keeps 0 / 0 out. Ultralytics has 1e-9, which is more
    than 0.03^6: there an object that no box overlaps well yet has no target, and a small one may
    never get any (16 drawn images by heart: AP50 stays at 0.70).
    """
    shape = (len(scores), true_boxes.shape[1], len(points))
    labels = true_labels.clamp(min=0)
    parts = []
    for chunk, (overlaps, alignment, *spare) in tables.image_chunks(*shape, like=boxes):
        objects = true_boxes[chunk]
        tables.complete_overlaps(objects, boxes[chunk], overlaps, [alignment, *spare])
        is_outside = tables.depths(objects, points, *spare) <= _EPS
        is_outside |= ~is_real[chunk][..., None]
        overlaps.clamp_(min=0).masked_fill_(is_outside, 0)
        by_label = labels[chunk][..., None].expand(-1, -1, len(points))
        torch.gather(scores[chunk].transpose(1, 2), 1, by_label, out=alignment)
        power = torch.square(overlaps, out=spare[0]).mul_(overlaps).square_()
        alignment.sqrt_().mul_(power)
        parts.append(_resolve(alignment, overlaps, num_candidates, eps))
    is_positive, owner, quality = (torch.cat(part) for part in zip(*parts, strict=True))
    point_boxes = true_boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    return Assignment(is_positive, point_boxes, labels.gather(1, owner), quality)


def _resolve(
    alignment: Tensor, overlaps: Tensor, num_candidates: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of tables (B, M, A): is_positive, owner and quality (B, A) of each point."""
    best, chosen = alignment.topk(min(num_candidates, alignment.shape[2]), dim=-1)
    is_positive, owner = settle_owners(chosen, best > 0, overlaps.argmax(1))
    point_alignment, point_overlap = (
        table.gather(1, owner[:, None])[:, 0] * is_positive for table in (alignment, overlaps)
    )
    # An object's best point gets its largest overlap as target, the others in proportion to their
    # alignment.
    zeros = alignment.new_zeros(alignment.shape[:2])
    best_alignment, best_overlap = (
        zeros.scatter_reduce(1, owner, values, "amax").gather(1, owner)
        for values in (point_alignment, point_overlap)
    )
    return is_positive, owner, point_alignment * best_overlap / (best_alignment + eps)
