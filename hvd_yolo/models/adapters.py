"""Detectors of other packages as Detectors; a package is imported when it is asked for."""

import importlib
from types import ModuleType

import torch
from torch import Tensor, nn

from hvd_yolo.errors import InputError
from hvd_yolo.models import selection

Targets = list[dict[str, Tensor]]
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


class _Ultralytics(nn.Module):
    """A model of the ultralytics package with its own loss.

    Its loss is a mean over the target scores of the images given, weighted here by their number: on
    several ranks the divisor is that of each rank, as in the package itself.
    """

    def __init__(self, model: nn.Module, conf: float, iou: float, max_detections: int) -> None:
        super().__init__()
        self.model = model
        self.conf, self.iou, self.max_detections = conf, iou, max_detections

    def forward(
        self, images: Tensor, targets: Targets | None = None
    ) -> dict[str, Tensor] | Detections:
        """Losses in training, detections in evaluation; see Detector."""
        if not self.training:
            said = self.model(images)
            said = said[0] if isinstance(said, tuple) else said
            centres, sides, scores = said.split((2, 2, said.shape[1] - 4), dim=1)
            boxes = torch.cat((centres - sides / 2, centres + sides / 2), dim=1).transpose(1, 2)
            scores = scores.transpose(1, 2)
            return selection.suppress(boxes, scores, self.conf, self.iou, self.max_detections)
        counts = torch.tensor([len(target["boxes"]) for target in targets])
        boxes = torch.cat([target["boxes"] for target in targets])
        height, width = images.shape[2:]
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        batch = {
            "img": images,
            "batch_idx": torch.arange(len(targets)).repeat_interleave(counts).to(images.device),
            "cls": torch.cat([target["labels"] for target in targets])[:, None].float(),
            "bboxes": torch.cat((centres, sides), dim=1)
            / boxes.new_tensor((width, height, width, height)),
        }
        total, _ = self.model.loss(batch)
        # They multiply by the number of images.
        return {f"loss{i}": value / len(images) for i, value in enumerate(total.flatten())}


class _LibreYolo9(nn.Module):
    """A YOLOv9 of the libreyolo package with its own loss, a mean as that of _Ultralytics."""

    def __init__(self, model: nn.Module, conf: float, iou: float, max_detections: int) -> None:
        super().__init__()
        self.model = model
        self.conf, self.iou, self.max_detections = conf, iou, max_detections

    def forward(
        self, images: Tensor, targets: Targets | None = None
    ) -> dict[str, Tensor] | Detections:
        """Losses in training, detections in evaluation; see Detector."""
        if not self.training:
            said = self.model(images)["predictions"].transpose(1, 2)
            boxes, scores = said[..., :4], said[..., 4:]
            return selection.suppress(boxes, scores, self.conf, self.iou, self.max_detections)
        height, width = images.shape[2:]
        most = max((len(target["boxes"]) for target in targets), default=0)
        # class, x1, y1, x2, y2 in shares of the sides; a box of no area is none.
        table = images.new_zeros(len(targets), max(most, 1), 5)
        for row, target in zip(table, targets, strict=True):
            count = len(target["boxes"])
            row[:count, 0] = target["labels"]
            row[:count, 1:] = target["boxes"] / row.new_tensor((width, height, width, height))
        losses = self.model(images, targets=table)
        return {name: losses[f"{name}_loss"] for name in ("box", "dfl", "cls")}


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
    limits = {"score_thresh": conf, "nms_thresh": iou}
    limits["detections_per_img"] = max_detections
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
    return _Ultralytics(model, conf, iou, max_detections)


def _libreyolo(
    name: str, num_classes: int, conf: float, iou: float, max_detections: int
) -> nn.Module:
    package = _import("libreyolo", "libreyolo.models.yolo9.nn")
    sizes = {f"yolo9{size}": size for size in package.YOLO9_CONFIGS}
    if name not in sizes:
        raise InputError(f"model libreyolo:{name}: there is {', '.join(sizes)}")
    model = package.LibreYOLO9Model(config=sizes[name], nb_classes=num_classes)
    return _LibreYolo9(model, conf, iou, max_detections)


def _import(package: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"model {package}:...: {error}; install the package: pip install {package}"
        ) from error


ADAPTERS = {"torchvision": _torchvision, "ultralytics": _ultralytics, "libreyolo": _libreyolo}
