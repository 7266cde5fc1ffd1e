"""Which prediction answers for which object."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hvd_yolo import boxes as box_ops

# Alignment = score^0.5 * CIoU^6: the setting of YOLOv8. TOOD itself takes score^1.
_SCORE_POWER, _IOU_POWER = 0.5, 6.0
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

    is_candidate = _best(alignment, num_candidates)
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
    quality = (alignment * best_overlap / (best_alignment + eps)).amax(1)
    one_hot = F.one_hot(point_labels, num_classes).to(scores.dtype)
    return Assignment(is_positive, point_boxes, one_hot * (quality * is_positive)[..., None])


def _lies_inside(points: Tensor, true_boxes: Tensor) -> Tensor:
    """(B, M, A): point inside box, by more than a rounding error."""
    to_sides = torch.cat(
        (points[None, None] - true_boxes[:, :, None, :2], true_boxes[:, :, None, 2:] - points),
        dim=-1,
    )
    return to_sides.amin(-1) > _EPS


def _best(alignment: Tensor, num_candidates: int) -> Tensor:
    """(B, M, A): among the object's highest so many, and above zero."""
    count = min(num_candidates, alignment.shape[-1])
    chosen = alignment.topk(count, dim=-1).indices
    is_chosen = torch.zeros_like(alignment, dtype=torch.bool).scatter_(-1, chosen, True)
    return is_chosen & (alignment > 0)


class Objects(NamedTuple):
    """The objects of a batch in a row: image (M), labels (M), boxes (M, 4) in pixels."""

    image: Tensor
    labels: Tensor
    boxes: Tensor


def stack_targets(
    targets: list[dict[str, Tensor]], dtype: torch.dtype, device: torch.device
) -> Objects:
    """From one dict an image with "boxes" (N, 4) and "labels" (N)."""
    counts = torch.tensor([len(t["boxes"]) for t in targets], dtype=torch.long)
    image = torch.arange(len(targets)).repeat_interleave(counts)
    boxes = torch.cat([t["boxes"] for t in targets] or [torch.zeros(0, 4)])
    labels = torch.cat([t["labels"] for t in targets] or [torch.zeros(0, dtype=torch.long)])
    return Objects(image.to(device), labels.to(device), boxes.to(device, dtype))


class Matches(NamedTuple):
    """Anchors that answer for objects, one row a pair: image, anchor, y, x (P) say which; labels
    (P) and boxes (P, 4) in pixels, for what."""

    image: Tensor
    anchor: Tensor
    y: Tensor
    x: Tensor
    labels: Tensor
    boxes: Tensor


@torch.no_grad()
def match_anchors(
    objects: Objects, anchors: Tensor, height: int, width: int, stride: int, max_ratio: float
) -> Matches:
    """The matching of YOLOv5 on one level of height x width cells; anchors (N, 2) in strides.

    An anchor matches an object when no side is more than max_ratio times the other's. It answers
    from the cell of the object's centre and from the two neighbours nearest to that centre, inside
    the map.
    """
    sizes = (objects.boxes[:, 2:] - objects.boxes[:, :2]) / stride
    ratios = sizes[:, None] / anchors
    is_match = torch.maximum(ratios, 1 / ratios).amax(-1) < max_ratio
    which, anchor = is_match.nonzero(as_tuple=True)

    centres = (objects.boxes[which, :2] + objects.boxes[which, 2:]) / (2 * stride)
    limits = torch.tensor((width, height), device=centres.device)
    cells = torch.minimum(centres.long(), limits - 1)
    within = centres - cells
    # -1 where the centre lies in the left or upper half of its cell, else 1.
    nearer = torch.where(within < 0.5, -1, 1)
    beside_x, beside_y = cells.clone(), cells.clone()
    beside_x[:, 0] += nearer[:, 0]
    beside_y[:, 1] += nearer[:, 1]
    places = torch.stack((cells, beside_x, beside_y))
    row, column = ((places >= 0) & (places < limits)).all(-1).nonzero(as_tuple=True)
    which, anchor, places = which[column], anchor[column], places[row, column]
    return Matches(
        objects.image[which], anchor, places[:, 1], places[:, 0],
        objects.labels[which], objects.boxes[which],
    )  # fmt: skip


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
