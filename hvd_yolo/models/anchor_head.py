"""The anchor-based head of YOLOv5 and its loss."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_yolo import boxes as box_ops
from hvd_yolo.models import selection
from hvd_yolo.models.assigners import match_anchors
from hvd_yolo.models.class_rows import ClassRows
from hvd_yolo.models.distances import grid_points
from hvd_yolo.models.losses import Losses, Targets, exact_type
from hvd_yolo.targets import PaddedTargets, pad_targets

# An anchor answers for an object when neither side is more than four times the other's.
MAX_RATIO = 4.0
# Gains of YOLOv5 at 640 pixels, 80 classes and three levels, and the shares of the levels in the
# objectness.
_GAIN_BOX, _GAIN_OBJECT, _GAIN_CLASS = 0.05, 1.0, 0.5
_LEVEL_SHARES = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}


class AnchorPrediction(NamedTuple):
    """What the head says: of each level the raw outputs (B, N, H, W, 5 + K) of N anchors, x, y, w,
    h, objectness and classes before the sigmoid; points, of each level the centres of the cells
    (H, W, 2) in strides; anchors (L, N, 2): widths and heights in pixels;
    strides: pixels of a cell."""

    levels: list[Tensor]
    points: list[Tensor]
    anchors: Tensor
    strides: list[int]

    def boxes(self) -> Tensor:
        """Boxes (B, A, 4) xyxy in input pixels, of all anchors of all cells of all levels."""
        found = []
        for raw, points, anchors, stride in zip(
            self.levels, self.points, self.anchors, self.strides, strict=True
        ):
            boxes = decode(raw[..., :4], points, anchors[:, None, None], stride)
            found.append(boxes.flatten(1, 3))
        return torch.cat(found, dim=1)

    def scores(self) -> Tensor:
        """(B, A, K): objectness times class probability."""
        raw = torch.cat([level.flatten(1, 3) for level in self.levels], dim=1)
        return raw[..., 4:5].sigmoid() * raw[..., 5:].sigmoid()


class AnchorHead(nn.Module):
    """One 1x1 convolution a level. The anchors are part of the state, and can be fitted to the
    data: see data_sizes."""

    def __init__(
        self,
        num_classes: int,
        channels: list[int],
        strides: list[int],
        anchors: tuple[tuple[tuple[int, int], ...], ...],
    ) -> None:
        super().__init__()
        self.strides = strides
        self.num_classes = num_classes
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32))
        num_anchors = self.anchors.shape[1]
        self.m = nn.ModuleList(nn.Conv2d(c, num_anchors * (5 + num_classes), 1) for c in channels)
        self._init_biases()

    @torch.no_grad()
    def _init_biases(self) -> None:
        """Starts from eight objects an image of 640 pixels, and classes of the probability 0.6 / K
        (Lin et al. 2017, Focal Loss, section 4.1)."""
        for conv, stride in zip(self.m, self.strides, strict=True):
            bias = conv.bias.view(self.anchors.shape[1], -1)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (self.num_classes - 0.99999))

    def forward(self, features: list[Tensor]) -> AnchorPrediction:
        """From one feature map (B, C, H, W) a level."""
        num_anchors, levels, points = self.anchors.shape[1], [], []
        for conv, x in zip(self.m, features, strict=True):
            batch, _, height, width = x.shape
            raw = conv(x).view(batch, num_anchors, 5 + self.num_classes, height, width)
            levels.append(raw.permute(0, 1, 3, 4, 2))
            points.append(grid_points(height, width, like=x).view(height, width, 2))
        return AnchorPrediction(levels, points, self.anchors, self.strides)

    def losses(self, prediction: AnchorPrediction, targets: Targets) -> Losses:
        """The losses of YOLOv5; see anchor_losses."""
        return anchor_losses(prediction, targets)

    def class_rows(self) -> list[ClassRows]:
        """Of each anchor, the outputs behind box and objectness."""
        return [ClassRows(conv, self.anchors.shape[1], 5) for conv in self.m]

    def decode(self, prediction: AnchorPrediction) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) xyxy in input pixels and scores (B, A, K), in float32 or better."""
        levels = [level.to(exact_type(level)) for level in prediction.levels]
        exact = prediction._replace(levels=levels)
        return exact.boxes(), exact.scores()

    def select(
        self, prediction: AnchorPrediction, conf: float, iou: float, max_detections: int
    ) -> selection.PaddedDetections:
        """Detections after suppression; see selection.suppress."""
        return selection.suppress(*self.decode(prediction), conf, iou, max_detections)


