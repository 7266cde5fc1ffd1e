"""SimOTA, the assignment of YOLOX."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hvd_yolo import boxes as box_ops


class Transport(NamedTuple):
    """Cells that answer for objects, one row a pair: cell (P), object (P) and their overlap (P)."""

    cell: Tensor
    object: Tensor
    overlap: Tensor


# The cost of a pair is its class loss + 3 x its box loss; a cell within 1.5 strides of the object's
# centre is a candidate; the ten best overlaps of an object, added up, say how many cells it gets:
# the settings of YOLOX.
_BOX_COST, _CENTRE_RADIUS, _NUM_OVERLAPS = 3.0, 1.5, 10


@torch.no_grad()
def optimal_transport(
    logits: Tensor,
    objectness: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    true_boxes: Tensor,
    true_labels: Tensor,
) -> Transport:
    """SimOTA for one image (Ge et al. 2021, YOLOX, section 2.2).

    logits (A, K), objectness (A), before the sigmoid; boxes (A, 4), points (A, 2) and strides (A)
    in pixels; true_boxes (M, 4), true_labels (M). Pairs come in the order of the cells.
    """
    centres = (true_boxes[:, :2] + true_boxes[:, 2:]) / 2
    gaps = (points[None] - centres[:, None]).abs().amax(-1)
    is_near = gaps < _CENTRE_RADIUS * strides
    candidates = is_near.any(0).nonzero()[:, 0]
    if len(candidates) == 0:
        empty = candidates.new_zeros(0)
        return Transport(empty, empty, boxes.new_zeros(0))

    overlaps = box_ops.pairwise_iou(true_boxes, boxes[candidates])
    scores = (logits[candidates].sigmoid() * objectness[candidates].sigmoid()[:, None]).sqrt()
    # Binary cross-entropy with each object's label, its logarithms cut as torch does.
    log_score, log_rest = scores.log().clamp(min=-100), (-scores).log1p().clamp(min=-100)
    class_cost = (log_rest - log_score).T[true_labels] - log_rest.sum(-1)
    cost = class_cost - _BOX_COST * (overlaps + 1e-8).log()
    # A cell far from an object answers for it only when nothing else is left.
    cost = cost + 1e6 * ~is_near[:, candidates]

    top = overlaps.topk(min(_NUM_OVERLAPS, len(candidates)), dim=1).values
    counts = top.sum(1).int().clamp(min=1)
    rank = cost.argsort(dim=1, stable=True).argsort(dim=1)
    is_pair = rank < counts[:, None]
    is_contested = is_pair.sum(0) > 1
    cheapest = F.one_hot(cost.argmin(0), len(cost)).T.bool()
    is_pair = torch.where(is_contested, cheapest, is_pair)
    column, owner = is_pair.T.nonzero(as_tuple=True)
    return Transport(candidates[column], owner, overlaps[owner, column])
