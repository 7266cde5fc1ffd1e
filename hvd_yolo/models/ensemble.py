"""Several detectors as one."""

import importlib
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from hvd_yolo import boxes as box_ops
from hvd_yolo.errors import InputError
from hvd_yolo.models.selection import pad_detections

Detections = list[dict[str, Tensor]]


class Ensemble(nn.Module):
    """A Detector for evaluation whose detections are those of `models`, fused.

    method: wbf, nms or soft_nms; shares: how much each model counts; iou: overlap from which boxes
    of one class are the same object.
    """

    def __init__(
        self,
        models: list[nn.Module],
        method: str,
        shares: list[float],
        iou: float,
        max_detections: int,
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.method, self.shares, self.iou = method, shares, iou
        self.max_detections = max_detections

    def forward(self, images: Tensor) -> Detections:
        """Detections in evaluation mode, on the CPU, where they are fused; see Detector."""
        found = [pad_detections(model(images)) for model in self.models]
        for detections in found:
            detections.start_copy()
        size = max(images.shape[2:])
        of_images = zip(*(detections.on_host() for detections in found), strict=True)
        return [self._fuse([_as_dict(rows) for rows in parts], size) for parts in of_images]

    def _fuse(self, parts: Detections, size: int) -> dict[str, Tensor]:
        """What each model says of one image, as one."""
        if self.method != "wbf":
            scales = [share / max(self.shares) for share in self.shares]
            joined = {key: torch.cat([part[key] for part in parts]) for key in ("boxes", "labels")}
            scores = [part["scores"] * scale for part, scale in zip(parts, scales, strict=True)]
            joined["scores"] = torch.cat(scores)
            if self.method == "soft_nms":
                kept, scores = box_ops.soft_nms(**joined, max_detections=self.max_detections)
                return {key: value[kept] for key, value in joined.items()} | {"scores": scores}
            kept = box_ops.nms(**joined, iou_threshold=self.iou, max_detections=self.max_detections)
            return {key: value[kept] for key, value in joined.items()}
        arrays = [
            [part[key].double().numpy() for part in parts] for key in ("boxes", "scores", "labels")
        ]
        boxes = [(part / size).clip(0, 1) for part in arrays[0]]
        found = _weighted_fusion()(boxes, *arrays[1:], weights=self.shares, iou_thr=self.iou)
        order = np.argsort(-found[1], kind="stable")[: self.max_detections]
        like = parts[0]
        return {
            "boxes": torch.from_numpy(found[0][order] * size).to(like["boxes"]),
            "scores": torch.from_numpy(found[1][order]).to(like["scores"]),
            "labels": torch.from_numpy(found[2][order]).to(like["labels"]),
        }


def _as_dict(rows: np.ndarray) -> dict[str, Tensor]:
    found = torch.from_numpy(rows)
    return {"boxes": found[:, :4], "scores": found[:, 4], "labels": found[:, 5].long()}


def _weighted_fusion() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    try:
        package = importlib.import_module("ensemble_boxes")
    except ImportError as error:
        raise InputError(
            f"fuse.method wbf: {error}; install it: pip install 'hvd_yolo[ensemble]', or take "
            "--fuse.method nms"
        ) from error
    # A fused box is as sure as its surest part. The mean, the package's default, is pulled down by
    # the weak boxes around an object that a detector gives as well: BCCD, AP 0.41 against 0.50.
    return partial(package.weighted_boxes_fusion, conf_type="max")
