"""A batch as the loader gives it: pixels and objects in one piece of memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hvd_yolo.data.batch_layout import BatchLayout, write_targets
from hvd_yolo.data.inputs import Filled, Item
from hvd_yolo.targets import PaddedTargets


@dataclass
class Batch:
    """B inputs uint8 RGB with their objects, what belongs to each, and the messages of images that
    were skipped.

    record: the bytes of images and objects, laid out as `layout` says; targets: those of the
    objects, where the slot had no room for them.

    The record lies in a slot of the loader: it holds until the next batch but one is asked for, or
    one of another source.
    """

    record: Tensor
    layout: BatchLayout
    items: list[Item]
    unreadable: list[str]
    targets: Tensor | None = None

    @classmethod
    def of(cls, images: Tensor, targets: Sequence[dict[str, Tensor]]) -> "Batch":
        """A batch in memory of its own: images (B, H, W, 3) uint8, and for each a dict with boxes
        (N, 4) in input pixels and labels (N); image ids count from 0."""
        items = [Item(i, len(target["labels"])) for i, target in enumerate(targets)]
        filled = Filled(items, [], width=images.shape[2], height=images.shape[1])
        slot = np.empty(filled.layout.num_bytes, dtype=np.uint8)
        filled.layout.images(slot)[:] = images.numpy()
        boxes = [target["boxes"].numpy() for target in targets]
        write_targets(slot, filled.layout, boxes, [target["labels"].numpy() for target in targets])
        return batch_in(slot, filled)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def images(self) -> Tensor:
        """The inputs (B, H, W, 3) uint8 RGB, not copied."""
        return self.layout.images(self.record)

    @property
    def num_objects(self) -> list[int]:
        """How many objects each input has."""
        return [item.num_objects for item in self.items]

    def clone(self) -> "Batch":
        """The same batch in memory of its own."""
        targets = None if self.targets is None else self.targets.clone()
        return replace(self, record=self.record.clone(), targets=targets)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; from page-locked memory one copy, which the host does not
        wait for."""
        targets = self.targets
        if targets is not None and targets.device != device:
            # It came through a pipe. Page-locked here, for the host would wait for the copy.
            targets = targets.pin_memory() if device.type == "cuda" else targets
            targets = targets.to(device, non_blocking=True)
        return replace(self, record=self.record.to(device, non_blocking=True), targets=targets)

    def to_model(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, PaddedTargets]:
        """Images (B, 3, H, W) in 0..1, channels_last in memory, and targets as a Detector takes
        them."""
        batch = self.to(device)
        images = batch.images.permute(0, 3, 1, 2).to(dtype) / 255
        part = batch.targets
        if part is None:
            part = batch.record[self.layout.image_bytes :]
        counts, labels, boxes = self.layout.targets(part, torch.int64, torch.float64)
        return images, PaddedTargets(boxes.to(dtype), labels, counts, self.num_objects)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Tell the allocator that work on `stream` uses the memory of this batch."""
        self.record.record_stream(stream)
        if self.targets is not None:
            self.targets.record_stream(stream)


def batch_in(slot: np.ndarray, filled: Filled) -> Batch:
    """The batch that was written into a slot, not copied."""
    layout = filled.layout
    targets = filled.targets
    end = layout.num_bytes if targets is None else layout.image_bytes
    return Batch(
        torch.from_numpy(slot[:end]), layout, filled.items, filled.unreadable,
        None if targets is None else torch.from_numpy(targets),
    )  # fmt: skip
