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

from hvd_yolo import feed
from hvd_yolo.comm.single import SingleComm
from hvd_yolo.config import AugmentConfig, load
from hvd_yolo.data import open_dataset
from hvd_yolo.data.inputs import TrainingInputs
from hvd_yolo.data.loader import Batch, Batches, Loader, evaluation_batches
from hvd_yolo.data.order import Dealing, Order
from hvd_yolo.data.page_lock import workers_within
from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model
from hvd_yolo.pace import make_pace
from hvd_yolo.padding import padded_length
from tests.conftest import REPOSITORY, job_environment
from tests.data.made_inputs import Crowded, Numbers, Tens, objects

MB = 10**6


def test_batches_come_in_order_from_other_processes_that_share_the_arrays():
    batches = list(zip(range(20), Loader([Numbers()], num_workers=3).batches(0), strict=False))
    facts = [batch.unreadable[0].split() for _, batch in batches]
    assert [int(number) for *_, number in facts] == list(range(20))
    pids = {int(pid) for pid, _, _ in facts}
    assert len(pids) == 3
    assert os.getpid() not in pids
    assert {owned for _, owned, _ in facts} == {"False"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_pixels_of_a_batch_hold_until_the_next_but_one_is_asked_for(num_workers):
    loader = Loader([Numbers()], num_workers, prefetch=2).batches(0)
    before = next(loader)
    for number in range(1, 30):
        batch = next(loader)
        # Time for the workers to do harm.
        time.sleep(0.002)
        assert before.images.unique().tolist() == [number - 1]
        assert batch.images.unique().tolist() == [number]
        before = batch


@pytest.mark.parametrize("num_workers", [0, 2])
def test_sources_share_processes_and_slots(num_workers):
    """Training goes on where it was, although an evaluation came in between and used its slots; an
    evaluation that ended early begins again."""
    loader = Loader([Numbers(), Tens()], num_workers, prefetch=3)
    training, evaluation = loader.batches(0), Batches(loader, source=1, number=4)
    for first in range(0, 25, 5):
        facts = []
        for number in range(first, first + 5):
            batch = next(training)
            assert batch.images.unique().tolist() == [number]
            facts += batch.unreadable
        for number, batch in enumerate(evaluation):
            assert batch.images.unique().tolist() == [10 * number]
            facts += batch.unreadable
            if first == 10 and number == 1:
                break
        assert len({fact.split()[0] for fact in facts}) == max(1, num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_objects_come_padded_with_the_pixels(num_workers):
    """Also none, and more than a slot has room for: those come in memory of their own."""
    apart = []
    for number, batch in enumerate(Loader([Crowded()], num_workers).batches(0, 6)):
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
    loaded = next(itertools.islice(Loader([Crowded()], 0).batches(0), number, None)).clone()
    expected = loaded.to_model(torch.device("cpu"), torch.float32)
    assert torch.equal(made[0], expected[0])
    assert torch.equal(made[1].boxes, expected[1].boxes)
    assert torch.equal(made[1].labels, expected[1].labels)
    assert made[1].num_objects == expected[1].num_objects


@pytest.mark.parametrize(
    ("limit", "is_chosen", "num_workers"),
    # 12 workers with 2 batches each need 26 slots of 1 MB.
    [(26 * MB, True, 12), (26 * MB, False, 12), (25 * MB, False, 11), (4 * MB, False, 1)],
)
def test_as_many_workers_are_started_as_page_locked_memory_suffices_for(
    limit, is_chosen, num_workers
):
    assert workers_within(limit, MB, 12, 2, is_chosen) == num_workers


def test_too_little_page_locked_memory_is_refused_with_the_remedy():
    message = (
        "12 loader workers with 2 batches each need 26 MB of page-locked memory, 1 MB a batch, and "
        "this rank may have 25 MB: take fewer --workers, a smaller --loader.prefetch or a smaller "
        "--batch_size, or allow more, --loader.pin_memory_mb 26"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        workers_within(25 * MB, MB, 12, 2, is_chosen=True)
    # Not even one of those that nobody asked for.
    with pytest.raises(InputError, match="1 loader workers with 2 batches each need 4 MB"):
        workers_within(3 * MB, MB, 12, 2, is_chosen=False)


def test_a_worker_that_is_killed_is_told_with_its_code():
    with pytest.raises(RuntimeError, match="loader worker 1 ended with code -9; killed, perhaps"):
        for _ in Loader([Numbers(ends_at=5)], num_workers=2).batches(0):
            pass


def test_a_worker_that_dies_over_batches_that_are_not_wanted_any_more_is_told():
    """Training has asked it for them, and an evaluation comes in between."""
    loader = Loader([Numbers(ends_at=3), Tens()], num_workers=2, prefetch=2)
    next(loader.batches(0))
    with pytest.raises(RuntimeError, match="loader worker 1 ended with code -9"):
        next(loader.batches(1))


def test_training_and_evaluation_of_a_run_are_one_pool_of_processes():
    options = ["--data", "shapes:16", "--imgsz", "32", "--batch_size", "4", "--workers", "2"]
    config, comm = load(options), SingleComm()
    train_set, val_set = open_dataset(config.data, "train"), open_dataset(config.data, "val")
    model = build_model("yolov8n", len(train_set.names), 0.001, 0.7, 300)
    before = set(psutil.Process().children())
    pace = make_pace(config, len(train_set), 1)
    batches, validate = feed.open_loaders(config, comm, train_set, val_set, pace, 32, (0, 0))
    ids = [[item.image_id for item in next(batches).items]]
    evaluated = validate(model)
    ids += [[item.image_id for item in next(batches).items]]
    assert evaluated.metrics["images"] == len(val_set)
    assert validate(model).metrics["AP"] == evaluated.metrics["AP"]
    # As without an evaluation.
    alone = feed.open_training(config, comm, train_set, pace, 32, (0, 0))
    assert ids == [[item.image_id for item in next(alone).items] for _ in range(2)]
    del alone
    assert len(set(psutil.Process().children()) - before) == 2
    del batches, validate
    assert set(psutil.Process().children()) == before


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
from tests.data.made_inputs import Numbers
loader = Loader([Numbers()], num_workers=2).batches(0)
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
from tests.data.made_inputs import Numbers
loader = Loader([Numbers()], num_workers=1).batches(0)
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
    loader = Loader([inputs], num_workers=1).batches(0)
    worker = None
    resident = []
    for number in range(1200):
        next(loader)
        if number % 100 == 99:
            worker = worker or psutil.Process().children()[-1]
            resident.append([p.memory_info().rss for p in (psutil.Process(), worker)])
    growth = np.array(resident[-1]) - np.array(resident[1])
    assert (growth < 1 << 20).all(), growth
