"""Box arithmetic as pure functions on tensors: formats, IoU, CIoU, non-maximum suppression.

Boxes are xyxy in pixels unless a name says otherwise. Functions keep dtype and device and are
differentiable where they can be.
"""

import math

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4); a box turned inside out has none."""
    # Not prod(), whose backward pass makes the host wait for the device.
    widths, heights = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return widths * heights


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (...) of box pairs a, b (..., 4), broadcast against each other; 0 where both have no
    area."""
    width = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
    height = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
    inter = width.clamp(min=0) * height.clamp(min=0)
    return inter / (area(a) + area(b) - inter).clamp(min=torch.finfo(inter.dtype).tiny)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (..., M, N) of boxes a (..., M, 4) with boxes b (..., N, 4); 0 where both have no
    area."""
    return paired_iou(a.unsqueeze(-2), b.unsqueeze(-3))


def complete_iou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """CIoU (...) of box pairs a, b (..., 4), broadcast against each other; 1 is a perfect match.

    Zheng et al. 2020, "Distance-IoU Loss", equations 7 to 11: IoU less the squared centre distance
    over the squared diagonal of the enclosing box, less the weighted disagreement of the aspect
    ratios. The weight is a constant to the gradient, as in the paper. eps is the usual 1e-7 of YOLO
    implementations.
    """
    width_a, height_a = (a[..., 2] - a[..., 0]), (a[..., 3] - a[..., 1]) + eps
    width_b, height_b = (b[..., 2] - b[..., 0]), (b[..., 3] - b[..., 1]) + eps
    inter_w = (torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])).clamp(0)
    inter_h = (torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])).clamp(0)
    inter = inter_w * inter_h
    iou = inter / (width_a * height_a + width_b * height_b - inter + eps)

    hull_w = torch.maximum(a[..., 2], b[..., 2]) - torch.minimum(a[..., 0], b[..., 0])
    hull_h = torch.maximum(a[..., 3], b[..., 3]) - torch.minimum(a[..., 1], b[..., 1])
    centre_gap = (b[..., :2] + b[..., 2:] - a[..., :2] - a[..., 2:]).square().sum(-1) / 4
    gap = centre_gap / (hull_w.square() + hull_h.square() + eps)

    angle = torch.atan(width_b / height_b) - torch.atan(width_a / height_a)
    v = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        alpha = v / (v - iou + (1 + eps))
    return iou - gap - alpha * v


def nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, max_detections: int
) -> Tensor:
    """Indices (K) of the boxes (N, 4) that greedy per-class non-maximum suppression keeps, best
    first.

    Exactly the greedy result (as torchvision.ops.batched_nms); see greedy_survivors. Memory is
    N x N, so callers cut N to about a thousand first. Equal scores are taken in the order given.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    is_real = torch.ones(1, len(order), dtype=torch.bool, device=boxes.device)
    kept, _ = greedy_survivors(boxes[order][None], labels[order][None], is_real, iou_threshold)
    return order[kept[0]][:max_detections]


def greedy_survivors(
    boxes: Tensor,
    labels: Tensor,
    is_real: Tensor,
    iou_threshold: float,
    rounds: int = 1,
    may_wait: bool = True,
) -> tuple[Tensor, Tensor]:
    """Which boxes greedy per-class non-maximum suppression keeps, (B, N) bool, and whether that is
    final, a scalar.

    boxes (B, N, 4) and labels (B, N) of B images from the best score to the lowest; is_real (B, N):
    those that take part. Found without a loop over boxes: suppression by earlier survivors is
    repeated until nothing changes, which is reached after as many rounds as the longest chain of
    suppressions, a handful in practice. Whether it is reached is looked at after every so many
    `rounds`, for which the host waits for the device; with may_wait false it does not, and what is
    found after the first `rounds` is returned. Memory is B x N x N.
    """
    overlaps = pairwise_iou(boxes, boxes) > iou_threshold
    suppresses = overlaps & (labels[:, :, None] == labels[:, None, :]) & is_real[:, :, None]
    # Half of the memory, in numbers that tensor cores multiply. Sums of ones never become 0.
    dtype = torch.float32 if boxes.device.type == "cpu" else torch.float16
    suppresses = suppresses.triu_(diagonal=1).to(dtype)
    ones = torch.ones_like(labels, dtype=dtype)[:, None]
    kept = previous = ones
    while True:
        for _ in range(rounds):
            # 1 where no survivor suppresses the box.
            previous, kept = kept, torch.baddbmm(ones, kept, suppresses, alpha=-1).relu_()
        is_final = (kept == previous).all()
        if not may_wait or bool(is_final):
            return kept[:, 0].bool() & is_real, is_final


def soft_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, max_detections: int, sigma: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Indices (K) of boxes (N, 4), best first, and their scores (K), lowered by every better box of
    the same class by exp(-IoU^2 / sigma).

    Bodla et al. 2017, Soft-NMS, equation 7, and its sigma.
    """
    scores = scores.clone()
    same = labels[:, None] == labels[None, :]
    factors = torch.where(same, (-pairwise_iou(boxes, boxes).square() / sigma).exp(), 1.0)
    is_left = torch.ones_like(scores, dtype=torch.bool)
    order = []
    for _ in range(min(len(scores), max_detections)):
        best = int(torch.where(is_left, scores, -1.0).argmax())
        order.append(best)
        is_left[best] = False
        scores = torch.where(is_left, scores * factors[best], scores)
    chosen = torch.tensor(order, dtype=torch.long, device=boxes.device)
    return chosen, scores[chosen]
