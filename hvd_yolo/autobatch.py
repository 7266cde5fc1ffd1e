"""--batch_size -1: the largest batch that fits into the memory of every rank."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from hvd_yolo.comm import Comm, agree, batch_norm, gather_json
from hvd_yolo.comm.single import SingleComm
from hvd_yolo.config import Config
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.errors import InputError
from hvd_yolo.feed import largest_side
from hvd_yolo.memory import MemoryMeter
from hvd_yolo.models import largest_stride
from hvd_yolo.models.freezing import keep_frozen_statistics
from hvd_yolo.models.losses import LossesOf, as_losses, own_losses
from hvd_yolo.models.trial import copied
from hvd_yolo.out_of_memory import is_out_of_memory, may_be_out_of_memory
from hvd_yolo.precision import autocast
from hvd_yolo.targets import pad_targets

logger = logging.getLogger(__name__)

# The memory of a step is linear in its images, so that small batches tell of large ones.
_TRIED = (1, 2, 4, 8, 16)

# The rest is for what is not tried: the optimizer's moments, Horovod's buffers, the loader,
# evaluation, and what lies idle between blocks. Ultralytics takes 0.6; here the real loss is tried,
# over as many objects as the data set has, and less is left to chance.
_SHARE = 0.8

# Whatever the memory: with fewer updates an epoch than these, little is learnt from it.
_LEAST_UPDATES = 10


def find_batch_size(
    model: nn.Module,
    config: Config,
    comm: Comm,
    dataset: Dataset,
    losses_of: LossesOf = own_losses,
) -> int:
    """How many images every rank of the job can handle at once; all ranks call it and get the same.

    Tries a copy: the model, its statistics and gradients stay as they are, and torch's random state
    too. Raises InputError on all ranks when one of them has no memory for a single image.
    """
    side = largest_side(config, largest_stride(model))
    num_objects = _densest_images(dataset, config.augment.mosaic > 0)
    most = _most_images(config, comm.size, len(dataset))
    # A GPU has one rank; the memory of a host is shared by those that compute on its CPU.
    meter = MemoryMeter(comm.device, comm.local_size if comm.device.type == "cpu" else 1)
    # Nobody takes memory before all have seen how much is free.
    comm.barrier()
    with agree(comm), torch.random.fork_rng([comm.device] if comm.device.type == "cuda" else []):
        trial = _Trial(
            _trial_copy(model, config), losses_of,
            config.train.amp, side, num_objects, len(dataset.names),
        )  # fmt: skip
        own = largest_batch(trial.run, meter.peak, meter.available, most)
    del trial
    if comm.device.type == "cuda":
        # What torch keeps for itself, NCCL and cuDNN could not have.
        torch.cuda.empty_cache()
    found = gather_json(comm, {"images": own, "available": meter.available})
    least = min(found, key=lambda rank: rank["images"])
    memory = f"{least['available'] / 1e9:.1f} GB that rank {found.index(least)} has free"
    if least["images"] == 0:
        raise InputError(
            f"batch_size -1: not one image of {side} pixels fits into {_SHARE:.0%} of the "
            f"{memory}; take a smaller imgsz or model, or --train.checkpoint_activations true"
        )
    logger.info("batch_size -1: %s images a rank, from %s", least["images"], memory)
    return least["images"]


@dataclass
class _Trial:
    """A step over made images of side x side pixels; num_objects: of the first, the second, ..."""

    model: nn.Module
    losses_of: LossesOf
    amp: str
    side: int
    num_objects: list[int]
    num_classes: int

    def run(self, num_images: int) -> None:
        """Forward and backward."""
        self.model.zero_grad()
        weight = next(self.model.parameters())
        shape = (num_images, self.side, self.side, 3)
        images = torch.rand(shape, dtype=weight.dtype, device=weight.device).permute(0, 3, 1, 2)
        counts = [self.num_objects[i % len(self.num_objects)] for i in range(num_images)]
        targets = pad_targets([self._target(n) for n in counts], weight.dtype, weight.device)
        with autocast(self.amp, weight.device):
            losses = as_losses(self.losses_of(self.model, images, targets), num_images)
        (losses.total() / num_images).backward()

    def _target(self, count: int) -> dict[str, torch.Tensor]:
        """So many objects anywhere in an image, of any size and class."""
        corners = torch.rand(count, 2, 2).sort(dim=1).values * self.side
        return {"boxes": corners.flatten(1), "labels": torch.arange(count) % self.num_classes}


def largest_batch(
    work: Callable[[int], None],
    peak: Callable[[Callable[[], None]], int],
    available: int,
    most: int,
) -> int:
    """The largest batch, at most `most`, whose work takes up to _SHARE of `available` bytes; 0 if
    there is none.

    work(B) makes a pass over B images, peak(...) runs something and gives the bytes it took.
    """
    sizes: list[int] = []
    peaks: list[int] = []
    for size in _TRIED:
        # Twice the images take at most twice the memory. What could take all that is free is not
        # tried: on the CPU the kernel would kill the process, or another one.
        if sizes and (size > most or 2 * peaks[-1] > available):
            break
        try:
            taken = peak(partial(work, size))
        except (RuntimeError, MemoryError) as error:
            # Where a smaller batch went through, what may be a lack of memory is one.
            if not is_out_of_memory(error) and not (sizes and may_be_out_of_memory(error)):
                raise
            most = sizes[-1] if sizes else 0
            break
        sizes.append(size)
        peaks.append(taken)
    return min(most, images_within(round(_SHARE * available), sizes, peaks))


def images_within(limit: int, sizes: list[int], peaks: list[int]) -> int:
    """The largest batch that takes at most `limit` bytes, on the line through what batches of some
    `sizes` took; see _rounded."""
    if not sizes or peaks[0] > limit:
        return 0
    if len(sizes) == 1:
        return sizes[0]
    per_image, fixed = np.polyfit(sizes, peaks, 1)
    if per_image <= 0:
        # Of tiny pictures what else is counted hides the growth; this is at least as much.
        # None at all where the process has kept more than they need.
        per_image, fixed = max(1.0, peaks[-1] / sizes[-1]), 0.0
    return _rounded(int((limit - fixed) / per_image))


def _most_images(config: Config, size: int, num_images: int) -> int:
    """The images of a rank beyond which memory does not matter."""
    if config.global_batch:
        return -(-config.global_batch // size)
    return _rounded(num_images // (_LEAST_UPDATES * size * config.train.accumulate))


def _rounded(count: int) -> int:
    """`count`, at least 1; from 8 on a multiple of 8, the length of vectors and of the tiles of
    tensor cores, which a fraction leaves idle."""
    return max(1, count) if count < 8 else count // 8 * 8


def _densest_images(dataset: Dataset, is_mosaic: bool) -> list[int]:
    """Objects of the densest images of the data set, in descending order, as many as are tried at
    once; with mosaic, those of three usual images beside each."""
    counts = np.array([len(dataset.annotations(i, 1, 1).labels) for i in range(len(dataset))])
    beside = round(3 * float(counts.mean())) if is_mosaic else 0
    densest = np.sort(counts)[::-1][: _TRIED[-1]]
    return [max(1, int(count) + beside) for count in densest]


def _trial_copy(model: nn.Module, config: Config) -> nn.Module:
    """The model as Step.prepare makes it ready, without a tie to the other ranks."""
    trial, train = copied(model, config.model), config.train
    if train.channels_last:
        trial.to(memory_format=torch.channels_last)
    if train.sync_bn:
        batch_norm.convert(trial, SingleComm())
    if train.freeze_bn:
        batch_norm.freeze(trial)
    keep_frozen_statistics(trial)
    return trial
