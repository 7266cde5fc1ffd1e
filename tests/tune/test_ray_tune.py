"""The adapter to Ray Tune."""

import importlib.util
import json

import pytest

from hvd_yolo.errors import InputError
from hvd_yolo.tune.ray_tune import train, trainable

FIXED = [
    "--data", "shapes:8", "--imgsz", "64", "--batch_size", "4", "--epochs", "2", "--device", "cpu",
    "--workers", "0",
]  # fmt: skip


def test_each_evaluation_of_a_trial_is_reported_once(tmp_path):
    told = []
    train(tmp_path / "run", FIXED, {"optim.lr": 0.002}, told.append)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    values = [(line["epoch"], line["AP"]) for line in lines if line["kind"] == "eval"]
    assert [(numbers["epoch"], numbers["AP"]) for numbers in told] == values
    with pytest.raises(RuntimeError, match="imgsz is 50"):
        train(tmp_path / "other", FIXED, {"imgsz": 50}, told.append)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_a_missing_ray_is_named():
    with pytest.raises(InputError, match="pip install 'ray"):
        trainable([])


def test_ray_searches_with_it(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[tune]'")
    from ray import tune

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1")
    try:
        tuner = tune.Tuner(
            tune.with_resources(trainable(FIXED), {"cpu": 1}),
            param_space={"optim.lr": tune.grid_search([0.001, 0.002]), "imgsz": 64},
            tune_config=tune.TuneConfig(metric="AP", mode="max"),
            run_config=tune.RunConfig(name="search", storage_path=str(tmp_path)),
        )
        results = tuner.fit()
    finally:
        ray.shutdown()
    assert not results.errors
    assert sorted(result.config["optim.lr"] for result in results) == [0.001, 0.002]
    for result in results:
        # The whole run is where Ray keeps the trial.
        run = next((tmp_path / "search").glob(f"*{result.metrics['trial_id']}*/run"), None)
        assert run is not None, result.path
        lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        assert result.metrics["AP"] == lines[-1]["AP"]
        assert len(result.metrics_dataframe) == 2
