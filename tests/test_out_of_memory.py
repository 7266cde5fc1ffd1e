"""Errors for want of memory: real ones of each library, and what is said about them."""

import io
import mmap

import numpy as np
import pytest
import torch

from hvd_yolo.out_of_memory import describe, is_out_of_memory, may_be_out_of_memory

MUCH = 1 << 50

WAYS = {
    "torch": lambda: torch.empty(MUCH, dtype=torch.uint8),
    "numpy": lambda: np.empty(MUCH, dtype=np.uint8),
    "python": lambda: bytes(MUCH),
    "system": lambda: mmap.mmap(-1, MUCH),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_library_is_recognized(way):
    with pytest.raises((RuntimeError, MemoryError, OSError)) as caught:
        WAYS[way]()
    assert is_out_of_memory(caught.value)
    told = describe(caught.value, "less")
    assert "are free on this host" in told
    assert told.endswith("Remedy: less")
    if way in ("torch", "numpy"):
        assert f"{MUCH / 1e9:.2f} GB were requested" in told


def test_the_amount_that_a_gpu_was_asked_for_is_told():
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB"
    )
    assert is_out_of_memory(error)
    assert "out of the GPU's memory: 20.97 MB were requested" in describe(error)


# As cuDNN, cuBLAS and NCCL tell it by way of torch: texts from its sources and its issues.
GPU_TEXTS = (
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: out of memory",
    "NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.hpp:181, unhandled cuda error\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
    "Cuda failure 2 'out of memory'",
    "NCCL error: unhandled cuda error. Last error:\nFailed to CUDA calloc 6291456 bytes",
)
AMBIGUOUS_TEXTS = (
    "Unable to find a valid cuDNN algorithm to run convolution",
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
)


@pytest.mark.parametrize("text", GPU_TEXTS)
def test_libraries_of_a_gpu_are_recognized(text):
    error = RuntimeError(text)
    assert is_out_of_memory(error)
    assert describe(error).startswith("out of the GPU's memory: ")


@pytest.mark.parametrize("text", AMBIGUOUS_TEXTS)
def test_texts_with_several_reasons_are_not_certain(text):
    assert may_be_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), FileNotFoundError(2, "none"), RuntimeError("shapes differ")]
)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)
    assert not may_be_out_of_memory(error)


def test_memory_that_runs_out_while_a_state_is_saved_is_recognized():
    class Full(io.BytesIO):
        def write(self, content):
            if len(content) > 1000:
                raise MemoryError
            return super().write(content)

    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.save({"weight": torch.zeros(100_000)}, Full())
    assert is_out_of_memory(caught.value)
