"""The decoupled anchor-free head of YOLOX with objectness, and its loss (Ge et al. 2021)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_yolo import boxes as box_ops
from hvd_yolo.models import selection
from hvd_yolo.models.assigners import MAX_CELLS, assign_cells, places_of
from hvd_yolo.models.blocks import ConvNormAct, DepthwiseSeparable
from hvd_yolo.models.class_rows import ClassRows
from hvd_yolo.models.distances import grid_points
from hvd_yolo.models.losses import Losses, Targets, exact_type, rows_at
from hvd_yolo.targets import pad_targets

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

    def losses(self, prediction: CellPrediction, targets: Targets) -> Losses:
        """The losses of YOLOX; see cell_losses."""
        return cell_losses(prediction, targets)

    def class_rows(self) -> list[ClassRows]:
        """The class layer of each level."""
        return [ClassRows(layer) for layer in self.cls_preds]

    def decode(self, prediction: CellPrediction) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) xyxy in input pixels and scores (B, A, K), in float32 or better."""
        dtype = exact_type(prediction.logits)
        exact = CellPrediction(*(part.to(dtype) for part in prediction))
        return exact.boxes(), exact.logits.sigmoid() * exact.objectness.sigmoid()[..., None]

    def select(
        self, prediction: CellPrediction, conf: float, iou: float, max_detections: int
    ) -> selection.PaddedDetections:
        """Detections after suppression; see selection.suppress."""
        return selection.suppress(*self.decode(prediction), conf, iou, max_detections)


def cell_losses(prediction: CellPrediction, targets: Targets) -> Losses:
    """IoU, objectness and class losses under SimOTA, as sums; the weight is the number of cells
    that answer for an object.

    The box loss is 1 - IoU^2 as in the authors' code. Their extra L1 loss of the last 15 epochs is
    left out: a detector does not know the epoch. targets as in aligned_losses.
    """
    dtype = exact_type(prediction.logits)
    prediction = CellPrediction(*(part.to(dtype) for part in prediction))
    boxes, logits = prediction.boxes(), prediction.logits
    padded = pad_targets(targets, dtype, logits.device)
    num_images, num_points, num_classes = logits.shape
    assigned = assign_cells(
        logits, prediction.objectness, boxes, prediction.points * prediction.strides[:, None],
        prediction.strides, padded.boxes, padded.labels, padded.is_real(),
    )  # fmt: skip

    size = num_images * min(padded.labels.shape[1] * MAX_CELLS, num_points)
    places, is_place = places_of(assigned.is_positive.flatten(), size)
    # Of the images' objects in a row.
    first = torch.arange(num_images, device=logits.device)[:, None] * padded.labels.shape[1]
    objects = (assigned.owner + first).flatten().index_select(0, places)
    object_boxes = padded.boxes.flatten(0, 1).index_select(0, objects)
    labels = padded.labels.flatten().index_select(0, objects)
    own_boxes = rows_at(boxes, places, is_place)
    object_boxes = torch.where(is_place[:, None], object_boxes, own_boxes.detach())
    overlaps = box_ops.paired_iou(own_boxes, object_boxes)
    quality = assigned.overlap.flatten().index_select(0, places)
    class_targets = logits.new_zeros(size, num_classes)
    class_targets.scatter_(1, labels[:, None], quality[:, None])
    bce = F.binary_cross_entropy_with_logits
    class_loss = bce(rows_at(logits, places, is_place), class_targets, reduction="none").sum(-1)
    terms = {
        "iou": _GAIN_BOX * ((1 - overlaps.square()) * is_place).sum(),
        "obj": bce(prediction.objectness, assigned.is_positive.to(dtype), reduction="sum"),
        "cls": (class_loss * is_place).sum(),
    }
    return Losses(terms, assigned.is_positive.sum().to(dtype))
