"""How a batch lies in memory: the pixels of its images and, behind them, their objects, in one
piece, so that a single copy brings all of it to a GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

# np.ndarray or Tensor, of uint8: a loader process has no torch.
Bytes = TypeVar("Bytes")

# Each part starts at a multiple of a cache line.
_ALIGNMENT = 64

# A slot has room for this many objects an image: 20 KB, 2% of the pixels of 640 x 640. Of more,
# the objects of that batch travel in memory of their own.
_OBJECTS_OF_SLOT = 512


@dataclass(frozen=True)
class BatchLayout:
    """A batch of width x height images with up to `max_objects` (M) objects each.

    In order: images (B, H, W, 3) uint8; counts (B) int64, labels (B, M) int64 and boxes (B, M, 4)
    float64, padded with zeros.
    """

    num_images: int
    height: int
    width: int
    max_objects: int

    @property
    def image_bytes(self) -> int:
        """Bytes of the images, to the end of their last cache line."""
        return _aligned(self.num_images * self.height * self.width * 3)

    @property
    def target_bytes(self) -> int:
        """Bytes of counts, labels and boxes, to the end of their last cache line."""
        return _aligned(8 * self.num_images * (1 + 5 * self.max_objects))

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole batch."""
        return self.image_bytes + self.target_bytes

    def images(self, record: Bytes) -> Bytes:
        """The images (B, H, W, 3) of a batch that starts where `record` does, not copied."""
        count = self.num_images * self.height * self.width * 3
        return record[:count].reshape(self.num_images, self.height, self.width, 3)

    def targets(self, part: Bytes, int64: Any, float64: Any) -> tuple[Bytes, Bytes, Bytes]:  # noqa: ANN401
        """Counts (B), labels (B, M) and boxes (B, M, 4) that start where `part` does, not copied.
        int64, float64: the dtypes of its library."""
        num_images, num_places = self.num_images, self.num_images * self.max_objects
        numbers = part[: 8 * (num_images + num_places)].view(int64)
        boxes = part[8 * (num_images + num_places) :][: 32 * num_places].view(float64)
        return (
            numbers[:num_images],
            numbers[num_images:].reshape(num_images, self.max_objects),
            boxes.reshape(num_images, self.max_objects, 4),
        )


def slot_bytes(num_images: int, side: int) -> int:
    """Bytes of a slot for batches of up to `num_images` inputs of up to side x side pixels."""
    return BatchLayout(num_images, side, side, _OBJECTS_OF_SLOT).num_bytes


def write_targets(
    slot: np.ndarray,
    layout: BatchLayout,
    boxes: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
) -> np.ndarray | None:
    """Write the objects of a batch, boxes (N, 4) and labels (N) for each image, behind its images.

    Where the slot has no room for them, returns them in an array of their own.
    """
    has_room = layout.num_bytes <= len(slot)
    apart = None if has_room else np.empty(layout.target_bytes, dtype=np.uint8)
    part = slot[layout.image_bytes : layout.num_bytes] if apart is None else apart
    part[:] = 0
    counts, all_labels, all_boxes = layout.targets(part, np.int64, np.float64)
    for i, (image_boxes, image_labels) in enumerate(zip(boxes, labels, strict=True)):
        counts[i] = count = len(image_labels)
        all_labels[i, :count] = image_labels
        all_boxes[i, :count] = image_boxes
    return apart


def _aligned(num_bytes: int) -> int:
    return num_bytes + -num_bytes % _ALIGNMENT
