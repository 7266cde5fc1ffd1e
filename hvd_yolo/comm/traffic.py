"""How many bytes a rank sends: the ring's arithmetic, and what a compression leaves of a gradient.

Patarasuk & Yuan 2009, Bandwidth optimal all-reduce algorithms: a sum over N ranks is a
reduce-scatter and an allgather, (N - 1)/N of the tensor each.
"""

import math
from collections.abc import Sequence

FLOAT_BYTES = 4
HALF_BYTES = 2


def sum_bytes(num_bytes: float, size: int) -> float:
    """Bytes each of `size` ranks sends to sum a tensor of so many bytes."""
    return 2 * (size - 1) / size * num_bytes


def gather_bytes(num_bytes: float, size: int) -> float:
    """Bytes each rank sends so that every rank has all parts, one of so many bytes from each."""
    return (size - 1) * num_bytes


def exchange_bytes(num_bytes: float, size: int) -> float:
    """Bytes each rank sends to give every rank its 1/size of a tensor of so many bytes."""
    return (size - 1) / size * num_bytes


def is_low_rank(shape: Sequence[int], rank: int) -> bool:
    """Whether PowerSGD of this rank sends less of a parameter than the parameter itself."""
    rows = shape[0] if shape else 1
    columns = math.prod(shape[1:])
    return len(shape) > 1 and (rows + columns) * rank < rows * columns


def num_kept(num_weights: int, share: float) -> int:
    """How many entries top-k keeps of so many."""
    return max(1, math.ceil(share * num_weights))


def update_bytes(
    shapes: Sequence[Sequence[int]],
    size: int,
    compression: str,
    powersgd_rank: int,
    topk_share: float,
) -> float:
    """Bytes each rank sends for the float32 gradients of parameters of these shapes, headers of
    messages left out.

    none: 4 bytes a weight. fp16 and bf16: 2. powersgd: 2 bytes an entry of the two factors of each
    matrix, and 2 a weight of whatever is no larger than its factors (Vogels et al. 2019). topk: the
    value and the place of each entry kept, 8 bytes, to every other rank.
    """
    weights = [math.prod(shape) for shape in shapes]
    if compression == "topk":
        return gather_bytes(num_kept(sum(weights), topk_share) * 2 * FLOAT_BYTES, size)
    if compression in ("fp16", "bf16"):
        return sum_bytes(sum(weights) * HALF_BYTES, size)
    if compression == "powersgd":
        sent = [
            powersgd_rank * (shape[0] + count // shape[0])
            if is_low_rank(shape, powersgd_rank)
            else count
            for shape, count in zip(shapes, weights, strict=True)
        ]
        return sum_bytes(sum(sent) * HALF_BYTES, size)
    return sum_bytes(sum(weights) * FLOAT_BYTES, size)
