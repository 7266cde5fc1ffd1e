"""Batches for a rank, filled ahead by workers into slots that are used again and again."""

import logging
import sys
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.inputs import EvaluationInputs, Filled, Item, TrainingInputs, input_views
from hvd_yolo.data.order import evaluation_blocks
from hvd_yolo.data.orientation import TURNED_REMEDY
from hvd_yolo.data.worker import Inputs, WorkerPool

logger = logging.getLogger(__name__)


@dataclass
class Batch:
    """B inputs (B, H, W, 3) uint8 RGB, what belongs to each, and the messages of images that were
    skipped.

    The pixels lie in a slot of the loader: they hold until the next batch but one is asked for.
    """

    images: Tensor
    items: list[Item]
    unreadable: list[str]

    def __len__(self) -> int:
        return len(self.items)

    def to_model(
        self, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Images (B, 3, H, W) in 0..1, channels_last in memory, and targets as a Detector takes
        them."""
        images = self.images.to(device, non_blocking=True).permute(0, 3, 1, 2).to(dtype) / 255
        # One transfer for all boxes and one for all labels.
        counts = [len(item.labels) for item in self.items]
        boxes = np.concatenate([np.zeros((0, 4)), *(item.boxes for item in self.items)])
        labels = np.concatenate([np.zeros(0, np.int64), *(item.labels for item in self.items)])
        boxes = torch.from_numpy(boxes).to(device, dtype).split(counts)
        labels = torch.from_numpy(labels).to(device).split(counts)
        return images, [
            {"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)
        ]  # fmt: skip


# cudaErrorMemoryAllocation
_CUDA_MEMORY_ALLOCATION = 2


class Loader:
    """Batches 0, 1, ... of `inputs`, to `number` of them or without end, as often as they are gone
    through.

    From `num_workers` processes that read `prefetch` batches ahead each; 0 fills a batch in this
    process when it is asked for.
    """

    def __init__(
        self, inputs: Inputs, num_workers: int, prefetch: int = 2, number: int | None = None
    ) -> None:
        # Its threads would compete with torch's.
        cv2.setNumThreads(0)
        self._inputs = inputs
        self._num_workers = num_workers
        self._ahead = num_workers * prefetch
        self._number = number
        # Beside those under way: the batch that is used, and the one before, which may still be on
        # its way to the GPU.
        num_slots = self._ahead + 2
        if num_workers:
            self._pool = WorkerPool(inputs, num_workers, num_slots)
            self._slots = self._pool.slots
        else:
            self._slots = np.empty((num_slots, inputs.slot_bytes), dtype=np.uint8)
        self._has_told_turned = False
        # The worker of each batch that is asked for, in the order of the answers.
        self._under_way: deque[int] = deque()

    def page_lock(self) -> None:
        """Copies to the GPU run beside its computation only from memory that cannot be swapped."""
        address = self._slots.ctypes.data
        status = torch.cuda.cudart().cudaHostRegister(address, self._slots.nbytes, 0)
        if int(status) == _CUDA_MEMORY_ALLOCATION:
            raise MemoryError(
                f"Unable to allocate {self._slots.nbytes} bytes of page-locked memory for batches "
                "(ulimit -l limits it)"
            )
        torch.cuda.check_error(int(status))
        weakref.finalize(self, torch.cuda.cudart().cudaHostUnregister, address)

    def __iter__(self) -> Iterator[Batch]:
        # Answers that nobody waited for when it was last gone through.
        while self._under_way:
            self._pool.answer(self._under_way.popleft())
        asked = 0
        last = sys.maxsize if self._number is None else self._number
        for i in range(last):
            slot = self._slots[i % len(self._slots)]
            if not self._num_workers:
                yield self._batch(self._inputs.fill(i, slot), slot)
                continue
            while asked < min(i + self._ahead, last):
                worker = asked % self._num_workers
                self._pool.ask(worker, asked, asked % len(self._slots))
                self._under_way.append(worker)
                asked += 1
            yield self._batch(self._pool.answer(self._under_way.popleft()), slot)

    def _batch(self, filled: Filled, slot: np.ndarray) -> Batch:
        if filled.turned and not self._has_told_turned:
            self._has_told_turned = True
            logger.warning(
                "boxes are turned with their images, the first with image id %d: the annotations "
                "are of the stored image, whose sides EXIF swaps; `data check` counts these "
                "images, %s",
                min(filled.turned), TURNED_REMEDY,
            )  # fmt: skip
        pixels = input_views(slot, len(filled.items), filled.width, filled.height)
        return Batch(torch.from_numpy(pixels), filled.items, filled.unreadable)


def training_batches(
    inputs: TrainingInputs, num_workers: int, prefetch: int, device: torch.device
) -> Iterator[Batch]:
    """The micro-batches of a rank, without end; on a GPU the pixels are there already."""
    loader = Loader(inputs, num_workers, prefetch)
    if device.type != "cuda":
        return iter(loader)
    loader.page_lock()
    return _copied_ahead(iter(loader), device)


def evaluation_batches(
    dataset: Dataset, size: int, block: int, rank: int, num_ranks: int, num_workers: int
) -> Loader:
    """The batches that a rank evaluates; can be gone through again and again, the workers stay."""
    blocks = evaluation_blocks(len(dataset), block, rank, num_ranks)
    inputs = EvaluationInputs(dataset, size, blocks)
    return Loader(inputs, min(num_workers, len(blocks)), number=len(blocks))


def _copied_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Each batch's pixels are copied to the GPU, on a stream of their own, while the batch before
    is computed on."""
    stream = torch.cuda.Stream(device)
    under_way: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            batch.images = batch.images.to(device, non_blocking=True)
        following = (batch, stream.record_event())
        if under_way is not None:
            # Done long since; only then may its slot be filled again.
            under_way[1].synchronize()
            under_way[0].images.record_stream(torch.cuda.current_stream(device))
            yield under_way[0]
        under_way = following
