"""The state of a training on a GPU is saved in a few large copies, which nothing waits for but the
thread that writes."""

import pytest
import torch

from hvd_yolo.config import Config
from hvd_yolo.snapshot import Snapshot
from hvd_yolo.state import new_state
from tests.cluster.test_resume import compare

pytestmark = pytest.mark.gpu


def trained_state(device):
    """A state with momentum, channels-last weights, and counters of several dtypes."""
    state = new_state(Config(data="shapes:8"), 6, device)
    state.model.to(memory_format=torch.channels_last)
    for p in state.model.parameters():
        p.grad = torch.rand_like(p)
    state.optimizer.step()
    state.window = torch.rand(7, dtype=torch.float64, device=device)
    state.compression = {"half": torch.rand(5, device=device).to(torch.bfloat16),
                         "gaps": torch.rand(4, 6, device=device)[:, ::2]}  # fmt: skip
    state.loss_weights = state.window[:1]
    return state


def one_by_one(value):
    """The same containers with a blocking copy of each tensor."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: one_by_one(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(one_by_one(item) for item in value)
    return value


def strides(value):
    """Of all tensors, in their order."""
    if isinstance(value, torch.Tensor):
        return [value.stride()]
    items = value.values() if isinstance(value, dict) else value
    return [s for item in items for s in strides(item)] if isinstance(value, dict | list) else []


@pytest.mark.parametrize("chunk_bytes", [1 << 28, 1 << 20])
def test_a_snapshot_is_what_was_there_bit_for_bit(device, sync_counts, chunk_bytes):
    state = trained_state(device)
    training = state.state_dict()
    with sync_counts() as before:
        expected = one_by_one(training)
    assert sum(before.values()) > 300
    with sync_counts() as syncs:
        snapshot = Snapshot(training, chunk_bytes)
        # Training goes on.
        for p in state.model.parameters():
            p.data.add_(1)
    assert sum(syncs.values()) == 0, syncs
    assert snapshot.page_locked_bytes > 1_000_000
    with sync_counts() as syncs:
        found = snapshot.result()
    assert sum(syncs.values()) <= 1, syncs
    assert snapshot.page_locked_bytes == 0
    compare(found, expected)
    assert strides(found) == strides(expected)
    assert any(len(stride) == 4 and stride[1] == 1 and stride[3] > 1 for stride in strides(found))


def test_without_room_on_the_gpu_tensors_are_copied_one_by_one(device, monkeypatch):
    state = trained_state(device)
    training = state.state_dict()
    expected = one_by_one(training)
    # As after an OutOfMemoryError; to fill a real GPU would disturb others.
    monkeypatch.setattr("hvd_yolo.snapshot._room", lambda *_: None)
    snapshot = Snapshot(training)
    for p in state.model.parameters():
        p.data.add_(1)
    compare(snapshot.result(), expected)
