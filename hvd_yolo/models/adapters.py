"""Detectors of other packages as Detectors; a package is imported when it is asked for."""

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

from hvd_yolo.errors import InputError
from hvd_yolo.models import selection
from hvd_yolo.models.assigners import places_of
from hvd_yolo.targets import pad_targets

Targets = Sequence[dict[str, Tensor]]
Detections = list[dict[str, Tensor]]


class LabelsFromOne(nn.Module):
    """Speaks to a detector of torchvision's convention that counts labels from 1, with 0 for the
    background."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, images: Tensor, targets: Targets | None = None
    ) -> dict[str, Tensor] | Detections:
        """Losses in training, detections in evaluation; see Detector."""
        if self.training:
            shifted = [{**target, "labels": target["labels"] + 1} for target in targets]
            return self.detector(list(images), shifted)
        found = []
        for detections in self.detector(list(images)):
            is_object = detections["labels"] > 0
            kept = {key: detections[key][is_object] for key in ("boxes", "scores", "labels")}
            found.append({**kept, "labels": kept["labels"] - 1})
        return found


class _Adapted(nn.Module):
    """A model of another package with its own loss.

    losses: of (model, images, targets), a dict of means over the images; decode: of (model,
    images), boxes (B, A, 4) xyxy in input pixels and scores (B, A, K). The packages divide by the
    target scores of the images given: on several ranks each has its own divisor, as there.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Callable[[nn.Module, Tensor, Targets], dict[str, Tensor]],
        decode: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]],
        limits: tuple[float, float, int],
    ) -> None:
        super().__init__()
        self.model = model
        self.losses, self.decode, self.limits = losses, decode, limits

    def forward(
        self, images: Tensor, targets: Targets | None = None
    ) -> dict[str, Tensor] | Detections:
        """Losses in training, detections in evaluation; see Detector."""
        if self.training:
            return self.losses(self.model, images, targets)
        return selection.suppress(*self.decode(self.model, images), *self.limits)


def _ultralytics_losses(model: nn.Module, images: Tensor, targets: Targets) -> dict[str, Tensor]:
    padded = pad_targets(targets, images.dtype, images.device)
    is_real = padded.is_real()
    rows, _ = places_of(is_real.flatten(), sum(padded.num_objects))
    boxes = padded.boxes.flatten(0, 1).index_select(0, rows) / _scale(images)
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    batch = {
        "img": images,
        "batch_idx": rows // is_real.shape[1],
        "cls": padded.labels.flatten().index_select(0, rows)[:, None].float(),
        "bboxes": torch.cat((centers, sides), dim=1),
    }
    total, _ = model.loss(batch)
    # They multiply by the number of images.
    return {f"loss{i}": value / len(images) for i, value in enumerate(total.flatten())}


def _ultralytics_decode(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    said = model(images)
    said = said[0] if isinstance(said, tuple) else said
    centres, sides, scores = said.split((2, 2, said.shape[1] - 4), dim=1)
    boxes = torch.cat((centres - sides / 2, centres + sides / 2), dim=1)
    return boxes.transpose(1, 2), scores.transpose(1, 2)


def _libreyolo_losses(model: nn.Module, images: Tensor, targets: Targets) -> dict[str, Tensor]:
    padded = pad_targets(targets, images.dtype, images.device)
    # class, x1, y1, x2, y2 in shares of the sides; a box of no area is none.
    labels = padded.labels[..., None].to(images.dtype)
    table = torch.cat((labels, padded.boxes / _scale(images)), dim=-1)
    losses = model(images, targets=table)
    return {name: losses[f"{name}_loss"] for name in ("box", "dfl", "cls")}


def _libreyolo_decode(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    said = model(images)["predictions"].transpose(1, 2)
    return said[..., :4], said[..., 4:]


def _scale(images: Tensor) -> Tensor:
    """(4): width, height, width, height."""
    height, width = images.shape[2:]
    # Filled on the device: a tensor made of numbers on the host would make the host wait.
    sides = images.new_full((4,), width)
    sides[1::2].fill_(height)
    return sides


def _torchvision(
    name: str, num_classes: int, conf: float, iou: float, max_detections: int
) -> nn.Module:
    detection = _import("torchvision", "torchvision.models.detection")
    if not callable(vars(detection).get(name)):
        raise InputError(f"model torchvision:{name}: torchvision.models.detection has none such")
    model = vars(detection)[name](weights=None, weights_backbone=None, num_classes=num_classes + 1)
    # The images come letterboxed to imgsz already.
    model.transform._skip_resize = True
    # Two-stage detectors keep these beside their box head, the others on themselves.
    limits = {"score_thresh": conf, "nms_thresh": iou, "detections_per_img": max_detections}
    keeper = model.roi_heads if hasattr(model, "roi_heads") else model
    for key, value in limits.items():
        setattr(keeper, key, value)
    return LabelsFromOne(model)


def _ultralytics(
    name: str, num_classes: int, conf: float, iou: float, max_detections: int
) -> nn.Module:
    tasks = _import("ultralytics", "ultralytics.nn.tasks")
    config = _import("ultralytics", "ultralytics.cfg")
    try:
        model = tasks.DetectionModel(name, nc=num_classes, verbose=False)
    except FileNotFoundError as error:
        raise InputError(f"model ultralytics:{name}: no such file in the package") from error
    model.args = config.get_cfg()
    limits = (conf, iou, max_detections)
    return _Adapted(model, _ultralytics_losses, _ultralytics_decode, limits)


def _libreyolo(
    name: str, num_classes: int, conf: float, iou: float, max_detections: int
) -> nn.Module:
    package = _import("libreyolo", "libreyolo.models.yolo9.nn")
    sizes = {f"yolo9{size}": size for size in package.YOLO9_CONFIGS}
    if name not in sizes:
        raise InputError(f"model libreyolo:{name}: there is {', '.join(sizes)}")
    model = package.LibreYOLO9Model(config=sizes[name], nb_classes=num_classes)
    limits = (conf, iou, max_detections)
    return _Adapted(model, _libreyolo_losses, _libreyolo_decode, limits)


def _import(package: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"model {package}:...: {error}; install the package: pip install {package}"
        ) from error


ADAPTERS = {"torchvision": _torchvision, "ultralytics": _ultralytics, "libreyolo": _libreyolo}
