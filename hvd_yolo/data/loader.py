"""Batches for a rank: torch's DataLoader over the keys that order.py deals, in forkserver workers.

Workers hold nothing of CUDA or MPI (a fork of a process with either may hang or crash); one thread
each, since there is one worker a core.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hvd_yolo import boxes as box_ops
from hvd_yolo.config import AugmentConfig
from hvd_yolo.data.dataset import Annotations, Dataset, UnreadableImage, load_sample
from hvd_yolo.data.mosaic import training_picture
from hvd_yolo.data.order import Dealing, Keys, evaluation_blocks, keyed_rng
from hvd_yolo.data.transforms import letterbox_layer, render


@dataclass
class Item:
    """One input image (S, S, 3) uint8 RGB with its boxes (N, 4) in input pixels and labels (N).

    width and height are those of the file; truth is what evaluation scores against, in pixels of
    the file.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    image_id: int
    width: int = 0
    height: int = 0
    truth: Annotations | None = None


@dataclass
class Batch:
    """B images (B, S, S, 3) uint8 RGB, their items without pixels, and the messages of images that
    were skipped."""

    images: Tensor
    items: list[Item]
    unreadable: list[str]

    def __len__(self) -> int:
        return len(self.items)

    def pin_memory(self) -> "Batch":
        """Called by DataLoader: page-locked pixels are copied to the GPU while it computes."""
        self.images = self.images.pin_memory()
        return self

    def to_model(
        self, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Images (B, 3, S, S) in 0..1, channels_last in memory, and targets as a Detector takes
        them."""
        images = self.images.to(device, non_blocking=True).permute(0, 3, 1, 2).to(dtype) / 255
        targets = [
            {
                "boxes": torch.from_numpy(item.boxes).to(device, dtype),
                "labels": torch.from_numpy(item.labels).to(device),
            }
            for item in self.items
        ]
        return images, targets


class TrainingItems:
    """What a worker holds to make training inputs from keys (epoch, index); a pure function of the
    key."""

    def __init__(
        self, dataset: Dataset, config: AugmentConfig, size: int, seed: int, closing_epoch: int
    ) -> None:
        self.dataset = dataset
        self.config = config
        self.size = size
        self.seed = seed
        self.closing_epoch = closing_epoch

    def __getitem__(self, key: tuple[int, int]) -> Item | UnreadableImage:
        epoch, index = key
        rng = keyed_rng(self.seed, epoch, index)
        is_closing = epoch >= self.closing_epoch
        try:
            picture = training_picture(self.dataset, index, rng, self.config, self.size, is_closing)
        except UnreadableImage as error:
            return error
        image = cv2.cvtColor(picture.image, cv2.COLOR_BGR2RGB)
        return Item(image, picture.boxes, picture.labels, self.dataset.image_id(index))


class EvaluationItems:
    """What a worker holds to make evaluation inputs from indices: the letterboxed image and its
    truth."""

    def __init__(self, dataset: Dataset, size: int) -> None:
        self.dataset = dataset
        self.size = size

    def __getitem__(self, index: int) -> Item | UnreadableImage:
        try:
            sample = load_sample(self.dataset, index)
        except UnreadableImage as error:
            return error
        height, width = sample.image.shape[:2]
        picture = render([letterbox_layer(sample, self.size)], np.eye(3), self.size)
        boxes = box_ops.letterbox(width, height, self.size).apply(sample.boxes)
        truth = self.dataset.annotations(index, width, height)
        image = cv2.cvtColor(picture.image, cv2.COLOR_BGR2RGB)
        return Item(image, boxes, sample.labels, sample.image_id, width, height, truth)


def training_batches(
    items: TrainingItems,
    dealing: Dealing,
    start: tuple[int, int],
    rank: int,
    num_workers: int,
    prefetch: int,
) -> Iterator[Batch]:
    """The micro-batches of a rank from `start`, (epoch, images seen in it), on and without end."""
    epoch, images_seen = start
    keys = dealing.all_micro_batches(items.seed, epoch, images_seen, rank)
    return iter(_loader(items, keys, num_workers, prefetch))


def evaluation_batches(
    dataset: Dataset, size: int, block: int, rank: int, num_ranks: int, num_workers: int
) -> Iterable[Batch]:
    """The batches that a rank evaluates; can be gone through again and again, the workers stay."""
    blocks = evaluation_blocks(len(dataset), block, rank, num_ranks)
    workers = min(num_workers, len(blocks))
    return _loader(EvaluationItems(dataset, size), blocks, workers, 2)


def _loader(
    items: TrainingItems | EvaluationItems,
    keys: Iterable[Keys] | list[range],
    num_workers: int,
    prefetch: int,
) -> DataLoader:
    # In the training process too: its OpenCV threads would compete with torch's.
    cv2.setNumThreads(0)
    # A generator of its own, because DataLoader would otherwise draw from torch's global random
    # state.
    options = {"generator": torch.Generator().manual_seed(0)}
    if num_workers > 0:
        options |= {
            "multiprocessing_context": "forkserver",
            "persistent_workers": True,
            "prefetch_factor": prefetch,
            "worker_init_fn": _start_worker,
            "pin_memory": torch.cuda.is_available(),
        }
    return DataLoader(
        items, batch_sampler=keys, collate_fn=_collate, num_workers=num_workers, **options
    )


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _collate(found: list[Item | UnreadableImage]) -> Batch:
    items = [item for item in found if isinstance(item, Item)]
    unreadable = [str(item) for item in found if isinstance(item, UnreadableImage)]
    if items:
        images = torch.from_numpy(np.stack([item.image for item in items]))
    else:
        images = torch.zeros((0, 0, 0, 3), dtype=torch.uint8)
    for item in items:
        item.image = np.zeros((0, 0, 3), dtype=np.uint8)
    return Batch(images, items, unreadable)
