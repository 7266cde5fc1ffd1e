"""From what every point says to a list of detections."""

import torch
from torch import Tensor

from hvd_yolo import boxes as box_ops

# Candidates an image that enter suppression. COCO scores 100; RetinaNet and its heirs take 1000 as
# well.
_CANDIDATES = 1000


def suppress(
    boxes: Tensor, scores: Tensor, conf: float, iou: float, max_detections: int
) -> list[dict[str, Tensor]]:
    """Detections an image: boxes (M, 4) in input pixels, scores (M) from high to low, labels (M).

    boxes (B, A, 4) xyxy, scores (B, A, K). A point may speak for several classes. The best 1000
    (point, class) pairs above `conf` go through suppression at overlap `iou` within each class.
    """
    detections = []
    for candidates in best(boxes, scores, conf, _CANDIDATES):
        kept = box_ops.nms(**candidates, iou_threshold=iou, max_detections=max_detections)
        detections.append({key: value[kept] for key, value in candidates.items()})
    return detections


def best(boxes: Tensor, scores: Tensor, conf: float, count: int) -> list[dict[str, Tensor]]:
    """The best (point, class) pairs as they are, for heads that say each object once; see
    suppress."""
    num_classes = scores.shape[-1]
    chosen = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        flat = image_scores.flatten()
        order = torch.argsort(flat, descending=True, stable=True)[:count]
        order = order[flat[order] > conf]
        chosen.append(
            {
                "boxes": image_boxes[order // num_classes],
                "scores": flat[order],
                "labels": order % num_classes,
            }
        )
    return chosen
