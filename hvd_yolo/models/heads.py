"""The anchor-free detection head of YOLOv8 and what it predicts."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_yolo import boxes as box_ops
from hvd_yolo.models.blocks import ConvNormAct

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
        bins = torch.arange(DISTANCE_BINS, dtype=self.distances.dtype, device=self.distances.device)
        # Not a matrix product, which autocast would round to half precision.
        sides = (self.distances.softmax(dim=-1) * bins).sum(dim=-1)
        return torch.cat((self.points - sides[..., :2], self.points + sides[..., 2:]), dim=-1)

    def boxes(self) -> Tensor:
        """Boxes (B, A, 4) xyxy in input pixels."""
        return self.boxes_in_strides() * self.strides[:, None]


class DetectHead(nn.Module):
    """Two towers a level, one for the four sides, one for the classes, without objectness."""

    def __init__(self, num_classes: int, channels: list[int], strides: list[int]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = strides
        box_width = max(16, channels[0] // 4, 4 * DISTANCE_BINS)
        class_width = max(channels[0], min(num_classes, 100))
        self.box_towers = nn.ModuleList(_tower(c, box_width, 4 * DISTANCE_BINS) for c in channels)
        self.class_towers = nn.ModuleList(_tower(c, class_width, num_classes) for c in channels)
        self.init_biases()

    def init_biases(self) -> None:
        """Starts from boxes of a few strides and from five objects an image of 640 pixels, evenly
        over classes.

        The prior of Lin et al. 2017, Focal Loss, section 4.1: else the many background points swamp
        the first steps.
        """
        for box_tower, class_tower, stride in zip(
            self.box_towers, self.class_towers, self.strides, strict=True
        ):
            nn.init.constant_(box_tower[-1].bias, 1.0)
            objects_a_point = 5 / self.num_classes / (640 / stride) ** 2
            nn.init.constant_(class_tower[-1].bias, math.log(objects_a_point))

    def forward(self, features: list[Tensor]) -> Prediction:
        """From one feature map (B, C, H, W) a level."""
        distances, logits, points, strides = [], [], [], []
        for x, box_tower, class_tower, stride in zip(
            features, self.box_towers, self.class_towers, self.strides, strict=True
        ):
            distances.append(box_tower(x).flatten(2).transpose(1, 2))
            logits.append(class_tower(x).flatten(2).transpose(1, 2))
            points.append(_points(x))
            strides.append(points[-1].new_full((len(points[-1]),), stride))
        sides = torch.cat(distances, dim=1)
        sides = sides.view(*sides.shape[:2], 4, DISTANCE_BINS)
        return Prediction(sides, torch.cat(logits, dim=1), torch.cat(points), torch.cat(strides))


# Candidates an image that enter suppression. COCO scores 100; RetinaNet and its heirs take 1000 as
# well.
_CANDIDATES = 1000


def select(
    prediction: Prediction, conf: float, iou: float, max_detections: int
) -> list[dict[str, Tensor]]:
    """Detections an image: boxes (M, 4) in input pixels, scores (M) from high to low, labels (M).

    A point may speak for several classes. The best 1000 (point, class) pairs above `conf` go
    through suppression at overlap `iou` within each class.
    """
    boxes, scores = prediction.boxes(), prediction.logits.sigmoid()
    num_classes = scores.shape[-1]
    detections = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        flat = image_scores.flatten()
        order = torch.argsort(flat, descending=True, stable=True)[:_CANDIDATES]
        order = order[flat[order] > conf]
        candidates = {
            "boxes": image_boxes[order // num_classes],
            "scores": flat[order],
            "labels": order % num_classes,
        }
        kept = box_ops.nms(**candidates, iou_threshold=iou, max_detections=max_detections)
        detections.append({key: value[kept] for key, value in candidates.items()})
    return detections


def _tower(c_in: int, width: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(c_in, width, 3), ConvNormAct(width, width, 3), nn.Conv2d(width, c_out, 1)
    )


def _points(x: Tensor) -> Tensor:
    """Centres (H * W, 2) of the cells of a map, as (x, y) in strides, in float32 or better."""
    height, width = x.shape[2:]
    dtype = torch.promote_types(x.dtype, torch.float32)
    ys = torch.arange(height, dtype=dtype, device=x.device) + 0.5
    xs = torch.arange(width, dtype=dtype, device=x.device) + 0.5
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=-1).view(-1, 2)


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
