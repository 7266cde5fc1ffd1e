"""Errors for want of memory: real ones of each library, and what is said about them."""

import io
import mmap

import numpy as np
import pytest
import torch

from hvd_yolo.out_of_memory import describe, is_out_of_memory

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


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), FileNotFoundError(2, "none"), RuntimeError("shapes differ")]
)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)


def test_memory_that_runs_out_while_a_state_is_saved_is_recognized():
    class Full(io.BytesIO):
        def write(self, content):
            if len(content) > 1000:
                raise MemoryError
            return super().write(content)

    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.save({"weight": torch.zeros(100_000)}, Full())
    assert is_out_of_memory(caught.value)
