"""Checkpoints while the disk has no room, and divisors between updates."""

import numpy as np
import pytest
import torch

from hvd_yolo import checkpoint
from hvd_yolo.comm.single import SingleComm
from hvd_yolo.config import Config, ReportConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate import Table
from hvd_yolo.report import Report
from hvd_yolo.saving import Checkpoints
from hvd_yolo.state import new_state
from hvd_yolo.stopping import StopRequest
from hvd_yolo.tally import next_weights

CPU = torch.device("cpu")
EMPTY = Table(np.zeros(0, dtype=np.int64), np.zeros((0, 8)), np.zeros((0, 7)))


@pytest.fixture
def run(tmp_path):
    """The checkpoints of a run that goes on without those it cannot write, and its state."""
    config = Config(data="shapes:8")
    config.checkpoint.on_failure = "go_on"
    state = new_state(config, 6, CPU)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    dataset = open_dataset("shapes:8", "train")
    with Report(tmp_path, True, False, 0, 9, "", ReportConfig(plots=False), {}) as report:
        yield (
            Checkpoints(folder, config, dataset, SingleComm(), report, StopRequest(), state),
            state,
        )


def test_a_best_that_could_not_be_written_is_written_with_the_next(run, tmp_path):
    checkpoints, state = run
    folder = tmp_path / "checkpoints"
    # What stands in the way of a file as a full disk does.
    (folder / "best.pt" / "x").mkdir(parents=True)
    checkpoints.save(state, EMPTY)
    # The run goes on, but for its end.
    checkpoints.settle()
    with pytest.raises(InputError, match=r"best\.pt"):
        checkpoints.settle(is_last=True)
    # It would say that there is a best.pt.
    assert not (folder / "last.pt").exists()
    (folder / "best.pt" / "x").rmdir()
    (folder / "best.pt").rmdir()
    state.updates = 5
    checkpoints.save(state)
    checkpoints.settle(is_last=True)
    found = {name: checkpoint.load(folder / name)["training"] for name in ("best.pt", "last.pt")}
    assert [found[name]["updates"] for name in ("best.pt", "last.pt")] == [0, 5]


def test_divisors_are_of_a_whole_update_and_an_empty_one_keeps_those_of_before():
    state = new_state(Config(data="shapes:8"), 6, CPU)
    state.term_names, state.loss_weights = ["cls"], torch.tensor([300.0, 40.0])
    sums = torch.zeros(14, dtype=torch.float64)
    sums[[0, -1]] = torch.tensor([12.0, 0.5], dtype=torch.float64)
    # One image of four: the next update is a whole one.
    assert next_weights(state, sums, 0.25).tolist() == [48.0, 40.0]
    sums[0] = float("nan")
    assert next_weights(state, sums, 1.0).tolist() == [300.0, 40.0]


def test_a_state_without_float16_goes_on_with_it():
    whole, half = Config(data="shapes:8"), Config(data="shapes:8")
    half.train.amp = "fp16"
    kept = new_state(whole, 6, CPU).state_dict()
    state = new_state(half, 6, CPU)
    scale = state.scaler.get_scale()
    state.load_state_dict({**kept, "updates": 3})
    assert state.updates == 3
    assert state.scaler.get_scale() == scale
