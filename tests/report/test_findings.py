"""What is said of runs whose numbers are made up, so that the words can be told beforehand."""

from pathlib import Path

import numpy as np
import pytest

from hvd_yolo.config import Config
from hvd_yolo.report.findings import ap_trend, loss_gap, waits
from hvd_yolo.report.plots.progress import rank_shares
from hvd_yolo.report.runs import Run, grown


def made_run(train, val, ap=None):
    """A run whose losses at the end of epochs 1, 2, ... are these."""
    ap = ap or np.linspace(0.1, 0.5, len(val)).tolist()
    lines = [
        {"epoch": e, "losses": {"box": v / 2, "cls": v / 2, "teacher": 9.0}, "seconds": 10.0 * e,
         "data_wait": 0.1, "comm_wait": 0.2, "sent_bytes": 1e6}
        for e, v in enumerate(train, 1)
    ]  # fmt: skip
    evals = [
        {"epoch": e, "AP": a, "val_losses": {"box": v / 2, "cls": v / 2}}
        for e, (v, a) in enumerate(zip(val, ap, strict=True), 1)
    ]
    return Run(Path("run"), "run", Config(), lines, evals, [], [], [], None, ())


def test_overfitting_is_called_by_its_name():
    run = made_run([4.0, 3.0, 2.5, 2.0], [3.5, 2.0, 2.1, 2.24])
    assert loss_gap(run) == (
        "Validation loss is 12% above training at the end and has risen by 12% since epoch 2: "
        "overfitting."
    )


def test_losses_that_fall_or_rise_together_are_no_overfitting():
    assert "12% above training at the end and has not risen" in loss_gap(
        made_run([4.0, 3.0, 2.0], [4.0, 3.0, 2.24])
    )
    assert "not overfitting" in loss_gap(made_run([4.0, 2.0, 3.0], [4.0, 2.0, 3.0]))
    assert "no trend can be told" in loss_gap(made_run([2.0], [2.0]))


def test_losses_that_are_no_numbers_are_said_to_be_none():
    run = made_run([1.0, 1.0], [1.0, 1.0])
    for line in run.evals:
        line["val_losses"] = {"box": "nan", "cls": 1.0}
    assert loss_gap(run) == "The validation loss is not a number."
    assert "no validation loss" in loss_gap(made_run([1.0], []))


def test_when_ap_was_best():
    assert ap_trend(made_run([1.0] * 3, [1.0] * 3, [0.1, 0.3, 0.2])) == (
        "Best AP 0.3000 at epoch 2; AP of the last evaluation, at epoch 3, is 0.1000 below it."
    )


def test_the_best_is_best_by_the_metric_of_the_run():
    run = made_run([1.0] * 3, [1.0] * 3, [0.1, 0.3, 0.2])
    run.config.eval.metric = "val_loss"
    for line, value in zip(run.evals, (0.5, 0.7, "nan"), strict=True):
        line["val_loss"] = value
    assert run.best() is run.evals[0]
    assert ap_trend(run).startswith("AP 0.1000 at epoch 1, where val_loss is best with 0.5000; ")


def test_waits_are_shares_of_the_time():
    assert waits(made_run([1.0] * 3, [])) == (
        "Of the training time the ranks waited 10.0% for images and 20.0% for other ranks."
    )


def test_a_counter_that_begins_anew_goes_on():
    assert grown(np.array([2.0, 5.0, 1.0, 4.0])).tolist() == [2, 3, 1, 3]
    told = [(10, 1.0, 4.0), (20, 3.0, 5.0), (5, 1.0, 0.5)]
    lines = [
        {"seconds": s, "ranks": [{"rank": 3, "data_wait": d, "comm_wait": c}]} for s, d, c in told
    ]
    # 25 seconds, 4 of them for images, 5.5 for the others.
    assert rank_shares(lines)[3] == pytest.approx((0.16, 0.22))
