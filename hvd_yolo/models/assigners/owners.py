"""Of objects that each take a few points, which one gets each point."""

from typing import NamedTuple

import torch
from torch import Tensor


class Owners(NamedTuple):
    """is_positive (B, A): an object has the point; owner (B, A): which, 0 where none."""

    is_positive: Tensor
    owner: Tensor


def settle_owners(chosen: Tensor, is_chosen: Tensor, best: Tensor) -> Owners:
    """One owner for each point that was taken.

    chosen (B, M, k): points that an object takes, where is_chosen (B, M, k) holds; best (B, A): the
    object that gets a point which several have taken, though it be none of them.
    """
    num_objects = chosen.shape[1]
    taken = is_chosen.long().flatten(1)
    objects = torch.arange(num_objects, device=chosen.device)[:, None].expand(chosen.shape[1:])
    places = chosen.flatten(1)
    num_claims = torch.zeros_like(best).scatter_add_(1, places, taken)
    # Where there is one claim, the sum is its object.
    owner = torch.zeros_like(best).scatter_add_(1, places, taken * objects.flatten())
    return Owners(num_claims > 0, torch.where(num_claims > 1, best, owner))


def places_of(mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The places (size) of the True elements of a flat mask (N), in order, and is_place (size).

    As nonzero(), but of a size known on the host, at least the number of those elements and at most
    N, so that nothing waits for the device. The rest are the first places, each once: if they were
    all the same, the threads of a backward pass would wait for one another there.
    """
    numbers = torch.arange(len(mask), device=mask.device)
    positions = (mask.long().cumsum(0) - 1).masked_fill(~mask, size)
    places = numbers.new_full((size + 1,), -1).scatter_(0, positions, numbers)[:size]
    is_place = places >= 0
    return torch.where(is_place, places, numbers[:size]), is_place
