"""Batches for a rank, filled ahead by workers into slots that are used again and again."""

import logging
import sys
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from hvd_yolo.data.batch_layout import BatchLayout, write_targets
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.inputs import EvaluationInputs, Filled, Item, TrainingInputs
from hvd_yolo.data.order import evaluation_blocks
from hvd_yolo.data.orientation import TURNED_REMEDY
from hvd_yolo.data.worker import Inputs, WorkerPool
from hvd_yolo.targets import PaddedTargets

logger = logging.getLogger(__name__)


@dataclass
class Batch:
    """B inputs uint8 RGB with their objects, what belongs to each, and the messages of images that
    were skipped.

    record: the bytes of images and objects, laid out as `layout` says; targets: those of the
    objects, where the slot had no room for them.

    The record lies in a slot of the loader: it holds until the next batch but one is asked for.
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
        return _batch(filled, slot)

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


def _batch(filled: Filled, slot: np.ndarray) -> Batch:
    layout = filled.layout
    targets = filled.targets
    end = layout.num_bytes if targets is None else layout.image_bytes
    return Batch(
        torch.from_numpy(slot[:end]), layout, filled.items, filled.unreadable,
        None if targets is None else torch.from_numpy(targets),
    )  # fmt: skip


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
        return _batch(filled, slot)


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
    """Each batch is copied to the GPU, on a stream of its own, while the batch before is computed
    on."""
    stream = torch.cuda.Stream(device)
    under_way: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            following = (batch.to(device), stream.record_event())
        if under_way is not None:
            yield _arrived(*under_way)
        under_way = following


def _arrived(batch: Batch, event: torch.cuda.Event) -> Batch:
    """The batch once its copy is done, which it long is; only then may its slot be filled again."""
    event.synchronize()
    batch.record_stream(torch.cuda.current_stream(batch.record.device))
    return batch
