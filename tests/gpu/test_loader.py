"""Batches on a GPU: one copy each, one wait for its event, and nothing read or overwritten too
soon."""

import itertools

import numpy as np
import pytest
import torch

from hvd_yolo.data import open_dataset
from hvd_yolo.data.loader import Batches, Loader, evaluation_inputs
from hvd_yolo.errors import InputError
from tests.data.made_inputs import Crowded, Numbers, Tens, objects

pytestmark = pytest.mark.gpu


def copies_to_device():
    """How many there were so far, on a pretend device."""
    from tests.pretend_cuda.extension import extension

    return sum(number for kind, (number, _) in extension().copies().items() if "H2D" in kind)


def values(images):
    """The value of all pixels of images in 0..1, by the device."""
    assert (images == images.flatten()[0]).all()
    return round(images.flatten()[0].item() * 255)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_objects_and_pixels_are_on_the_gpu_as_they_were_written(device, num_workers):
    """Also where there are none, and more than a slot has room for."""
    loader = Loader([Crowded()], num_workers, device=device)
    numbers = []
    for number, batch in enumerate(loader.batches(0, 6)):
        counts = Crowded.COUNTS[number]
        images, targets = batch.to_model(device, torch.float32)
        assert images.device == targets.boxes.device == targets.labels.device == device
        assert targets.counts.tolist() == targets.num_objects == counts
        assert images.shape == (len(counts), 3, 32, 32)
        assert not counts or values(images) == number
        for target, count in zip(targets, counts, strict=True):
            boxes, labels = objects(number, count)
            assert np.array_equal(target["boxes"].cpu(), boxes.astype(np.float32))
            assert np.array_equal(target["labels"].cpu(), labels)
        numbers.append(number)
    assert numbers == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_costs_one_copy_and_one_wait(device, sync_counts, is_pretend, num_workers):
    """From the slot to the model's arguments, whatever number of images and objects it has."""
    loader = Loader([Crowded()], num_workers, device=device)
    batches = loader.batches(0, 4)
    next(batches)
    before = copies_to_device() if is_pretend else 0
    with sync_counts() as counts:
        for batch in batches:
            batch.to_model(device, torch.float32)
    # Batch 1 was copied while batch 0 was used.
    assert not is_pretend or copies_to_device() - before == 2
    assert counts.total() == (3 if is_pretend else 0), counts


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_and_evaluation_share_slots_without_a_race(device, num_workers):
    """While the batch that training has read ahead may still be copied, evaluation begins to fill
    slots; the other way round after an evaluation that ends early."""
    loader = Loader([Numbers(), Tens()], num_workers, prefetch=3, device=device)
    training, evaluation = loader.batches(0), Batches(loader, source=1, number=5)
    weight, number = torch.ones((), device=device), 0
    for turn in range(4):
        for batch in itertools.islice(training, 6):
            images, targets = batch.to_model(device, torch.float32)
            weight = weight * images.mean().exp() * targets.boxes.sum().cos()
            assert values(images) == number
            number += 1
        for i, batch in enumerate(evaluation):
            assert values(batch.to_model(device, torch.float32)[0]) == 10 * i
            if turn == i == 2:
                break
    assert weight.isfinite()


def test_evaluation_reads_the_same_on_a_gpu_again_and_again(device):
    inputs = evaluation_inputs(open_dataset("shapes:20", "val"), 32, 3, 0, 1)
    number = len(inputs.blocks)
    here = Batches(Loader([inputs], 1), 0, number)
    there = Batches(Loader([inputs], 1, device=device), 0, number)
    expected = [batch.to_model(torch.device("cpu"), torch.float32) for batch in here]
    for _ in range(2):
        found = [batch.to_model(device, torch.float32) for batch in there]
        assert len(found) == number > 1
        for (images, targets), (cpu_images, cpu_targets) in zip(found, expected, strict=True):
            assert torch.equal(images.cpu(), cpu_images)
            assert torch.equal(targets.boxes.cpu(), cpu_targets.boxes)
            assert torch.equal(targets.labels.cpu(), cpu_targets.labels)
            assert targets.num_objects == cpu_targets.num_objects


@pytest.fixture
def pretend(is_pretend):
    """The pretend device's extension; a real one does not tell how much is page-locked."""
    if not is_pretend:
        pytest.skip("CUDA does not tell how much is page-locked")
    from tests.pretend_cuda.extension import extension

    yield extension()
    extension().set_pinned_limit(1 << 62)


def test_slots_are_page_locked_once_and_until_the_loader_is_gone(device, pretend):
    before = pretend.pinned_memory()["bytes"]
    loader = Loader([Numbers(), Tens()], 1, prefetch=2, device=device)
    next(loader.batches(0))
    next(loader.batches(1))
    # Two read ahead, and two in use.
    assert loader.pinned_bytes == 4 * max(Numbers.slot_bytes, Tens.slot_bytes)
    assert pretend.pinned_memory()["bytes"] - before == loader.pinned_bytes
    del loader
    assert pretend.pinned_memory()["bytes"] == before


def test_a_system_that_gives_no_page_locked_memory_is_told_with_the_remedy(device, pretend):
    pretend.set_pinned_limit(pretend.pinned_memory()["bytes"] + 100)
    with pytest.raises(
        InputError, match=r"page-locked memory for batches \(ulimit -l .* --workers"
    ):
        Loader([Numbers()], 0, device=device)
    pretend.set_pinned_limit(1 << 62)
    Loader([Numbers()], 0, device=device)
