"""How many places the objects of a batch are padded to; without torch, which a loader process does
not import."""

from collections.abc import Sequence

# The number of places of an image is a multiple of this, so that batches have few shapes: each new
# one costs a compiled step a compilation.
MULTIPLE = 8


def padded_length(num_objects: Sequence[int]) -> int:
    """The places M of each image in a batch of images with so many objects: a multiple of MULTIPLE,
    and at least one."""
    return max(1, -(-max(num_objects, default=0) // MULTIPLE)) * MULTIPLE
