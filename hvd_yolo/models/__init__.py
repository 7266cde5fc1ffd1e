"""Detectors: what one is, and build_model(), which makes one by name or by path."""

import importlib
import inspect
import logging
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from hvd_yolo.errors import InputError
from hvd_yolo.models import adapters, yolo11, yolov5, yolov8, yolov10, yolox
from hvd_yolo.models.adapters import LabelsFromOne
from hvd_yolo.models.losses import Losses
from hvd_yolo.models.pyramid import YOLO

__all__ = [
    "YOLO", "Detector", "LabelsFromOne", "Losses", "ScoredDetector", "build_model",
    "largest_stride",
]  # fmt: skip

logger = logging.getLogger("hvd_yolo.models")

Targets = list[dict[str, Tensor]]
Detections = list[dict[str, Tensor]]


class Detector(Protocol):
    """Any nn.Module in torchvision's convention.

    In training, `model(images, targets)` gives the losses: a dict of scalars, each a mean over the
    images given, or Losses. In evaluation, `model(images)` gives a list with one dict an image:
    "boxes" (M, 4) xyxy in input pixels, "scores" (M) and "labels" (M). images: (B, 3, H, W) RGB in
    0..1; targets: a list of B dicts with "boxes" (N, 4) and "labels" (N) from 0.
    """

    def __call__(
        self, images: Tensor, targets: Targets | None = None
    ) -> dict[str, Tensor] | Losses | Detections:
        """Losses in training, detections in evaluation."""
        ...


@runtime_checkable
class ScoredDetector(Protocol):
    """A detector that gives both from one forward pass, so that the validation loss costs no second
    one."""

    def detect_and_score(self, images: Tensor, targets: Targets) -> tuple[Detections, Losses]:
        """The detections of evaluation mode and the losses of the same forward pass."""
        ...


_FAMILIES = (yolov5, yolov8, yolov10, yolo11, yolox)


def build_model(
    name: str,
    num_classes: int = 80,
    conf: float = 0.001,
    iou: float = 0.7,
    max_detections: int = 300,
) -> nn.Module:
    """A detector with fresh weights: `yolov8n`, `torchvision:fcos_resnet50_fpn`,
    `ultralytics:yolov8n.yaml`, or `package.module:callable` called with num_classes=.

    conf, iou and max_detections rule the evaluation mode: the lowest score, the overlap of
    suppression, the detections an image. A callable gets those that its signature names; one that
    takes **kwargs gets none of them by that. Raises InputError when there is no such model.
    """
    package, separator, rest = name.partition(":")
    if package in adapters.ADAPTERS:
        return adapters.ADAPTERS[package](rest, num_classes, conf, iou, max_detections)
    if separator:
        return _plug_in(name, num_classes, conf, iou, max_detections)
    for family in _FAMILIES:
        if name in family.SIZES:
            model = family.build(name, num_classes)
            model.conf, model.iou, model.max_detections = conf, iou, max_detections
            return model
    names = [name for family in _FAMILIES for name in family.SIZES]
    stem = name.rpartition("/")[2].removesuffix(".pt").removesuffix(".yaml")
    if stem in names:
        # Ultralytics' `model=yolov8n.pt` is both at once.
        weights = f" --weights {name}" if name.endswith(".pt") else ""
        raise InputError(f"model {name}: did you mean --model {stem}{weights}?")
    known = ", ".join(names)
    raise InputError(
        f"model {name}: there is none of that name; built in are {known}; torchvision:NAME, "
        "ultralytics:NAME.yaml and any package.module:callable are taken as well"
    )


def largest_stride(model: nn.Module) -> int:
    """What the sides of its inputs must be a multiple of; 32 for a foreign detector, which YOLOs
    take."""
    return max(model.head.strides) if isinstance(model, YOLO) else 32


def _plug_in(
    name: str, num_classes: int, conf: float, iou: float, max_detections: int
) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    try:
        builder = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"model {name}: {error}; expected package.module:callable") from error
    limits = {"conf": conf, "iou": iou, "max_detections": max_detections}
    taken = _named_parameters(builder) & limits.keys()
    if missing := [key for key in limits if key not in taken]:
        logger.info("model %s takes no %s: its own apply", name, ", ".join(missing))
    try:
        model = builder(num_classes=num_classes, **{key: limits[key] for key in taken})
    except TypeError as error:
        raise InputError(
            f"model {name}: {error}; the callable must take num_classes and give the model"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model {name}: gave {type(model).__name__}, expected a torch.nn.Module")
    return model


def _named_parameters(builder: Callable[..., object]) -> set[str]:
    """What can be given by name; nothing where Python does not know, as for some C functions."""
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):
        return set()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name for parameter in parameters if parameter.kind in by_name}
