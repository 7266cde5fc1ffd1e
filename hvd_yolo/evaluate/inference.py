"""Forward passes over batches, whose detections are copied to the host while the device computes
the next batch."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from hvd_yolo.comm.batch_norm import freeze, keeping_buffers
from hvd_yolo.data.inputs import Item
from hvd_yolo.data.loader import Batch
from hvd_yolo.models import ScoredDetector
from hvd_yolo.models.losses import Losses, as_losses
from hvd_yolo.models.selection import PaddedDetections, pad_detections
from hvd_yolo.precision import autocast


class Inference(NamedTuple):
    """What comes of a batch: of each item the rows (M, 6) in input pixels, box, score and label;
    the messages of unreadable images; and the losses, on the device, where they are asked for."""

    items: list[Item]
    rows: list[np.ndarray]
    unreadable: list[str]
    losses: Losses | None = None


class _UnderWay(NamedTuple):
    batch: Batch
    detections: PaddedDetections
    losses: Losses | None

    def finished(self) -> Inference:
        """Waits for the copy."""
        rows = self.detections.on_host()
        return Inference(self.batch.items, rows, self.batch.unreadable, self.losses)


@torch.no_grad()
def infer(
    model: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    amp: str,
    with_losses: bool = False,
) -> Iterator[Inference]:
    """The batches in their order, on a GPU one behind what it computes. amp: none, bf16 or fp16."""
    num_behind = 0 if device.type == "cpu" else 1
    under_way: deque[_UnderWay] = deque()
    for batch in batches:
        if not batch.items:
            yield Inference([], [], batch.unreadable)
            continue
        with autocast(amp, device):
            detections, losses = _forward(model, batch, device, with_losses)
        detections.start_copy()
        # The slot of its pixels is filled again.
        under_way.append(_UnderWay(batch, detections, losses))
        while len(under_way) > num_behind:
            yield under_way.popleft().finished()
    for one in under_way:
        yield one.finished()


def _forward(
    model: nn.Module, batch: Batch, device: torch.device, with_losses: bool
) -> tuple[PaddedDetections, Losses | None]:
    """Detections, and losses with the statistics of evaluation mode."""
    images, targets = batch.to_model(device, next(model.parameters()).dtype)
    if not with_losses:
        return pad_detections(model(images)), None
    if isinstance(model, ScoredDetector):
        found, losses = model.detect_and_score(images, targets)
        return pad_detections(found), losses
    found = pad_detections(model(images))
    # A foreign detector tells its losses in training mode only; it must not learn from them.
    with keeping_buffers(model):
        model.train()
        freeze(model)
        losses = as_losses(model(images, targets), len(batch))
        model.eval()
    return found, losses
