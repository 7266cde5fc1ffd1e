"""Detectors of other makers: their norms, their copies and their limits."""

import numpy as np
import pytest
import torch
from torch import nn

from hvd_yolo.comm.batch_norm import check_convertible, other_buffers
from hvd_yolo.comm.single import SingleComm
from hvd_yolo.config import Config, EvalConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.data.loader import evaluation_batches
from hvd_yolo.ema import Ema
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate import evaluate
from hvd_yolo.models import build_model
from hvd_yolo.models.trial import try_detector
from hvd_yolo.state import new_state
from tests.conftest import run_job
from tests.models.own_norm_detector import (
    BatchNormDetector,
    OwnNorm,
    OwnNormDetector,
)

HERE = "tests.models.own_norm_detector"
OPTIONS = ("--data", "shapes:6", "--imgsz", "64", "--batch_size", "2", "--max_updates", "3",
           "--workers", "0", "--device", "cpu", "--eval.loss", "true")  # fmt: skip


def run(tmp_path, model, *options, num_ranks=1):
    arguments = ["-m", "hvd_yolo.train", "--model", f"{HERE}:{model}", *OPTIONS]
    done = run_job(num_ranks, [*arguments, "--output", str(tmp_path), *options], "gloo")
    assert "Traceback" not in done.stderr
    return done


def test_validation_teaches_a_norm_nothing():
    dataset = open_dataset("shapes:6", "val")
    model = OwnNormDetector(len(dataset.names)).eval()
    before = {name: (value, value.clone()) for name, value in model.named_buffers()}
    batches = evaluation_batches(dataset, 64, 4, 0, 1, 0)
    found = evaluate(model, dataset, batches, SingleComm(), EvalConfig(loss=True))
    assert np.isfinite(found.metrics["val_loss"])
    for name, value in model.named_buffers():
        assert value is before[name][0], name
        assert torch.equal(value, before[name][1]), name


def test_what_training_changes_is_found():
    learned = try_detector(OwnNormDetector(3), "mine", 3, 64)
    assert learned.buffers == ["body.1.running_mean", "body.1.moving_var"]
    assert learned.statistics == learned.buffers
    assert learned.unsaved == []
    model = OwnNormDetector(3)
    norm = model.body[1]
    for name in ("running_mean", "moving_var"):
        value = norm._buffers.pop(name)
        setattr(norm, name, value)
    assert try_detector(model, "mine", 3, 64).unsaved == [
        "body.1.running_mean",
        "body.1.moving_var",
    ]
    assert try_detector(BatchNormDetector(3), "mine", 3, 64) == ([], [], [])


def test_the_moving_average_follows_statistics_and_keeps_infinities():
    model = nn.Sequential(OwnNorm(2), nn.Linear(1, 1))
    ema = Ema(model, 0.5, 1e-9)
    model[0].running_mean.fill_(4.0)
    model[0].moving_var = model[0].moving_var * 3
    ema.update(model, 1)
    assert ema.module[0].running_mean.tolist() == [2.0, 2.0]
    assert ema.module[0].moving_var.tolist() == [2.0, 2.0]
    assert ema.module[0].mask.tolist() == [0.0, -torch.inf]
    assert set(other_buffers(model)) == {"0.running_mean", "0.moving_var", "0.mask"}


class OwnBatchNorm(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.BatchNorm1d(3), "layer 0 is a BatchNorm1d"),
        (nn.BatchNorm3d(3), "layer 0 is a BatchNorm3d"),
        (OwnBatchNorm(3), "layer 0 is a OwnBatchNorm"),
        (nn.InstanceNorm2d(3, track_running_stats=True), "layer 0 is a InstanceNorm2d"),
        (nn.BatchNorm2d(3, affine=False), "without weights, statistics or momentum"),
        (nn.GroupNorm(1, 3), "has no BatchNorm2d, so there is nothing to synchronize"),
    ],
)
def test_norms_that_cannot_be_synchronized_are_refused(layer, told):
    with pytest.raises(InputError, match=f"train.sync_bn: .*{told}"):
        check_convertible(nn.Sequential(layer))
    check_convertible(nn.Sequential(nn.BatchNorm2d(3), nn.InstanceNorm2d(3)))


def test_a_run_says_what_it_does_with_foreign_norms(tmp_path):
    refused = run(tmp_path / "a", "with_own_norm", "--train.sync_bn", "true")
    assert refused.returncode == 2
    assert "train.sync_bn: body.1.running_mean, body.1.moving_var of model" in refused.stderr
    none = run(tmp_path / "b", "with_limits", "--train.sync_bn", "true")
    assert none.returncode == 2
    assert "has no BatchNorm2d, so there is nothing to synchronize" in none.stderr
    done = run(tmp_path / "c", "with_own_norm", num_ranks=2)
    assert done.returncode == 0, done.stderr
    assert "2 buffers that training changes (body.1.running_mean, ...) are averaged" in done.stdout


def test_a_model_that_cannot_be_copied_is_named(tmp_path):
    done = run(tmp_path, "with_lock")
    assert done.returncode == 2
    assert f"model {HERE}:with_lock: copy.deepcopy" in done.stderr
    assert "cannot pickle '_thread.lock' object" in done.stderr
    with pytest.raises(InputError, match="with_lock"):
        new_state(Config(model=f"{HERE}:with_lock"), 3, torch.device("cpu"))


def test_a_batch_of_one_that_cannot_be_normalized_is_refused(tmp_path):
    done = run(tmp_path / "a", "with_batch_norm", "--batch_size", "1")
    assert done.returncode == 2
    assert "fails in training mode on a single image of 64 pixels" in done.stderr
    assert "imgsz" in done.stderr
    assert "batch_size" in done.stderr
    done = run(tmp_path / "b", "with_batch_norm", "--batch_size", "1", "--train.freeze_bn", "true")
    assert done.returncode == 0, done.stderr


def test_limits_are_given_to_those_that_name_them():
    limits = {"conf": 0.2, "iou": 0.6, "max_detections": 7}
    assert build_model(f"{HERE}:with_limits", 3, **limits).limits == (0.2, 7)
    assert build_model(f"{HERE}:with_keywords", 3, **limits).limits == {}
    assert build_model("tests.models.plain_detector:build", 3, **limits)
