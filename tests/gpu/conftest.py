"""What the tests on a GPU share. On the pretend device: `python -m tests.pretend_cuda.run -m pytest
tests/gpu`; on a machine with a GPU: `python -m pytest tests/gpu`."""

import collections
import contextlib
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch

# The package that a pretend device consists of; its module says whether it was loaded.
PRETEND = "tests.pretend_cuda.device"

Syncs = Callable[[], AbstractContextManager[collections.Counter[str]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a device, real or pretended, the tests marked gpu are skipped."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(
        reason="no GPU: python -m tests.pretend_cuda.run -m pytest tests/gpu pretends one"
    )
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The first GPU."""
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def is_pretend() -> bool:
    """Whether the GPU is pretended."""
    return PRETEND in sys.modules


@pytest.fixture(scope="session")
def python(is_pretend: bool) -> list[str]:
    """The command that starts Python on the device, in the repository's root."""
    return [sys.executable, *(["-m", "tests.pretend_cuda.run"] if is_pretend else [])]


@pytest.fixture
def sync_counts(is_pretend: bool) -> Syncs:
    """A context manager that gives a Counter of host-device synchronizations by place; complete
    at its end. A real device's debug mode does not see waits for events."""
    if is_pretend:
        from tests.pretend_cuda.counts import counted_syncs

        return counted_syncs
    return _warned_syncs


@contextlib.contextmanager
def _warned_syncs() -> Iterator[collections.Counter[str]]:
    counts: collections.Counter[str] = collections.Counter()

    def note(message: Warning | str, *_: object) -> None:
        if "synchronizing CUDA operation" in str(message):
            frames = [f for f in traceback.extract_stack() if "/hvd_yolo/" in f.filename]
            last = frames[-1] if frames else traceback.extract_stack()[-2]
            counts[f"{last.filename}:{last.lineno} {last.name}"] += 1

    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield counts
        finally:
            torch.cuda.set_sync_debug_mode(mode)
