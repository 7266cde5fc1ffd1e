"""Loggers of a job of several ranks that is killed and goes on."""

import json

import numpy as np
import pytest

from tests.cluster.test_resume import OPTIONS, kill_when, start, trained_to
from tests.conftest import needs_mpi, train
from tests.report import stores
from tests.report.test_loggers import needs, same, without_time


@needs_mpi
@needs("tensorboard", "mlflow", "sqlalchemy", "wandb")
@pytest.mark.long
def test_a_job_killed_twice_is_one_run_in_every_store(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run, uri = tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db"
    options = [
        *OPTIONS, "--report.tensorboard", "true", "--report.wandb", "detectors",
        "--report.sqlite", str(tmp_path / "runs.db"), "--report.mlflow", uri,
        "--report.openmetrics", str(tmp_path / "run.prom"),
    ]  # fmt: skip
    # 11: two updates after a checkpoint.
    for step in (5, 11):
        job = start(run, 2, *options)
        kill_when(run, job, trained_to(step), delay=0.05)
    train(2, run, *options)

    expected = stores.truth(run)
    assert [step for kind, step in expected if kind == "train"] == list(range(1, 17))
    same(stores.of_csv(run), expected)
    same(stores.of_sqlite(tmp_path / "runs.db", run), stores.truth(run, with_classes=True))
    untimed = without_time(expected)
    rounded = {k: {n: float(np.float32(v)) for n, v in row.items()} for k, row in untimed.items()}
    same(stores.of_tensorboard(run / "tensorboard"), rounded)
    found, logged = stores.of_mlflow(uri)
    same(found, untimed)
    assert logged.info.status == "FINISHED"
    found, ids = stores.of_wandb(run)
    same(found, untimed)
    assert len(ids) == 1
    gauges = stores.of_openmetrics(tmp_path / "run.prom")
    assert gauges["hvd_yolo_update"] == {f'run="{run}"': 16}
    assert len(gauges["hvd_yolo_rank_memory_bytes"]) == 2
    ranks = [json.loads(line) for line in (run / "ranks.jsonl").read_text().splitlines()]
    assert {line["step"] for line in ranks} <= set(range(1, 17))
    assert ranks[-1]["step"] == 16
    assert [rank["rank"] for rank in ranks[-1]["ranks"]] == [0, 1]
