"""Which images a rank sees at which update, as pure functions: no sampler has a state to save.

An update takes the next `global_batch` images of its epoch's order and deals them to the ranks; a
rank goes through its share in micro-batches. Start, resume in mid-epoch and another number of ranks
differ in the arguments alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# The stream of an epoch's order; augmentation streams are keyed by image indices, which stay far
# below.
_ORDER_STREAM = (1 << 40) - 1

# What the loader is asked for: the images (epoch, index) of one micro-batch of one rank.
Keys = list[tuple[int, int]]


def keyed_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of image `index` in `epoch`: the same whoever asks, in whatever order.

    Philox is a counter-based generator, made to be keyed (Salmon et al. 2011). epoch below 2^24,
    index below 2^40.
    """
    return np.random.Generator(np.random.Philox(key=[seed, (epoch << 40) | index]))


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """A permutation (num_images) of the image indices, read-only."""
    order = keyed_rng(seed, epoch, _ORDER_STREAM).permutation(num_images)
    order.flags.writeable = False
    return order


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

    def micro_batches(self, seed: int, epoch: int, images_seen: int, rank: int) -> Iterator[Keys]:
        """The micro-batches of one rank in one update; `passes` of them, of equal length but for
        one, or empty."""
        order = epoch_order(seed, epoch, self.num_images)
        update = order[images_seen : images_seen + self.global_batch]
        own = update[share(len(update), rank, self.size)]
        for i in range(self.passes):
            piece = own[i * self.micro_batch : (i + 1) * self.micro_batch]
            yield [(epoch, int(index)) for index in piece]

    def all_micro_batches(
        self, seed: int, epoch: int, images_seen: int, rank: int
    ) -> Iterator[Keys]:
        """From that update on, without end, epoch after epoch: what a loader reads ahead."""
        while True:
            while images_seen < self.num_images:
                yield from self.micro_batches(seed, epoch, images_seen, rank)
                images_seen += self.global_batch
            epoch, images_seen = epoch + 1, 0


def evaluation_blocks(num_images: int, block: int, rank: int, size: int) -> list[range]:
    """The batches of images that `rank` evaluates; all ranks together every image once.

    Blocks are cut before they are dealt, so that an image shares its forward pass with the same
    images on any number of ranks, and its detections have the same bits.
    """
    blocks = [range(i, min(i + block, num_images)) for i in range(0, num_images, block)]
    return blocks[share(len(blocks), rank, size)]
