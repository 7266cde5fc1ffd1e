"""Which images a rank sees at which update, and how large, as pure functions: no sampler has a
state to save.

An update takes the next `global_batch` images of its epoch's order and deals them to the ranks; a
rank goes through its share in micro-batches. Start, resume in mid-epoch and another number of ranks
differ in the arguments alone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Streams of random numbers beside those of the images, whose places stay far below.
_ORDER_STREAM = (1 << 40) - 1
_SHAPE_STREAM = 1 << 39

# Rectangular updates: shapes are told apart only so far, that the neighbours change by the epoch.
_SHAPE_NOISE = 0.05


class MicroBatch(NamedTuple):
    """What a rank handles in one pass: the images that stand in `epoch` from place `first` on, by
    index, as width x height inputs."""

    epoch: int
    first: int
    indices: list[int]
    width: int
    height: int


def keyed_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of what stands at place `index` of an epoch's order: the same whoever
    asks, and for an image that is drawn twice not the same twice.

    Philox is a counter-based generator, made to be keyed (Salmon et al. 2011). epoch below 2^24,
    index below 2^40.
    """
    return np.random.Generator(np.random.Philox(key=[seed, (epoch << 40) | index]))


@dataclass
class Order:
    """The images of each epoch in their order, and the shape of each update's inputs.

    size: long side of the inputs. weights (N): images are drawn with these weights, with
    replacement; None: each image once. aspects (N), width / height of the images: an update of
    `group` images takes such of like shape, and its inputs are the smallest rectangle that holds
    them; None: squares. multi_scale: the size of an update is drawn from 1 -+ this share. Sides are
    multiples of `stride`.
    """

    seed: int
    num_images: int
    size: int
    weights: np.ndarray | None = None
    aspects: np.ndarray | None = None
    group: int = 0
    multi_scale: float = 0.0
    stride: int = 32

    def __post_init__(self) -> None:
        self._latest = (-1, np.zeros(0, dtype=np.int64))

    def epoch(self, epoch: int) -> np.ndarray:
        """The image indices (num_images) of an epoch, read-only."""
        if self._latest[0] != epoch:
            indices = self._indices(keyed_rng(self.seed, epoch, _ORDER_STREAM))
            indices.flags.writeable = False
            self._latest = (epoch, indices)
        return self._latest[1]

    def shape(self, epoch: int, images_seen: int, indices: np.ndarray) -> tuple[int, int]:
        """(width, height) of the inputs of the update that takes these images after `images_seen`
        of its epoch; the same on all ranks."""
        aspects = np.ones(1) if self.aspects is None else self.aspects[indices]
        width, height = min(1.0, aspects.max()), min(1.0, 1 / aspects.min())
        if self.multi_scale == 0:
            # Upwards, so that nothing is scaled down for the stride.
            return self._whole(np.ceil, width), self._whole(np.ceil, height)
        rng = keyed_rng(self.seed, epoch, _SHAPE_STREAM + images_seen)
        scale = rng.uniform(1 - self.multi_scale, 1 + self.multi_scale)
        return self._whole(np.rint, width * scale), self._whole(np.rint, height * scale)

    @property
    def largest_side(self) -> int:
        """The longest side an input can have."""
        return self._whole(np.rint if self.multi_scale else np.ceil, 1 + self.multi_scale)

    @property
    def smallest_side(self) -> int:
        """The shortest side that a square input can have."""
        return self._whole(np.rint if self.multi_scale else np.ceil, 1 - self.multi_scale)

    def _whole(self, rounded: np.ufunc, share: float) -> int:
        # Less a hair, for what is a multiple but for rounding.
        return max(1, int(rounded(share * self.size / self.stride - 1e-9))) * self.stride

    def _indices(self, rng: np.random.Generator) -> np.ndarray:
        if self.weights is None:
            indices = rng.permutation(self.num_images)
        else:
            shares = self.weights / self.weights.sum()
            indices = rng.choice(self.num_images, self.num_images, p=shares)
        if self.aspects is None:
            return indices
        noise = rng.uniform(-_SHAPE_NOISE, _SHAPE_NOISE, self.num_images)
        indices = indices[np.argsort(np.log(self.aspects[indices]) + noise, kind="stable")]
        # The short update stays the last of its epoch.
        num_whole = self.num_images // self.group * self.group
        groups = rng.permutation(indices[:num_whole].reshape(-1, self.group))
        return np.concatenate((groups.ravel(), indices[num_whole:]))


def share(num_items: int, rank: int, size: int) -> slice:
    """The items of `rank` when so many are dealt to `size` ranks as evenly as can be; the first get
    one more."""
    base, extra = divmod(num_items, size)
    start = rank * base + min(rank, extra)
    return slice(start, start + base + (rank < extra))


@dataclass(frozen=True)
class Dealing:
    """How the images of each update are dealt: `num_images` an epoch, `global_batch` an update.

    `micro_batch` is the most a rank handles at once; all ranks make the same number of `passes`,
    also where a share is short or empty.
    """

    num_images: int
    global_batch: int
    micro_batch: int
    size: int

    @property
    def updates_per_epoch(self) -> int:
        """Updates that take every image once; the last takes what is left."""
        return -(-self.num_images // self.global_batch)

    @property
    def passes(self) -> int:
        """Micro-batches of a rank in a full update."""
        largest_share = -(-self.global_batch // self.size)
        return -(-largest_share // self.micro_batch)

    def images_of_update(self, images_seen: int) -> int:
        """Images, over all ranks, of the update that starts after `images_seen` of its epoch."""
        return min(self.global_batch, self.num_images - images_seen)

    def place(self, start: tuple[int, int], number: int) -> tuple[int, int, int]:
        """(epoch, images seen in it, pass) of a rank's micro-batch `number`, counted from a start
        (epoch, images seen in it) on, without end."""
        update, pass_number = divmod(number, self.passes)
        epoch, images_seen = start
        left = -(-(self.num_images - images_seen) // self.global_batch)
        if update < left:
            return epoch, images_seen + update * self.global_batch, pass_number
        epochs, update = divmod(update - left, self.updates_per_epoch)
        return epoch + 1 + epochs, update * self.global_batch, pass_number

    def micro_batch_at(
        self, order: Order, start: tuple[int, int], number: int, rank: int
    ) -> MicroBatch:
        """Micro-batch `number` of a rank, counted from `start`; those of one update are of equal
        length but for one, or empty."""
        epoch, images_seen, pass_number = self.place(start, number)
        update = order.epoch(epoch)[images_seen : images_seen + self.global_batch]
        own = share(len(update), rank, self.size)
        first = own.start + pass_number * self.micro_batch
        piece = update[first : min(first + self.micro_batch, own.stop)]
        shape = order.shape(epoch, images_seen, update)
        return MicroBatch(epoch, images_seen + first, piece.tolist(), *shape)


def evaluation_blocks(num_images: int, block: int, rank: int, size: int) -> list[range]:
    """The batches of images that `rank` evaluates; all ranks together every image once.

    Blocks are cut before they are dealt, so that an image shares its forward pass with the same
    images on any number of ranks, and its detections have the same bits.
    """
    blocks = [range(i, min(i + block, num_images)) for i in range(0, num_images, block)]
    return blocks[share(len(blocks), rank, size)]
