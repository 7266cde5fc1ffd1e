"""From the boxes and scores of all points to detections, for all images of a batch at once and
without a host-device synchronization."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hvd_yolo import boxes as box_ops

# Candidates an image that enter suppression. COCO scores 100; RetinaNet and its heirs take 1000 as
# well.
_CANDIDATES = 1000
# Rounds of suppression on a GPU before it is known whether they were enough.
_ROUNDS = 32
# Pairs of boxes whose overlaps are computed at once on a GPU, 64 MB in float32.
_PAIRS = 1 << 24


class Candidates(NamedTuple):
    """C (point, class) pairs of each of B images, from the highest score to the lowest: boxes
    (B, C, 4), scores (B, C), labels (B, C); is_real (B, C): whether one is above the limit."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    is_real: Tensor


class PaddedDetections(Sequence[dict[str, Tensor]]):
    """The detections of B images, at most D of each; as a sequence, one dict an image as a Detector
    returns it: "boxes" (M, 4) in input pixels, "scores" (M) from high to low and "labels" (M).

    It lies on the device until it is first looked at. start_copy() begins the one copy to the host,
    which goes on beside what the device computes next.
    """

    def __init__(
        self,
        rows: Tensor,
        counts: Tensor,
        is_final: Tensor,
        finish: Callable[[], "PaddedDetections"] | None = None,
    ) -> None:
        """rows (B, D, 6): box, score and label, in float32 or float64; counts (B): how many of them
        are detections; is_final: scalar; finish: gives the final ones where these are not."""
        self._rows = rows
        self._finish = finish
        ends = torch.stack((counts, is_final.to(counts).expand_as(counts)), dim=1)
        self._packed = torch.cat((rows.flatten(1), ends.to(rows.dtype)), dim=1)
        self._copy: Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        self._on_host: list[np.ndarray] | None = None

    def start_copy(self) -> None:
        """Begin the copy to the host; it is not waited for."""
        if self._copy is None:
            # Into page-locked memory.
            self._copy = self._packed.detach().to("cpu", non_blocking=True)
            if self._packed.device.type == "cuda":
                self._copied = torch.cuda.current_stream(self._packed.device).record_event()

    def on_host(self) -> list[np.ndarray]:
        """Rows (M, 6) of each image: box, score, label; waits for the copy."""
        if self._on_host is None:
            self.start_copy()
            if self._copied is not None:
                self._copied.synchronize()
            packed = self._copy.numpy()
            if self._finish is not None and not packed[:, -1].all():
                final = self._finish()
                self._rows, self._on_host = final._rows, final.on_host()
            else:
                rows = packed[:, :-2].reshape(self._rows.shape)
                counts = packed[:, -2].astype(np.int64)
                self._on_host = [one[:n] for one, n in zip(rows, counts, strict=True)]
        return self._on_host

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):  # noqa: ANN001, ANN204 (as list's)
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        count = len(self.on_host()[index])
        rows = self._rows[index, :count]
        return {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()}


def pad_detections(detections: Sequence[dict[str, Tensor]]) -> PaddedDetections:
    """The detections of a batch, padded; those that are padded already stay so."""
    if isinstance(detections, PaddedDetections):
        return detections
    first = detections[0]["boxes"]
    dtype = _row_dtype(first.dtype, detections[0]["scores"].dtype)
    num_detections = [len(one["boxes"]) for one in detections]
    rows = torch.zeros(len(detections), max(num_detections), 6, dtype=dtype, device=first.device)
    for i, (one, count) in enumerate(zip(detections, num_detections, strict=True)):
        rows[i, :count] = _joined(one["boxes"], one["scores"], one["labels"], dtype)
    # From page-locked memory, where there is a GPU, so that the host does not wait.
    counts = torch.tensor(num_detections, pin_memory=first.device.type == "cuda")
    counts = counts.to(first.device, non_blocking=True)
    return PaddedDetections(rows, counts, torch.ones((), dtype=torch.bool, device=first.device))


def suppress(
    boxes: Tensor, scores: Tensor, conf: float, iou: float, max_detections: int
) -> PaddedDetections:
    """Detections after suppression.

    boxes (B, A, 4) xyxy, scores (B, A, K). A point may speak for several classes. The best 1000
    (point, class) pairs above `conf` go through suppression at overlap `iou` within each class.
    """
    candidates = _candidates(boxes, scores, conf, _CANDIDATES)
    may_wait = boxes.device.type == "cpu"
    return _suppressed(candidates, iou, max_detections, may_wait)


