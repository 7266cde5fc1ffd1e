"""The matching of YOLOv5."""

from typing import NamedTuple

import torch
from torch import Tensor

from hvd_yolo.targets import PaddedTargets

# The cell of the center and the two nearest to it.
_NUM_CELLS = 3


class Matches(NamedTuple):
    """Anchors that may answer for objects, one row for each object, anchor and one of three cells:
    image, anchor, y, x (P) say which; labels (P) and boxes (P, 4) in pixels, for what; is_match
    (P): it does. The other rows have places inside the map as well."""

    image: Tensor
    anchor: Tensor
    y: Tensor
    x: Tensor
    labels: Tensor
    boxes: Tensor
    is_match: Tensor


@torch.no_grad()
def match_anchors(
    objects: PaddedTargets, anchors: Tensor, height: int, width: int, stride: int, max_ratio: float
) -> Matches:
    """The matching of YOLOv5 on one level of height x width cells; anchors (N, 2) in strides.

    An anchor matches an object when no side is more than max_ratio times the other's. It answers
    from the cell of the object's center and from the two neighbors nearest to that center, inside
    the map.
    """
    low, high = objects.boxes[..., :2], objects.boxes[..., 2:]
    ratios = ((high - low) / stride)[:, :, None] / anchors
    is_similar = torch.maximum(ratios, 1 / ratios).amax(-1) < max_ratio
    is_similar &= objects.is_real()[..., None]

    x, y = ((low + high) / (2 * stride)).unbind(-1)
    columns, rows = x.long().clamp(max=width - 1), y.long().clamp(max=height - 1)
    # -1 where the center lies in the left or upper half of its cell, else 1.
    step_x, step_y = ((place - cell >= 0.5) * 2 - 1 for place, cell in ((x, columns), (y, rows)))
    columns = torch.stack((columns, columns + step_x, columns), dim=-1)
    rows = torch.stack((rows, rows, rows + step_y), dim=-1)
    is_within = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)

    shape = (*is_similar.shape, _NUM_CELLS)
    by_object = objects.boxes[:, :, None, None].expand(*shape, 4).reshape(-1, 4)
    images, numbers = (torch.arange(n, device=x.device) for n in (shape[0], shape[2]))
    return Matches(
        images[:, None, None, None].expand(shape).flatten(),
        numbers[:, None].expand(shape).flatten(),
        rows.clamp(0, height - 1)[:, :, None].expand(shape).flatten(),
        columns.clamp(0, width - 1)[:, :, None].expand(shape).flatten(),
        objects.labels[:, :, None, None].expand(shape).flatten(),
        by_object,
        (is_similar[..., None] & is_within[:, :, None]).flatten(),
    )
