"""Batches for a rank, filled ahead by workers into slots that are used again and again."""

import logging
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from hvd_yolo.data.batch import Batch, batch_in
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.inputs import EvaluationInputs, Filled, TrainingInputs
from hvd_yolo.data.order import evaluation_blocks
from hvd_yolo.data.orientation import TURNED_REMEDY
from hvd_yolo.data.page_lock import num_slots, page_lock
from hvd_yolo.data.worker import Inputs, WorkerPool

logger = logging.getLogger(__name__)

_CPU = torch.device("cpu")


class Loader:
    """Batches 0, 1, ... of each of `sources`, on `device`.

    They come from `num_workers` processes that read `prefetch` batches ahead each; 0 fills a batch
    in this process when it is asked for. All sources share processes and slots, which are
    page-locked for a GPU, so one is read at a time. Going on with another discards what was read
    ahead, which is asked for again later: batches are functions of their number.
    """

    def __init__(
        self,
        sources: Sequence[Inputs],
        num_workers: int,
        prefetch: int = 2,
        device: torch.device = _CPU,
    ) -> None:
        # Its threads would compete with torch's.
        cv2.setNumThreads(0)
        self.num_workers = num_workers
        self._sources = sources
        self._device = device
        self._ahead = num_workers * prefetch
        if num_workers:
            self._pool = WorkerPool(sources, num_workers, num_slots(num_workers, prefetch))
            self._slots = self._pool.slots
        else:
            largest = max(source.slot_bytes for source in sources)
            self._slots = np.empty((num_slots(0, prefetch), largest), dtype=np.uint8)
        self._copies = None
        if device.type == "cuda":
            page_lock(self._slots, self)
            self._copies = torch.cuda.Stream(device)
        self._has_told_turned = False
        # Who has asked for what is under way: one iterator at a time.
        self._reader: object = None
        # The worker of each batch that is asked for, in the order of the answers.
        self._under_way: deque[int] = deque()

    @property
    def pinned_bytes(self) -> int:
        """Bytes of page-locked memory."""
        return self._slots.nbytes if self._copies else 0

    def batches(self, source: int, number: int | None = None) -> Iterator[Batch]:
        """Batches 0, 1, ... of a source, to `number` of them or without end."""
        last = sys.maxsize if number is None else number
        filled = self._filled(source, last)
        return _copied_ahead(filled, self._copies, self._device) if self._copies else filled

    def _filled(self, source: int, last: int) -> Iterator[Batch]:
        """Batches in their slots."""
        reader = object()
        asked = 0
        for i in range(last):
            if self._reader is not reader:
                self._free_slots()
                self._reader = reader
                asked = i
            slot = self._slots[i % len(self._slots)]
            if not self.num_workers:
                yield self._batch(self._sources[source].fill(i, slot), slot)
                continue
            while asked < min(i + self._ahead, last):
                worker = asked % self.num_workers
                self._pool.ask(worker, source, asked, asked % len(self._slots))
                self._under_way.append(worker)
                asked += 1
            yield self._batch(self._pool.answer(self._under_way.popleft()), slot)

    def _free_slots(self) -> None:
        """Wait for what the last reader has asked for and for copies to the GPU."""
        while self._under_way:
            self._pool.answer(self._under_way.popleft())
        if self._copies and self._reader:
            self._copies.synchronize()

    def _batch(self, filled: Filled, slot: np.ndarray) -> Batch:
        if filled.turned and not self._has_told_turned:
            self._has_told_turned = True
            logger.warning(
                "boxes are turned with their images, the first with image id %d: the annotations "
                "are of the stored image, whose sides EXIF swaps; `data check` counts these "
                "images, %s",
                min(filled.turned), TURNED_REMEDY,
            )  # fmt: skip
        return batch_in(slot, filled)


@dataclass
class Batches:
    """The first `number` batches of a source of a loader, as often as they are gone through."""

    loader: Loader
    source: int
    number: int

    def __iter__(self) -> Iterator[Batch]:
        return self.loader.batches(self.source, self.number)


def training_batches(
    inputs: TrainingInputs, num_workers: int, prefetch: int, device: torch.device
) -> Iterator[Batch]:
    """The micro-batches of a rank, without end; on a GPU they are there already."""
    return Loader([inputs], num_workers, prefetch, device).batches(0)


def evaluation_inputs(
    dataset: Dataset, size: int, block: int, rank: int, num_ranks: int
) -> EvaluationInputs:
    """The share of a rank in an evaluation by `num_ranks`, `block` images a batch."""
    return EvaluationInputs(dataset, size, evaluation_blocks(len(dataset), block, rank, num_ranks))


def evaluation_batches(
    dataset: Dataset, size: int, block: int, rank: int, num_ranks: int, num_workers: int
) -> Batches:
    """The batches that a rank evaluates, on the CPU; can be gone through again and again, the
    workers stay."""
    inputs = evaluation_inputs(dataset, size, block, rank, num_ranks)
    number = len(inputs.blocks)
    return Batches(Loader([inputs], min(num_workers, number)), 0, number)


def _copied_ahead(
    batches: Iterator[Batch], stream: torch.cuda.Stream, device: torch.device
) -> Iterator[Batch]:
    """Each batch is copied to the GPU, on a stream of its own, while the batch before is computed
    on."""
    under_way: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            following = (batch.to(device), stream.record_event())
        if under_way is not None:
            yield _arrived(*under_way)
        under_way = following
    if under_way is not None:
        yield _arrived(*under_way)


def _arrived(batch: Batch, event: torch.cuda.Event) -> Batch:
    """The batch once its copy is done, which it long is; only then may its slot be filled again."""
    event.synchronize()
    batch.record_stream(torch.cuda.current_stream(batch.record.device))
    return batch