def decode(raw: Tensor, points: Tensor, anchors: Tensor, stride: int) -> Tensor:
    """Boxes (..., 4) xyxy in pixels from raw (..., 4), cell centres (..., 2) in strides and anchors
    (..., 2) in pixels.

    The centre lies up to one stride around that of the cell, the sides are up to four times those
    of the anchor.
    """
    share = raw.sigmoid()
    centres = (share[..., :2] * 2 - 1 + points) * stride
    halves = (share[..., 2:] * 2).square() * anchors / 2
    return torch.cat((centres - halves, centres + halves), dim=-1)


def anchor_losses(prediction: AnchorPrediction, targets: Targets) -> Losses:
    """CIoU and class losses as sums over the matched anchors, divided by their number, and
    objectness as a sum over images of means over the cells, divided by the number of images.

    YOLOv5 takes the mean over the matches of each level and adds the levels up; here the levels
    share one mean. targets as in aligned_losses.
    """
    dtype = exact_type(prediction.levels[0])
    num_levels, num_classes = len(prediction.levels), prediction.levels[0].shape[-1] - 5
    padded = pad_targets(targets, dtype, prediction.levels[0].device)
    parts, pixels = [], 0
    for level, anchors, stride, share in zip(
        prediction.levels, prediction.anchors.to(dtype), prediction.strides,
        _LEVEL_SHARES[num_levels], strict=True,
    ):  # fmt: skip
        box_loss, object_loss, class_loss, num_matches = _level_losses(
            level.to(dtype), padded, anchors, stride
        )
        parts.append((box_loss, share * object_loss, class_loss, num_matches))
        pixels = max(pixels, level.shape[2] * level.shape[3] * stride**2)
    box_loss, object_loss, class_loss, matches = (sum(part) for part in zip(*parts, strict=True))
    terms = {
        "box": _GAIN_BOX * 3 * box_loss,
        "obj": _GAIN_OBJECT * 3 / num_levels * pixels / 640**2 * object_loss,
        "cls": _GAIN_CLASS * 3 * num_classes / 80 * class_loss,
    }
    matches = matches.to(dtype)
    return Losses(terms, matches.new_full((), len(padded)), {"box": matches, "cls": matches})


def _level_losses(
    raw: Tensor, targets: PaddedTargets, anchors: Tensor, stride: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Box loss, objectness loss, class loss and the number of matches of one level."""
    num_classes = raw.shape[-1] - 5
    found = match_anchors(targets, anchors / stride, *raw.shape[2:4], stride, MAX_RATIO)
    chosen = raw[found.image, found.anchor, found.y, found.x]
    chosen = chosen.masked_fill(~found.is_match[:, None], 0)
    points = torch.stack((found.x, found.y), dim=-1) + 0.5
    boxes = decode(chosen[:, :4], points, anchors.index_select(0, found.anchor), stride)
    overlaps = box_ops.complete_iou(boxes, found.boxes)
    box_loss = ((1 - overlaps) * found.is_match).sum()
    # The mean over the classes.
    one_hot = raw.new_zeros(len(chosen), num_classes).scatter_(1, found.labels[:, None], 1.0)
    bce = F.binary_cross_entropy_with_logits(chosen[:, 5:], one_hot, reduction="none")
    class_loss = (bce * found.is_match[:, None]).sum() / num_classes

    # Two objects may claim one anchor: the better overlap is its target, whatever their order.
    quality = raw.new_zeros(raw.shape[:4])
    place = (found.image, found.anchor, found.y, found.x)
    place = sum(i * step for i, step in zip(place, quality.stride(), strict=True))
    overlaps = overlaps.detach().clamp(min=0) * found.is_match
    quality.view(-1).scatter_reduce_(0, place, overlaps, "amax")
    bce = F.binary_cross_entropy_with_logits(raw[..., 4], quality, reduction="sum")
    return box_loss, bce / math.prod(quality.shape[1:]), class_loss, found.is_match.sum()
