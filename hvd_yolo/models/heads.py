"""The anchor-free detection heads of YOLOv8, YOLO11 and YOLOv10."""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hvd_yolo.models import selection
from hvd_yolo.models.blocks import ConvNormAct, depthwise
from hvd_yolo.models.class_rows import ClassRows
from hvd_yolo.models.distances import DISTANCE_BINS, Prediction, grid_points
from hvd_yolo.models.losses import Losses, Targets, aligned_losses, exact_type


class DetectHead(nn.Module):
    """Two towers a level, one for the four sides, one for the classes, without objectness.

    `is_light`: class towers of depthwise and pointwise convolutions in turn (YOLO11; Wang et al.
    2024, YOLOv10, section 3.2).
    """

    def __init__(
        self, num_classes: int, channels: list[int], strides: list[int], is_light: bool = False
    ) -> None:
        super().__init__()
        self.strides = strides
        box_width = max(16, channels[0] // 4, 4 * DISTANCE_BINS)
        class_width = max(channels[0], min(num_classes, 100))
        tower = _light_tower if is_light else _tower
        self.box_towers = nn.ModuleList(_tower(c, box_width, 4 * DISTANCE_BINS) for c in channels)
        self.class_towers = nn.ModuleList(tower(c, class_width, num_classes) for c in channels)
        self._init_biases(num_classes)

    def _init_biases(self, num_classes: int) -> None:
        """Starts from boxes of a few strides and from five objects an image of 640 pixels, evenly
        over classes.

        The prior of Lin et al. 2017, Focal Loss, section 4.1: else the many background points swamp
        the first steps.
        """
        for box_tower, class_tower, stride in zip(
            self.box_towers, self.class_towers, self.strides, strict=True
        ):
            nn.init.constant_(box_tower[-1].bias, 1.0)
            objects_a_point = 5 / num_classes / (640 / stride) ** 2
            nn.init.constant_(class_tower[-1].bias, math.log(objects_a_point))

    def forward(self, features: list[Tensor]) -> Prediction:
        """From one feature map (B, C, H, W) a level."""
        distances, logits, points, strides = [], [], [], []
        for x, box_tower, class_tower, stride in zip(
            features, self.box_towers, self.class_towers, self.strides, strict=True
        ):
            distances.append(box_tower(x).flatten(2).transpose(1, 2))
            logits.append(class_tower(x).flatten(2).transpose(1, 2))
            points.append(grid_points(*x.shape[2:], like=x))
            strides.append(points[-1].new_full(points[-1].shape[:1], stride))
        sides = torch.cat(distances, dim=1)
        sides = sides.view(*sides.shape[:2], 4, DISTANCE_BINS)
        return Prediction(sides, torch.cat(logits, dim=1), torch.cat(points), torch.cat(strides))

    def losses(self, prediction: Prediction, targets: Targets) -> Losses:
        """CIoU, class and distance losses under task-aligned assignment."""
        return aligned_losses(prediction, targets)

    def class_rows(self) -> list[ClassRows]:
        """The last layer of each class tower."""
        return [ClassRows(tower[-1]) for tower in self.class_towers]

    def decode(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) xyxy in input pixels and scores (B, A, K), in float32 or better."""
        dtype = exact_type(prediction.logits)
        exact = Prediction(*(part.to(dtype) for part in prediction))
        return exact.boxes(), exact.logits.sigmoid()

    def select(
        self, prediction: Prediction, conf: float, iou: float, max_detections: int
    ) -> selection.PaddedDetections:
        """Detections after suppression; see selection.suppress."""
        return selection.suppress(*self.decode(prediction), conf, iou, max_detections)


class DualPrediction(NamedTuple):
    """What both heads of a DualHead say."""

    many: Prediction
    one: Prediction


class DualHead(nn.Module):
    """A one-to-many head that teaches the backbone and a one-to-one head that needs no suppression
    (Wang et al. 2024, YOLOv10, section 3.1).

    The one-to-one head learns from the features and gives them no gradient.
    """

    def __init__(self, num_classes: int, channels: list[int], strides: list[int]) -> None:
        super().__init__()
        self.strides = strides
        self.many = DetectHead(num_classes, channels, strides, is_light=True)
        self.one = copy.deepcopy(self.many)

    def forward(self, features: list[Tensor]) -> DualPrediction:
        """From one feature map (B, C, H, W) a level."""
        return DualPrediction(self.many(features), self.one([x.detach() for x in features]))

    def losses(self, prediction: DualPrediction, targets: Targets) -> Losses:
        """The losses of both heads under the same measure of alignment, with ten points an object
        and with one: consistent dual assignment (ibid., equation 2)."""
        many = aligned_losses(prediction.many, targets)
        one = aligned_losses(prediction.one, targets, num_candidates=1)
        terms = many.terms | {f"one_{name}": value for name, value in one.terms.items()}
        own_weights = {f"one_{name}": one.weight for name in one.terms}
        return Losses(terms, many.weight, own_weights)

    def class_rows(self) -> list[ClassRows]:
        """Those of both heads."""
        return self.many.class_rows() + self.one.class_rows()

    def decode(self, prediction: DualPrediction) -> tuple[Tensor, Tensor]:
        """Of the one-to-one head: boxes (B, A, 4) xyxy in input pixels and scores (B, A, K)."""
        return self.one.decode(prediction.one)

    def select(
        self, prediction: DualPrediction, conf: float, iou: float, max_detections: int
    ) -> selection.PaddedDetections:
        """The best detections of the one-to-one head; `iou` is not used."""
        return selection.best(*self.decode(prediction), conf, max_detections)


def _tower(c_in: int, width: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(c_in, width, 3), ConvNormAct(width, width, 3), nn.Conv2d(width, c_out, 1)
    )


def _light_tower(c_in: int, width: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(depthwise(c_in, 3), ConvNormAct(c_in, width)),
        nn.Sequential(depthwise(width, 3), ConvNormAct(width, width)),
        nn.Conv2d(width, c_out, 1),
    )
