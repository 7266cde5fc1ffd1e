"""SimOTA, the assignment of YOLOX."""

from typing import NamedTuple

import torch
from torch import Tensor

from hvd_yolo.models.assigners import tables
from hvd_yolo.models.assigners.owners import settle_owners

# The cost of a pair is its class loss + 3 x its box loss; a cell within 1.5 strides of the object's
# center is a candidate; the ten best overlaps of an object, added up, say how many cells it gets:
# the settings of YOLOX.
_BOX_COST, _CENTER_RADIUS, _NUM_OVERLAPS = 3.0, 1.5, 10
# Overlaps are at most 1.
MAX_CELLS = _NUM_OVERLAPS
# Far beyond the cost of any pair.
_FAR_COST = 1e6


class Transport(NamedTuple):
    """What each cell (A) of each image (B) is to predict.

    is_positive (B, A): it answers for an object; owner (B, A): for which; overlap (B, A): of the
    cell's box with that object's.
    """

    is_positive: Tensor
    owner: Tensor
    overlap: Tensor


@torch.no_grad()
def optimal_transport(
    logits: Tensor,
    objectness: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    true_boxes: Tensor,
    true_labels: Tensor,
    is_real: Tensor,
) -> Transport:
    """SimOTA (Ge et al. 2021, YOLOX, section 2.2).

    logits (B, A, K), objectness (B, A), before the sigmoid; boxes (B, A, 4), points (A, 2) and
    strides (A) in pixels; true_boxes (B, M, 4), true_labels (B, M), is_real (B, M). Of cells of one
    cost an object takes the first.
    """
    shape = (len(logits), true_boxes.shape[1], len(points))
    parts = []
    for chunk, (overlaps, cost, *spare) in tables.image_chunks(*shape, like=boxes):
        objects = true_boxes[chunk]
        tables.overlaps(objects, boxes[chunk], overlaps, spare)
        is_near = _is_near(objects, points, strides, spare) & is_real[chunk][..., None]
        class_costs = _class_costs(logits[chunk], objectness[chunk])
        by_label = true_labels[chunk][..., None].expand(-1, -1, len(points))
        torch.gather(class_costs.transpose(1, 2), 1, by_label, out=cost)
        cost.sub_(torch.add(overlaps, 1e-8, out=spare[0]).log_().mul_(_BOX_COST))
        # A cell far from an object answers for it only when nothing else is left.
        cost.add_(torch.mul(~is_near, _FAR_COST, out=spare[0]))
        # One that is near none is no candidate, and padding is no object.
        is_candidate = is_near.any(1, keepdim=True)
        cost.masked_fill_(~(is_candidate & is_real[chunk][..., None]), float("inf"))
        overlaps.masked_fill_(~is_candidate, 0)
        parts.append(_resolve(cost, overlaps))
    return Transport(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _is_near(true_boxes: Tensor, points: Tensor, strides: Tensor, spare: list[Tensor]) -> Tensor:
    """(B, M, A): the point is near the center of the object's box."""
    centers = (true_boxes[..., :2] + true_boxes[..., 2:]) / 2
    gaps, others = spare
    torch.sub(points[:, 0], centers[..., :1], out=gaps).abs_()
    torch.sub(points[:, 1], centers[..., 1:], out=others).abs_()
    return torch.maximum(gaps, others, out=gaps) < _CENTER_RADIUS * strides


def _class_costs(logits: Tensor, objectness: Tensor) -> Tensor:
    """(B, A, K): binary cross-entropy of a cell's scores if the object is of that class, logarithms
    cut as torch does."""
    scores = (logits.sigmoid() * objectness.sigmoid()[..., None]).sqrt_()
    log_score, log_rest = scores.log().clamp_(min=-100), scores.neg_().log1p_().clamp_(min=-100)
    return log_rest - log_score - log_rest.sum(-1, keepdim=True)


def _resolve(cost: Tensor, overlaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of tables (B, M, A), of which that of the costs is used up: is_positive, owner and overlap
    (B, A) of each cell."""
    length = min(_NUM_OVERLAPS, cost.shape[2])
    counts = overlaps.topk(length, dim=-1).values.sum(-1).int().clamp(min=1)
    cheapest = cost.argmin(1)
    # Not topk(): of equal costs it takes any, argmin() the first.
    columns, is_chosen = [], []
    for number in range(length):
        column = cost.argmin(-1, keepdim=True)
        is_chosen.append((cost.gather(-1, column) < float("inf")) & (number < counts[..., None]))
        columns.append(column)
        cost.scatter_(-1, column, float("inf"))
    chosen = settle_owners(torch.cat(columns, -1), torch.cat(is_chosen, -1), cheapest)
    return *chosen, overlaps.gather(1, chosen.owner[:, None])[:, 0]
