"""Page-locked memory for batches: how much of it there may be, and how it is had.

Copies to a GPU run beside its computation only from memory that cannot be swapped, and what is
locked is lost to everything else on the host.
"""

import resource
import weakref

import numpy as np
import torch

from hvd_yolo.errors import InputError

_REMEDY = "take fewer --workers, a smaller --loader.prefetch or a smaller --batch_size"

# cudaErrorMemoryAllocation
_CUDA_MEMORY_ALLOCATION = 2

# Slots beside those of batches under way: the batch that is used, and the one before, which may
# still be on its way to the GPU.
_SLOTS_IN_USE = 2


def num_slots(num_workers: int, prefetch: int) -> int:
    """Slots for workers that read `prefetch` batches ahead each."""
    return num_workers * prefetch + _SLOTS_IN_USE


def workers_within(
    limit: int, num_bytes: int, num_workers: int, prefetch: int, is_chosen: bool
) -> int:
    """The number of loader workers whose slots of `num_bytes` fit into `limit` bytes: num_workers,
    or fewer unless the user has chosen this number. Raises InputError where they do not fit."""
    free_slots = limit // max(1, num_bytes) - _SLOTS_IN_USE
    # One that does not fit is refused below; none would load every image in the training process.
    affordable = min(num_workers, max(1, free_slots // prefetch))
    if not is_chosen:
        num_workers = affordable
    needed = num_slots(num_workers, prefetch) * num_bytes
    if needed > limit:
        raise InputError(
            f"{num_workers} loader workers with {prefetch} batches each need {_shown(needed)} of "
            f"page-locked memory, {_shown(num_bytes)} a batch, and this rank may have "
            f"{_shown(limit)}: {_REMEDY}, or allow more, --loader.pin_memory_mb "
            f"{-(-needed // 10**6)}"
        )
    return num_workers


def page_lock(memory: np.ndarray, owner: object) -> None:
    """Lock the memory until `owner` is gone. Raises InputError where the system does not give
    it."""
    if memory.nbytes == 0:
        return
    address = memory.ctypes.data
    status = int(torch.cuda.cudart().cudaHostRegister(address, memory.nbytes, 0))
    if status == _CUDA_MEMORY_ALLOCATION:
        raise InputError(
            f"the system gives no {_shown(memory.nbytes)} of page-locked memory for batches "
            f"(ulimit -l is {_ulimit()}): {_REMEDY}, or raise the limit, in a container with "
            "--ulimit memlock=-1"
        )
    torch.cuda.check_error(status)
    weakref.finalize(owner, torch.cuda.cudart().cudaHostUnregister, address)


def _ulimit() -> str:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit // 1024} KiB"


def _shown(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.4g} MB"
