"""Loader processes: what they share, what they leave behind, and what is said when one dies."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from hvd_yolo.config import AugmentConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.data.batch_layout import BatchLayout, slot_bytes, write_targets
from hvd_yolo.data.inputs import Filled, Item, TrainingInputs
from hvd_yolo.data.loader import Batch, Loader, evaluation_batches
from hvd_yolo.data.order import Dealing, Order
from hvd_yolo.padding import padded_length
from tests.conftest import REPOSITORY, job_environment


class Numbers:
    """Batch i is one input of 2 x 2 pixels of value i; tells which process filled it, and whether
    its table was copied."""

    layout = BatchLayout(num_images=1, height=2, width=2, max_objects=8)
    slot_bytes = layout.num_bytes

    def __init__(self, ends_at=1000):
        self.table = np.arange(1_000_000)
        # As the boxes of a data set without an object.
        self.nothing = np.zeros((0, 4))
        self.ends_at = ends_at

    def fill(self, number, out):
        if number == self.ends_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.layout.images(out)[:] = number
        targets = write_targets(out, self.layout, [np.full((1, 4), number)], [np.array([number])])
        facts = f"{os.getpid()} {self.table.flags.owndata} {self.table[number]}"
        return Filled([Item(number, 1)], [facts], 2, 2, targets=targets)


def test_batches_come_in_order_from_other_processes_that_share_the_arrays():
    batches = list(zip(range(20), Loader(Numbers(), num_workers=3), strict=False))
    facts = [batch.unreadable[0].split() for _, batch in batches]
    assert [int(number) for *_, number in facts] == list(range(20))
    pids = {int(pid) for pid, _, _ in facts}
    assert len(pids) == 3
    assert os.getpid() not in pids
    assert {owned for _, owned, _ in facts} == {"False"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_pixels_of_a_batch_hold_until_the_next_but_one_is_asked_for(num_workers):
    loader = iter(Loader(Numbers(), num_workers, prefetch=2))
    before = next(loader)
    for number in range(1, 30):
        batch = next(loader)
        # Time for the workers to do harm.
        time.sleep(0.002)
        assert before.images.unique().tolist() == [number - 1]
        assert batch.images.unique().tolist() == [number]
        before = batch


class Crowded:
    """Batch i has i inputs of 32 x 32 pixels, input j with COUNTS[i][j] objects."""

    COUNTS = ([], [0], [3, 0], [1, 9, 2], [1200, 20, 0, 7], [2, 5, 8, 8, 1])
    slot_bytes = slot_bytes(5, 32)

    def fill(self, number, out):
        counts = self.COUNTS[number]
        filled = Filled([Item(i, count) for i, count in enumerate(counts)], [], 32, 32)
        filled.layout.images(out)[:] = number
        found = [objects(number, count) for count in counts]
        boxes, labels = [boxes for boxes, _ in found], [labels for _, labels in found]
        filled.targets = write_targets(out, filled.layout, boxes, labels)
        return filled


def objects(number, count):
    """Boxes (count, 4) and labels (count) of a batch."""
    rng = np.random.default_rng(number * 1000 + count)
    return rng.uniform(0, 32, (count, 4)), rng.integers(0, 80, count)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_objects_come_padded_with_the_pixels(num_workers):
    """Also none, and more than a slot has room for: those come in memory of their own."""
    apart = []
    for number, batch in enumerate(Loader(Crowded(), num_workers, number=6)):
        counts = Crowded.COUNTS[number]
        images, targets = batch.to_model(torch.device("cpu"), torch.float64)
        assert images.shape == (len(counts), 3, 32, 32)
        assert (images == number / 255).all()
        assert targets.num_objects == targets.counts.tolist() == counts
        assert targets.labels.shape == (len(counts), padded_length(counts))
        assert targets.is_real().sum(1).tolist() == counts
        assert not targets.boxes[~targets.is_real()].any()
        assert not targets.labels[~targets.is_real()].any()
        for target, count in zip(targets, counts, strict=True):
            boxes, labels = objects(number, count)
            assert np.array_equal(target["boxes"], boxes)
            assert np.array_equal(target["labels"], labels)
        apart.append(batch.targets is not None)
    assert apart == [False, False, False, False, True, False]


def test_a_batch_of_given_images_and_objects_is_that_of_the_loader():
    number = 3
    found = [objects(number, count) for count in Crowded.COUNTS[number]]
    targets = [{"boxes": torch.tensor(b), "labels": torch.tensor(n)} for b, n in found]
    images = torch.full((3, 32, 32, 3), number, dtype=torch.uint8)
    made = Batch.of(images, targets).to_model(torch.device("cpu"), torch.float32)
    loaded = next(itertools.islice(Loader(Crowded(), 0), number, None)).clone()
    expected = loaded.to_model(torch.device("cpu"), torch.float32)
    assert torch.equal(made[0], expected[0])
    assert torch.equal(made[1].boxes, expected[1].boxes)
    assert torch.equal(made[1].labels, expected[1].labels)
    assert made[1].num_objects == expected[1].num_objects


def test_a_worker_that_is_killed_is_told_with_its_code():
    with pytest.raises(RuntimeError, match="loader worker 1 ended with code -9; killed, perhaps"):
        for _ in Loader(Numbers(ends_at=5), num_workers=2):
            pass


def test_evaluation_batches_can_be_gone_through_again_after_an_early_stop():
    batches = evaluation_batches(open_dataset("shapes:40", "train"), 32, 4, 0, 1, 2)
    whole = [batch.images.clone() for batch in batches]
    assert len(whole) == 10
    for batch in batches:
        assert np.array_equal(batch.images, whole[0])
        break
    again = [batch.images.clone() for batch in batches]
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))


PARENT = """
import os, signal
from hvd_yolo.data.loader import Loader
from tests.data.test_loader import Numbers
loader = iter(Loader(Numbers(), num_workers=2))
for _ in range(4):
    print(next(loader).unreadable[0].split()[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_worker_outlives_a_killed_parent():
    done = subprocess.run(
        [sys.executable, "-c", PARENT], cwd=REPOSITORY, env=job_environment(),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    pids = {int(pid) for pid in re.findall(r"^\d+$", done.stdout, re.MULTILINE)}
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in pids)


UNFINISHED = """
from hvd_yolo.data.loader import Loader
from tests.data.test_loader import Numbers
loader = iter(Loader(Numbers(), num_workers=1))
next(loader)
"""


def test_a_program_that_ends_in_the_middle_ends_silently():
    done = subprocess.run(
        [sys.executable, "-c", UNFINISHED], cwd=REPOSITORY, env=job_environment(),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_memory_does_not_grow_over_1000_batches():
    dataset = open_dataset("shapes:12", "train")
    order, dealing = Order(0, 12, 64), Dealing(12, 4, 4, 1)
    inputs = TrainingInputs(dataset, AugmentConfig(), order, dealing, (0, 0), 0, 10**6)
    loader = iter(Loader(inputs, num_workers=1))
    worker = None
    resident = []
    for number in range(1200):
        next(loader)
        if number % 100 == 99:
            worker = worker or psutil.Process().children()[-1]
            resident.append([p.memory_info().rss for p in (psutil.Process(), worker)])
    growth = np.array(resident[-1]) - np.array(resident[1])
    assert (growth < 1 << 20).all(), growth
