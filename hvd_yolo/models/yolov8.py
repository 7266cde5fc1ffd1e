"""YOLOv8: CSP backbone, PAN neck, anchor-free decoupled head, in five sizes (Jocher et al.
2023)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_yolo.models.blocks import SPPF, C2f, ConvNormAct
from hvd_yolo.models.heads import DetectHead, Prediction, select
from hvd_yolo.models.losses import Losses, aligned_losses


class Size(NamedTuple):
    """Multipliers of block depths and channel widths, and the channel count that widths start from
    at most."""

    depth: float
    width: float
    max_channels: int


SIZES = {
    "yolov8n": Size(0.33, 0.25, 1024),
    "yolov8s": Size(0.33, 0.50, 1024),
    "yolov8m": Size(0.67, 0.75, 768),
    "yolov8l": Size(1.00, 1.00, 512),
    "yolov8x": Size(1.00, 1.25, 512),
}


class YOLOv8(nn.Module):
    """A Detector. Input sides must be multiples of 32; conf, iou and max_detections rule its
    evaluation mode."""

    def __init__(
        self, size: Size, num_classes: int, conf: float, iou: float, max_detections: int
    ) -> None:
        super().__init__()
        self.conf, self.iou, self.max_detections = conf, iou, max_detections
        c1, c2, c3, c4, c5 = (_width(c, size) for c in (64, 128, 256, 512, 1024))
        three, six = max(round(3 * size.depth), 1), max(round(6 * size.depth), 1)

        self.stem = nn.Sequential(
            ConvNormAct(3, c1, 3, 2), ConvNormAct(c1, c2, 3, 2), C2f(c2, c2, three, True)
        )
        self.stage3 = nn.Sequential(ConvNormAct(c2, c3, 3, 2), C2f(c3, c3, six, True))
        self.stage4 = nn.Sequential(ConvNormAct(c3, c4, 3, 2), C2f(c4, c4, six, True))
        self.stage5 = nn.Sequential(
            ConvNormAct(c4, c5, 3, 2), C2f(c5, c5, three, True), SPPF(c5, c5)
        )
        self.top_down4 = C2f(c4 + c5, c4, three, False)
        self.top_down3 = C2f(c3 + c4, c3, three, False)
        self.down3 = ConvNormAct(c3, c3, 3, 2)
        self.bottom_up4 = C2f(c3 + c4, c4, three, False)
        self.down4 = ConvNormAct(c4, c4, 3, 2)
        self.bottom_up5 = C2f(c4 + c5, c5, three, False)
        self.head = DetectHead(num_classes, [c3, c4, c5], [8, 16, 32])

    def forward(
        self, images: Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> Losses | list[dict[str, Tensor]]:
        """Losses in training (targets needed), detections in evaluation; see Detector."""
        prediction = self.predict(images)
        if self.training:
            return aligned_losses(prediction, targets)
        return select(prediction, self.conf, self.iou, self.max_detections)

    def detect_and_score(
        self, images: Tensor, targets: list[dict[str, Tensor]]
    ) -> tuple[list[dict[str, Tensor]], Losses]:
        """Detections and losses from one forward pass; see ScoredDetector."""
        prediction = self.predict(images)
        detections = select(prediction, self.conf, self.iou, self.max_detections)
        return detections, aligned_losses(prediction, targets)

    def predict(self, images: Tensor) -> Prediction:
        """What the head says of images (B, 3, H, W) in 0..1."""
        p3 = self.stage3(self.stem(images))
        p4 = self.stage4(p3)
        p5 = self.stage5(p4)
        n4 = self.top_down4(torch.cat((_double(p5), p4), dim=1))
        n3 = self.top_down3(torch.cat((_double(n4), p3), dim=1))
        m4 = self.bottom_up4(torch.cat((self.down3(n3), n4), dim=1))
        m5 = self.bottom_up5(torch.cat((self.down4(m4), p5), dim=1))
        return self.head([n3, m4, m5])


def build(
    name: str,
    num_classes: int,
    conf: float = 0.001,
    iou: float = 0.7,
    max_detections: int = 300,
) -> YOLOv8:
    """The size `name` of SIZES with fresh weights from torch's random state."""
    return YOLOv8(SIZES[name], num_classes, conf, iou, max_detections)


def _width(channels: int, size: Size) -> int:
    """Channels of a layer, a multiple of 8."""
    scaled = min(channels, size.max_channels) * size.width
    return int(-(-scaled // 8) * 8)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