def best(boxes: Tensor, scores: Tensor, conf: float, count: int) -> PaddedDetections:
    """The best (point, class) pairs as they are, for heads that say each object once; see
    suppress."""
    candidates = _candidates(boxes, scores, conf, count)
    is_final = torch.ones((), dtype=torch.bool, device=boxes.device)
    return _padded(candidates, candidates.is_real, is_final, count)


def _suppressed(
    candidates: Candidates, iou: float, max_detections: int, may_wait: bool
) -> PaddedDetections:
    on_host = candidates.boxes.device.type == "cpu"
    num_images, length = candidates.is_real.shape
    together = 1 if on_host else max(1, _PAIRS // length**2)
    is_kept = torch.zeros_like(candidates.is_real)
    is_final = torch.ones((), dtype=torch.bool, device=is_kept.device)
    places = torch.arange(1, length + 1, device=is_kept.device)
    for start in range(0, num_images, together):
        images, used = slice(start, start + together), length
        if on_host:
            used = int((candidates.is_real[images] * places).max())
        kept, is_last = box_ops.greedy_survivors(
            candidates.boxes[images, :used], candidates.labels[images, :used],
            candidates.is_real[images, :used], iou, 1 if on_host else _ROUNDS, may_wait,
        )  # fmt: skip
        is_kept[images, :used] = kept
        is_final = is_final & is_last
    finish = None if may_wait else partial(_suppressed, candidates, iou, max_detections, True)
    return _padded(candidates, is_kept, is_final, max_detections, finish)


def _candidates(boxes: Tensor, scores: Tensor, conf: float, count: int) -> Candidates:
    """The best `count` pairs of each image; among equal scores those of the first points, and of a
    point those of the first classes."""
    num_classes = scores.shape[-1]
    # Each of these pairs is of one of the `count` points whose best scores are highest.
    points = _highest(scores.amax(-1), count)
    scores = scores.gather(1, points[..., None].expand(-1, -1, num_classes)).flatten(1)
    pairs = _highest(scores, count)
    scores = scores.gather(1, pairs)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    pairs = pairs.gather(1, order)
    points = points.gather(1, pairs // num_classes)
    boxes = boxes.gather(1, points[..., None].expand(-1, -1, 4))
    return Candidates(boxes, scores, pairs % num_classes, scores > conf)


def _highest(values: Tensor, count: int) -> Tensor:
    """Places (B, C), ascending, of the C highest of each row of values (B, N), C = min(count, N);
    among equals the first, which topk does not promise. NaN is higher than all."""
    num_rows, length = values.shape
    if length <= count:
        return torch.arange(length, device=values.device).expand(num_rows, -1)
    values = torch.where(values.isnan(), float("inf"), values)
    lowest = values.topk(count, dim=1, sorted=False).values.amin(1, keepdim=True)
    is_above, is_equal = values > lowest, values == lowest
    room = count - is_above.sum(1, keepdim=True)
    is_chosen = is_above | (is_equal & (is_equal.cumsum(1) <= room))
    return is_chosen.nonzero_static(size=num_rows * count)[:, 1].view(num_rows, count)


def _padded(
    candidates: Candidates,
    is_kept: Tensor,
    is_final: Tensor,
    max_detections: int,
    finish: Callable[[], PaddedDetections] | None = None,
) -> PaddedDetections:
    """The first kept candidates of each image, and zeros."""
    length = is_kept.shape[1]
    most = min(max_detections, length)
    places = torch.arange(length, device=is_kept.device)
    order = torch.where(is_kept, places, places + length).argsort(dim=1)[:, :most]
    counts = is_kept.sum(1).clamp(max=most)
    dtype = _row_dtype(candidates.boxes.dtype, candidates.scores.dtype)
    rows = _joined(candidates.boxes, candidates.scores, candidates.labels, dtype)
    rows = rows.gather(1, order[..., None].expand(-1, -1, 6))
    is_detection = places[:most] < counts[:, None]
    rows = torch.where(is_detection[..., None], rows, 0.0)
    return PaddedDetections(rows, counts, is_final, finish)


def _joined(boxes: Tensor, scores: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    columns = (boxes, scores[..., None], labels[..., None])
    return torch.cat([column.to(dtype) for column in columns], dim=-1)


def _row_dtype(boxes: torch.dtype, scores: torch.dtype) -> torch.dtype:
    """Float32, which holds labels exactly, or float64."""
    return torch.promote_types(torch.promote_types(boxes, scores), torch.float32)
