"""The decoupled anchor-free head of YOLOX with objectness, and its loss (Ge et al. 2021)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_yolo import boxes as box_ops
from hvd_yolo.models import selection
from hvd_yolo.models.assigners import optimal_transport
from hvd_yolo.models.blocks import ConvNormAct, DepthwiseSeparable
from hvd_yolo.models.class_rows import ClassRows
from hvd_yolo.models.distances import grid_points
from hvd_yolo.models.losses import Losses

_GAIN_BOX = 5.0
# Largest exponent of a side: exp(10) strides are far beyond any image, exp of more may overflow.
_LARGEST_LOG = 10.0


class CellPrediction(NamedTuple):
    """What the head says of every cell, A over all levels.

    offsets (B, A, 4): x, y of the centre from the cell's corner and logarithms of the sides, in
    strides; objectness (B, A) and logits (B, A, K) before the sigmoid; points (A, 2): centres of
    the cells in strides; strides (A): pixels.
    """

    offsets: Tensor
    objectness: Tensor
    logits: Tensor
    points: Tensor
    strides: Tensor

    def boxes(self) -> Tensor:
        """Boxes (B, A, 4) xyxy in input pixels."""
        centres = self.points - 0.5 + self.offsets[..., :2]
        halves = self.offsets[..., 2:].clamp(max=_LARGEST_LOG).exp() / 2
        return torch.cat((centres - halves, centres + halves), dim=-1) * self.strides[:, None]


class DecoupledHead(nn.Module):
    """A stem a level, then a tower for classes and one for the box and objectness; section 2.1."""

    def __init__(
        self,
        num_classes: int,
        channels: list[int],
        strides: list[int],
        width: int,
        is_separable: bool,
    ) -> None:
        super().__init__()
        self.strides = strides
        conv = DepthwiseSeparable if is_separable else ConvNormAct
        self.cls_convs, self.reg_convs = (
            nn.ModuleList(
                nn.Sequential(conv(width, width, 3), conv(width, width, 3)) for _ in channels
            )
            for _ in range(2)
        )
        self.cls_preds, self.reg_preds, self.obj_preds = (
            nn.ModuleList(nn.Conv2d(width, count, 1) for _ in channels)
            for count in (num_classes, 4, 1)
        )
        self.stems = nn.ModuleList(ConvNormAct(c, width) for c in channels)
        # The prior of Lin et al. 2017, Focal Loss, section 4.1.
        for output in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(output.bias, -math.log((1 - 0.01) / 0.01))

    def forward(self, features: list[Tensor]) -> CellPrediction:
        """From one feature map (B, C, H, W) a level."""
        parts: tuple[list[Tensor], ...] = ([], [], [], [], [])
        for i, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            x = self.stems[i](feature)
            box = self.reg_convs[i](x)
            points = grid_points(*x.shape[2:], like=x)
            said = (
                self.reg_preds[i](box).flatten(2).transpose(1, 2),
                self.obj_preds[i](box).flatten(1),
                self.cls_preds[i](self.cls_convs[i](x)).flatten(2).transpose(1, 2),
                points,
                points.new_full(points.shape[:1], stride),
            )
            for part, value in zip(parts, said, strict=True):
                part.append(value)
        offsets, objectness, logits, points, strides = parts
        return CellPrediction(
            torch.cat(offsets, dim=1), torch.cat(objectness, dim=1), torch.cat(logits, dim=1),
            torch.cat(points), torch.cat(strides),
        )  # fmt: skip

    def losses(self, prediction: CellPrediction, targets: list[dict[str, Tensor]]) -> Losses:
        """The losses of YOLOX; see cell_losses."""
        return cell_losses(prediction, targets)

    def class_rows(self) -> list[ClassRows]:
        """The class layer of each level."""
        return [ClassRows(layer) for layer in self.cls_preds]

    def decode(self, prediction: CellPrediction) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) xyxy in input pixels and scores (B, A, K)."""
        scores = prediction.logits.sigmoid() * prediction.objectness.sigmoid()[..., None]
        return prediction.boxes(), scores

    def select(
        self, prediction: CellPrediction, conf: float, iou: float, max_detections: int
    ) -> selection.PaddedDetections:
        """Detections after suppression; see selection.suppress."""
        return selection.suppress(*self.decode(prediction), conf, iou, max_detections)


def cell_losses(prediction: CellPrediction, targets: list[dict[str, Tensor]]) -> Losses:
    """IoU, objectness and class losses under SimOTA, as sums; the weight is the number of cells
    that answer for an object.

    The box loss is 1 - IoU^2 as in the authors' code. Their extra L1 loss of the last 15 epochs is
    left out: a detector does not know the epoch. targets as in aligned_losses.
    """
    dtype = torch.float64 if prediction.logits.dtype == torch.float64 else torch.float32
    prediction = CellPrediction(*(part.to(dtype) for part in prediction))
    boxes, device = prediction.boxes(), prediction.logits.device
    num_classes = prediction.logits.shape[-1]
    is_positive = torch.zeros_like(prediction.objectness, dtype=torch.bool)
    object_boxes, class_targets = [boxes.new_zeros(0, 4)], [boxes.new_zeros(0, num_classes)]
    for i, target in enumerate(targets):
        true_boxes = target["boxes"].to(device, dtype)
        found = optimal_transport(
            prediction.logits[i], prediction.objectness[i], boxes[i],
            prediction.points * prediction.strides[:, None], prediction.strides,
            true_boxes, target["labels"].to(device),
        )  # fmt: skip
        is_positive[i, found.cell] = True
        object_boxes.append(true_boxes[found.object])
        one_hot = F.one_hot(target["labels"].to(device)[found.object], num_classes)
        class_targets.append(one_hot * found.overlap[:, None])

    object_boxes, class_targets = torch.cat(object_boxes), torch.cat(class_targets)
    overlaps = box_ops.paired_iou(boxes[is_positive], object_boxes)
    bce = F.binary_cross_entropy_with_logits
    terms = {
        "iou": _GAIN_BOX * (1 - overlaps.square()).sum(),
        "obj": bce(prediction.objectness, is_positive.to(dtype), reduction="sum"),
        "cls": bce(prediction.logits[is_positive], class_targets, reduction="sum"),
    }
    return Losses(terms, is_positive.sum().to(dtype))
