"""Tables (B, M, A) of what M objects and A points of B images have to do with one another."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from hvd_yolo import boxes as box_ops

# Elements of one table, so many images at a time: 64 MiB in float32.
_MAX_ELEMENTS = 2**24
_NUM_TABLES = 4


def image_chunks(
    num_images: int, num_objects: int, num_points: int, like: Tensor
) -> Iterator[tuple[slice, list[Tensor]]]:
    """The images a few at a time, with four tables (images, M, A) to write into; their memory is
    the same for all chunks. A small batch, or none at all, is one chunk."""
    length = min(max(1, _MAX_ELEMENTS // (num_objects * num_points)), num_images)
    tables = [like.new_empty(length, num_objects, num_points) for _ in range(_NUM_TABLES)]
    for start in range(0, max(num_images, 1), max(length, 1)):
        chunk = slice(start, min(start + length, num_images))
        yield chunk, [table[: chunk.stop - start] for table in tables]


def _columns(boxes: Tensor) -> list[Tensor]:
    """Sides x1, y1, x2, y2 (B, 1, A) of each point's box."""
    return [side[:, None] for side in boxes.unbind(-1)]


def _rows(true_boxes: Tensor) -> list[Tensor]:
    """Sides x1, y1, x2, y2 (B, M, 1) of each object's box."""
    return [side[..., None] for side in true_boxes.unbind(-1)]


def intersections(true_boxes: Tensor, boxes: Tensor, out: Tensor, spare: list[Tensor]) -> Tensor:
    """Areas that objects' boxes (B, M, 4) share with points' boxes (B, A, 4)."""
    ax1, ay1, ax2, ay2 = _rows(true_boxes)
    bx1, by1, bx2, by2 = _columns(boxes)
    side, left = spare[:2]
    torch.minimum(ax2, bx2, out=out)
    out.sub_(torch.maximum(ax1, bx1, out=left)).clamp_(min=0)
    torch.minimum(ay2, by2, out=side)
    side.sub_(torch.maximum(ay1, by1, out=left)).clamp_(min=0)
    return out.mul_(side)


def complete_overlaps(
    true_boxes: Tensor, boxes: Tensor, out: Tensor, spare: list[Tensor], eps: float = 1e-7
) -> Tensor:
    """CIoU as boxes.complete_iou gives it, of objects (B, M, 4) with points' boxes (B, A, 4)."""
    ax1, ay1, ax2, ay2 = _rows(true_boxes)
    bx1, by1, bx2, by2 = _columns(boxes)
    width_a, height_a = ax2 - ax1, ay2 - ay1 + eps
    width_b, height_b = bx2 - bx1, by2 - by1 + eps
    first, second, third = spare
    iou = intersections(true_boxes, boxes, out, spare)
    union = torch.add(width_a * height_a, width_b * height_b, out=first)
    iou.div_(union.sub_(iou).add_(eps))

    hull = torch.maximum(ax2, bx2, out=first)
    hull.sub_(torch.minimum(ax1, bx1, out=second)).square_()
    hull_height = torch.maximum(ay2, by2, out=second)
    hull_height.sub_(torch.minimum(ay1, by1, out=third)).square_()
    diagonal = hull.add_(hull_height).add_(eps)
    gap = torch.sub(bx1 + bx2, ax1 + ax2, out=second).square_()
    gap.add_(torch.sub(by1 + by2, ay1 + ay2, out=third).square_()).div_(4)
    gap.div_(diagonal)

    v = torch.sub((width_b / height_b).atan(), (width_a / height_a).atan(), out=first)
    v.square_().mul_(4 / math.pi**2)
    rest = torch.sub(v, iou, out=third).add_(1 + eps)
    disagreement = v.square_().div_(rest)
    return iou.sub_(gap).sub_(disagreement)


def overlaps(true_boxes: Tensor, boxes: Tensor, out: Tensor, spare: list[Tensor]) -> Tensor:
    """IoU as boxes.pairwise_iou gives it, of objects (B, M, 4) with points' boxes (B, A, 4)."""
    areas = (box_ops.area(true_boxes)[..., None], box_ops.area(boxes)[:, None])
    shared = intersections(true_boxes, boxes, out, spare)
    union = torch.add(*areas, out=spare[0]).sub_(shared)
    return shared.div_(union.clamp_(min=torch.finfo(out.dtype).tiny))


def depths(true_boxes: Tensor, points: Tensor, out: Tensor, spare: Tensor) -> Tensor:
    """How far points (A, 2) lie inside boxes (B, M, 4): the distance to the nearest side, negative
    outside."""
    x1, y1, x2, y2 = _rows(true_boxes)
    x, y = points.unbind(-1)
    torch.sub(x, x1, out=out)
    for far, near in ((y, y1), (x2, x), (y2, y)):
        torch.minimum(out, torch.sub(far, near, out=spare), out=out)
    return out
