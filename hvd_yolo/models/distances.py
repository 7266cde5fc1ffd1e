"""Boxes as distances from a point to four sides, each distance a distribution: what the anchor-free
heads of YOLOv8, YOLOv10 and YOLO11 predict."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Distances to the four sides are distributions over 0..15 strides (Li et al. 2020, Generalized
# Focal Loss).
DISTANCE_BINS = 16


class Prediction(NamedTuple):
    """What the head says of every anchor point, A over all levels.

    distances (B, A, 4, DISTANCE_BINS): logits of the distances left, top, right, bottom, in
    strides; logits (B, A, K): of each class, before the sigmoid; points (A, 2): anchor points in
    strides; strides (A): pixels.
    """

    distances: Tensor
    logits: Tensor
    points: Tensor
    strides: Tensor

    def boxes_in_strides(self) -> Tensor:
        """Boxes (B, A, 4) xyxy in units of each point's stride: the expectation of each side's
        distribution."""
        return boxes_around(self.points, self.distances)

    def boxes(self) -> Tensor:
        """Boxes (B, A, 4) xyxy in input pixels."""
        return self.boxes_in_strides() * self.strides[:, None]


def boxes_around(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy in strides from points (..., 2) and the logits (..., 4, DISTANCE_BINS) of
    the distances of their sides."""
    bins = torch.arange(DISTANCE_BINS, dtype=distances.dtype, device=distances.device)
    # Not a matrix product, which autocast would round to half precision.
    sides = (distances.softmax(dim=-1) * bins).sum(dim=-1)
    return torch.cat((points - sides[..., :2], points + sides[..., 2:]), dim=-1)


def distance_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Distribution focal loss (N) of side logits (N, 4, DISTANCE_BINS) for distances (N, 4) in
    strides.

    Li et al. 2020, Generalized Focal Loss, equation 6: cross-entropy with the two bins around the
    target, weighted by nearness; the mean over the four sides.
    """
    targets = targets.clamp(0, DISTANCE_BINS - 1 - 0.01)
    left = targets.long()
    weight_right = targets - left
    log_p = F.log_softmax(logits, dim=-1)
    at_left = log_p.gather(-1, left.unsqueeze(-1)).squeeze(-1)
    at_right = log_p.gather(-1, left.unsqueeze(-1) + 1).squeeze(-1)
    return -(at_left * (1 - weight_right) + at_right * weight_right).mean(-1)


def grid_points(height: int, width: int, like: Tensor) -> Tensor:
    """Centres (height * width, 2) of the cells of a map, as (x, y) in strides, in float32 or
    better."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    ys = torch.arange(height, dtype=dtype, device=like.device) + 0.5
    xs = torch.arange(width, dtype=dtype, device=like.device) + 0.5
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=-1).view(-1, 2)
