"""What the adapter to Ray Tune does beside speaking to Ray."""

import importlib.util
import json

import pytest

from hvd_yolo.errors import InputError
from hvd_yolo.tune.ray_tune import train, trainable


def test_each_evaluation_of_a_trial_is_reported_once(tmp_path):
    told = []
    fixed = ["--data", "shapes:8", "--imgsz", "64", "--batch_size", "4", "--epochs", "2"]
    fixed += ["--device", "cpu", "--workers", "0"]
    train(tmp_path / "run", fixed, {"optim.lr": 0.002}, told.append)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    values = [(line["epoch"], line["AP"]) for line in lines if line["kind"] == "eval"]
    assert [(numbers["epoch"], numbers["AP"]) for numbers in told] == values
    with pytest.raises(RuntimeError, match="imgsz is 50"):
        train(tmp_path / "other", fixed, {"imgsz": 50}, told.append)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_a_missing_ray_is_named():
    with pytest.raises(InputError, match="pip install 'ray"):
        trainable([])
