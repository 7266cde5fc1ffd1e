"""The matching of YOLOv5."""

from typing import NamedTuple

import torch
from torch import Tensor


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
