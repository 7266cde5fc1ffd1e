"""Out of memory: how it is recognized, and what is said about it."""

import errno
import re
import resource
from collections.abc import Iterator

import torch

from hvd_yolo.memory import free_on_host, virtual_size

# What a verb that has no batches of its own can be told.
_REMEDY = "end other programs that use the memory, or give the job a machine, or a limit, with more"

# torch has a class of error for CUDA's allocator alone; its own on the CPU, the C++ library, cuDNN
# (CUDNN_STATUS_ALLOC_FAILED, since version 9 CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
# and ..._HOST_ALLOCATION_FAILED), cuBLAS, NCCL ("Cuda failure 2 'out of memory'", "Failed to CUDA
# calloc 6291456 bytes"), oneDNN, which tells no reason, and OpenCV are known by their words.
_WORDS = re.compile(
    r"out of memory|allocate memory|Unable to allocate|bad_alloc|ALLOC(ATION)?_FAILED"
    r"|could not create a (primitive|memory)|Insufficient memory|cudaErrorMemoryAllocation"
    r"|Failed to CUDA (host )?[cm]alloc"
)
# torch tries the algorithms of cuDNN one after the other and tells of none why it failed; a handle
# that cannot be made lacks memory, or the libraries do not match.
_AMBIGUOUS = re.compile(
    r"Unable to find a valid cuDNN algorithm|unable to find an engine to execute this computation"
    r"|No valid execution plans built|(CUDNN|CUBLAS)_STATUS_NOT_INITIALIZED"
)
_GPU_WORDS = re.compile(r"CUDA|cuDNN|CUDNN|CUBLAS|NCCL")
# "Tried to allocate 20.00 MiB" (CUDA), "you tried to allocate 64 bytes" (torch on the CPU), "Unable
# to allocate 1.2 GiB for an array" (NumPy), "Failed to allocate 64 bytes" (OpenCV).
_REQUEST = re.compile(r"(?:[Tt]ried|Unable|Failed) to allocate ([\d.]+) ?([KMGTP]i?B|bytes)")
_UNITS = {"b": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, NumPy, OpenCV, Python or the system says that memory ran out, on
    the CPU or a GPU."""
    # torch.save closes its file after a write that failed, and the error of that hides the first.
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if isinstance(error, RuntimeError) and isinstance(before, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return _WORDS.search(str(error)) is not None


def may_be_out_of_memory(error: BaseException) -> bool:
    """Whether an error of cuDNN or cuBLAS, which name no reason, is what they report for a lack of
    memory among other things."""
    return isinstance(error, RuntimeError) and _AMBIGUOUS.search(str(error)) is not None


def describe(error: BaseException, remedy: str = "") -> str:
    """One sentence: what was asked for, what is free, and what to do."""
    on_gpu = isinstance(error, torch.OutOfMemoryError) or bool(_GPU_WORDS.search(str(error)))
    where = "of the GPU's memory" if on_gpu else "of memory"
    asked = _request(str(error))
    requested = f"{_shown(asked)} were requested" if asked else _first_line(error)
    free = "; ".join(_free(on_gpu))
    return f"out {where}: {requested}; {free}. Remedy: {remedy or _REMEDY}"


def _request(text: str) -> int:
    """Bytes, 0 where the text names none."""
    match = _REQUEST.search(text)
    return round(float(match[1]) * 1024 ** _UNITS[match[2][0]]) if match else 0


def _free(on_gpu: bool) -> Iterator[str]:
    if on_gpu and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        own = torch.cuda.memory_reserved()
        yield f"{_shown(free)} of {_shown(total)} are free, this process holds {_shown(own)}"
        return
    yield f"{_shown(free_on_host())} are free on this host"
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        left = max(0, limit - virtual_size())
        yield f"{_shown(left)} are left of this process's own limit (ulimit -v) of {_shown(limit)}"


def _shown(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + lines[0] if lines else ''}"
