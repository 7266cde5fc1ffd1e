import copy
import json
import re

import numpy as np
import pytest
import torch
import yaml

from hvd_yolo import autobatch, config
from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.data.dataset import Annotations
from hvd_yolo.state import new_state
from tests.conftest import needs_mpi, run_job, train

PROGRAM = ("-m", "tests.cluster.programs.find_batch")


def find(*megabytes):
    """What every rank found, told that it has so many megabytes."""
    done = run_job(len(megabytes), [*PROGRAM, *map(str, megabytes)])
    assert done.returncode == 0, done.stdout + done.stderr
    # mpirun may put the lines of two ranks into one.
    return [json.loads(text) for text in re.findall(r"FOUND (\{.*?\})", done.stdout)]


def test_the_batch_found_fills_the_memory_it_may_take():
    counts = []
    for megabytes in (300, 600):
        [found] = find(megabytes)
        counts.append(found["images"])
        # Four fifths are aimed at; the batch is then run beside what finding it has left behind.
        assert 0.6e6 * megabytes < found["peak"] < 1e6 * megabytes
    assert counts[1] >= 2 * counts[0]


@needs_mpi
def test_ranks_agree_on_the_smallest():
    alone, (first, second) = find(300), find(700, 300)
    assert first["images"] == second["images"] == alone[0]["images"]


@needs_mpi
def test_a_rank_without_memory_ends_the_job_with_one_message():
    done = run_job(2, [*PROGRAM, "700", "1"], timeout=120)
    assert done.returncode == 2
    assert (done.stdout + done.stderr).count("not one image of 128 pixels fits") == 1
    assert "that rank 1 has free" in done.stderr
    assert "Traceback" not in done.stderr


def test_memory_that_the_kernel_refuses_bounds_the_batch():
    [found] = find("ADDRESS_SPACE")
    assert 1 <= found["images"] <= 16


def test_it_leaves_no_trace():
    options = config.load(["--data", "shapes:80", "--imgsz", "64"])
    options.train.amp = "none"
    comm = connect(CommConfig("single"), "cpu")
    model = new_state(options, 6, comm.device).model
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    for key in ("sync_bn", "freeze_bn"):
        setattr(options.train, key, True)
        assert autobatch.find_batch_size(model, options, comm, open_dataset("shapes:80", "train"))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert {type(module).__name__ for module in model.modules()}.isdisjoint({"SyncBatchNorm2d"})
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert value.stride() == before[name].stride(), name
    first, *others = (p.grad for p in model.parameters())
    assert torch.equal(first, torch.ones_like(first))
    assert all(grad is None for grad in others)


def test_the_line_through_small_batches_tells_the_large_one():
    sizes, peaks = [1, 2, 4, 8], [110, 120, 140, 180]
    assert autobatch.images_within(1000, sizes, peaks) == 88
    assert autobatch.images_within(178, sizes, peaks) == 7
    assert autobatch.images_within(110, sizes, peaks) == 1
    assert autobatch.images_within(109, sizes, peaks) == 0
    assert autobatch.images_within(1000, [1], [900]) == 1
    # Noise larger than what tiny pictures take.
    assert autobatch.images_within(1000, [1, 2, 4], [100, 90, 80]) == 48
    # Pages that the process kept from before are enough: another limit holds.
    assert autobatch.images_within(1000, [1, 2, 4], [0, 0, 0]) == 1000
    assert autobatch.images_within(1000, [], []) == 0


def test_a_global_batch_or_a_small_data_set_is_the_most():
    def most(*argv, size=2):
        return autobatch._most_images(config.load(["--batch_size", "-1", *argv]), size, 400)

    assert most("--global_batch", "13") == 7
    assert most() == 16
    assert most("--train.accumulate", "4") == 5
    assert most(size=50) == 1


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def fail(_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        autobatch.largest_batch(fail, lambda work: work() or 0, 10**9, 8)


def test_cudnn_without_a_reason_bounds_the_batch_only_after_a_smaller_one():
    def fail_from(size):
        def work(count):
            if count >= size:
                raise RuntimeError("GET was unable to find an engine to execute this computation")

        return work

    def peak(work):
        work()
        return 1000

    assert autobatch.largest_batch(fail_from(8), peak, 10**9, 64) == 4
    with pytest.raises(RuntimeError, match="find an engine"):
        autobatch.largest_batch(fail_from(1), peak, 10**9, 64)


def test_the_densest_images_are_tried_wherever_they_are():
    class OneCrowd:
        def __len__(self):
            return 1000

        def annotations(self, index, *_):
            count = 300 if index == 777 else 2
            return Annotations(np.zeros((count, 4)), np.zeros(count), np.zeros(count), None)

    alone = autobatch._densest_images(OneCrowd(), is_mosaic=False)
    assert alone == [300, *[2] * 15]
    # Three tiles beside each, with the mean of 2.298 objects.
    assert autobatch._densest_images(OneCrowd(), is_mosaic=True) == [307, *[9] * 15]


def test_a_run_stores_what_it_found_and_goes_on_with_it(tmp_path):
    command = (
        "--data", "shapes:160", "--imgsz", "64", "--batch_size", "-1", "--train.amp", "auto",
        "--epochs", "1", "--eval.every", "0", "--report.every", "1",
    )  # fmt: skip
    train(1, tmp_path, *command)
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert stored["batch_size"] == 16
    assert stored["train"]["amp"] in ("none", "bf16")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["images"] == 16
    train(1, tmp_path, *command)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == stored
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines
