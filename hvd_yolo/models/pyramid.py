"""What all YOLO families share: a backbone, a path-aggregation neck, a head, and the detector made
of them."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_yolo.models.class_rows import ClassRows
from hvd_yolo.models.losses import Losses
from hvd_yolo.models.recompute import run

Targets = list[dict[str, Tensor]]
Detections = list[dict[str, Tensor]]


class Size(NamedTuple):
    """One row of a family's table: multipliers of block depths and channel widths, and the channel
    count that widths start from at most."""

    depth: float
    width: float
    max_channels: float = math.inf

    def channels(self, *counts: int) -> list[int]:
        """Channels of layers, multiples of 8."""
        return [math.ceil(min(c, self.max_channels) * self.width / 8) * 8 for c in counts]

    def repeats(self, count: int) -> int:
        """Blocks in place of `count`."""
        return max(round(count * self.depth), 1)


class Backbone(nn.Module):
    """Stages in a row, each of which halves the size; the last `num_levels` outputs are the
    features."""

    def __init__(self, stages: list[nn.Sequential], num_levels: int = 3) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.num_levels = num_levels
        self.is_recomputed = False

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps from the finest to the coarsest."""
        features = [images]
        for stage in self.stages:
            features.append(run(stage, features[-1], self.is_recomputed))
        return features[-self.num_levels :]


class PathAggregation(nn.Module):
    """Top-down, then bottom-up fusion of neighbouring levels (Liu et al. 2018, PANet, section 3.2).

    For L levels all lists have L - 1 modules. reduces: applied to the coarser map before it is
    doubled; top_down: fuse it with the next finer one, from coarse to fine; downs: halve a fused
    map; bottom_up: fuse it with the next coarser one, from fine to coarse.
    """

    def __init__(
        self,
        reduces: list[nn.Module],
        top_down: list[nn.Module],
        downs: list[nn.Module],
        bottom_up: list[nn.Module],
    ) -> None:
        super().__init__()
        self.reduces = nn.ModuleList(reduces)
        self.top_down = nn.ModuleList(top_down)
        self.downs = nn.ModuleList(downs)
        self.bottom_up = nn.ModuleList(bottom_up)
        self.is_recomputed = False

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """One map a level, as many and of the sizes of the features, from fine to coarse."""
        *finer, x = features
        laterals = []
        for reduce, block, skip in zip(self.reduces, self.top_down, reversed(finer), strict=True):
            laterals.append(reduce(x))
            doubled = F.interpolate(laterals[-1], scale_factor=2.0, mode="nearest")
            x = run(block, torch.cat((doubled, skip), dim=1), self.is_recomputed)
        fused = [x]
        for down, block, lateral in zip(
            self.downs, self.bottom_up, reversed(laterals), strict=True
        ):
            joined = torch.cat((down(fused[-1]), lateral), dim=1)
            fused.append(run(block, joined, self.is_recomputed))
        return fused


class Head(Protocol):
    """What a family's head offers the detector; `strides` are the pixels of each level's cells."""

    strides: list[int]

    def __call__(self, features: list[Tensor]) -> tuple:
        """The prediction, in a form of the head's own."""
        ...

    def losses(self, prediction: tuple, targets: Targets) -> Losses:
        """The training losses of a prediction."""
        ...

    def class_rows(self) -> list[ClassRows]:
        """All outputs that belong to a class; nothing else in a detector knows their order."""
        ...

    def decode(self, prediction: tuple) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) xyxy in input pixels and scores (B, A, K) in 0..1 of all points."""
        ...

    def select(self, prediction: tuple, conf: float, iou: float, max_detections: int) -> Detections:
        """The detections of a prediction."""
        ...


class YOLO(nn.Module):
    """A Detector. Input sides must be multiples of the largest stride; conf, iou and max_detections
    rule its evaluation mode."""

    conf, iou, max_detections = 0.001, 0.7, 300

    def __init__(self, backbone: Backbone, neck: PathAggregation, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, images: Tensor, targets: Targets | None = None) -> Losses | Detections:
        """Losses in training (targets needed), detections in evaluation; see Detector."""
        prediction = self.predict(images)
        if self.training:
            return self.head.losses(prediction, targets)
        return self.head.select(prediction, self.conf, self.iou, self.max_detections)

    def recompute_activations(self) -> None:
        """From now on the activations inside blocks are computed again in the backward pass: about
        a third more time, a fraction of the memory (Chen et al. 2016)."""
        self.backbone.is_recomputed = self.neck.is_recomputed = True

    def detect_and_score(self, images: Tensor, targets: Targets) -> tuple[Detections, Losses]:
        """Detections and losses from one forward pass; see ScoredDetector."""
        prediction = self.predict(images)
        detections = self.head.select(prediction, self.conf, self.iou, self.max_detections)
        return detections, self.head.losses(prediction, targets)

    def decode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) xyxy in input pixels and scores (B, A, K), before any selection."""
        return self.head.decode(self.predict(images))

    def predict(self, images: Tensor) -> tuple:
        """What the head says of images (B, 3, H, W) in 0..1."""
        return self.head(self.neck(self.backbone(images)))


def set_activation(model: nn.Module, activation: Callable[..., nn.Module]) -> None:
    """Puts `activation` in the place of every SiLU."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.SiLU):
                setattr(module, name, activation(inplace=True))
