"""Which evaluation is the best, and when waiting for a better one ends training."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hvd_yolo import patience
from hvd_yolo.comm.single import SingleComm
from hvd_yolo.config import EvalConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.evaluate import Table, _LossSum
from hvd_yolo.evaluate.keeping import packed
from hvd_yolo.models.losses import Losses
from tests.conftest import needs_mpi, train

STILL = (
    "--data", "shapes:8", "--imgsz", "64", "--batch_size", "2", "--epochs", "6",
    "--optim.lr", "1e-12", "--device", "cpu",
)  # fmt: skip


def told(metric, values, patience_of=0):
    """For each value of a metric in turn, whether it is the best, and whether patience is lost."""
    state = SimpleNamespace(best=None, best_metric="", stale_evaluations=0)
    options = EvalConfig(metric=metric, patience=patience_of)
    return [
        (patience.is_best(state, {metric: value}, options), patience.is_lost(state, options))
        for value in values
    ]


def test_the_best_is_the_highest_and_of_a_loss_the_lowest():
    assert [best for best, _ in told("AP50", [0.1, 0.3, 0.3, 0.2, 0.4])] == [1, 1, 0, 0, 1]
    assert [best for best, _ in told("val_loss", [3.0, 2.0, 2.5, 1.0])] == [1, 1, 0, 1]


def test_a_number_that_is_not_finite_is_never_the_best():
    nan, infinite = float("nan"), float("inf")
    assert [best for best, _ in told("val_loss", [nan, -infinite, 2.0, nan, 1.0])] == [
        0,
        0,
        1,
        0,
        1,
    ]


def test_a_number_that_is_undefined_is_not_the_best_and_costs_no_patience():
    assert told("AP", [None, None, 0.1, None, 0.2, None, None, None], 2) == [
        (False, False), (False, False), (True, False), (False, False), (True, False),
        (False, False), (False, False), (False, False),
    ]  # fmt: skip
    assert [best for best, _ in told("val_loss", [None, 2.0, None, 1.0])] == [0, 1, 0, 1]


def test_patience_counts_evaluations_since_the_best():
    assert [lost for _, lost in told("AP", [0.1, 0.0, 0.2, 0.1, 0.1, 0.3], 2)] == [0, 0, 0, 0, 1, 0]
    assert not any(lost for _, lost in told("AP", [0.1] * 50))


def test_another_metric_begins_anew():
    state = SimpleNamespace(best=0.9, best_metric="AP50", stale_evaluations=7)
    assert patience.is_best(state, {"AP": 0.5}, EvalConfig(metric="AP"))
    assert (state.best, state.stale_evaluations) == (0.5, 0)


@needs_mpi
@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=pytest.mark.long)])
def test_a_run_that_gets_no_better_ends_and_stays_ended(tmp_path, ranks):
    """On all ranks at once; what it has found is kept, and a longer patience goes on."""
    said = train(ranks, tmp_path, *STILL, "--eval.patience", "2")
    assert "AP was no better in 2 evaluations in a row (eval.patience)" in said
    assert epochs_evaluated(tmp_path) == [1, 2, 3]
    assert "done: " in train(ranks, tmp_path, *STILL, "--eval.patience", "2")
    assert epochs_evaluated(tmp_path) == [1, 2, 3]
    train(ranks, tmp_path, *STILL, "--eval.patience", "4")
    assert epochs_evaluated(tmp_path) == [1, 2, 3, 4, 5]


def epochs_evaluated(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["epoch"] for line in lines if line["kind"] == "eval"]


def updates_evaluated(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if line["kind"] == "eval"]


@needs_mpi
def test_evaluations_come_by_updates_too_on_any_number_of_ranks(tmp_path):
    """In the midst of epochs, and after the last update; best.pt is of one of them."""
    options = (*STILL, "--eval.every", "0", "--eval.every_updates", "2")
    one, two = tmp_path / "1", tmp_path / "2"
    train(1, one, *options, "--max_updates", "5")
    assert updates_evaluated(one) == [2, 4, 5]
    assert (one / "checkpoints" / "best.pt").is_file()
    train(2, two, *options, "--global_batch", "2", "--batch_size", "1", "--max_updates", "5")
    assert updates_evaluated(two) == [2, 4, 5]


def test_evaluations_come_by_the_clock_too(tmp_path):
    train(1, tmp_path, *STILL, "--max_updates", "3", "--eval.every", "0",
          "--eval.every_minutes", "1e-9")  # fmt: skip
    assert updates_evaluated(tmp_path) == [1, 2, 3]


def test_the_evaluation_of_the_best_is_kept_whole(tmp_path):
    train(1, tmp_path, *STILL, "--epochs", "1")
    with np.load(tmp_path / "evaluation.npz") as kept:
        truths, detections, names = kept["truths"], kept["detections"], kept["names"]
        images = kept["image_ids"]
    assert tuple(names) == open_dataset("shapes:8", "val").names
    assert set(truths[:, 0]) <= set(images)
    assert truths.shape[1] == 8
    assert detections.shape[1] == 7
    _, counts = np.unique(detections[:, [0, 6]], axis=0, return_counts=True)
    assert counts.max(initial=0) <= 100


def test_a_kept_evaluation_knows_its_images_and_what_coco_scores():
    """Ids beyond the whole numbers of float32; the 100 best of each class of an image."""
    images = np.array([20231105143000, 20231105143001])
    truths = np.array([[image, 0, 0, 9, 9, 0, 81, 0] for image in images], dtype=np.float64)
    rows = [
        (image, 0, 0, 9, 9, score, label)
        for image in images
        for label in (0, 1)
        for score in np.linspace(0, 1, 120)
    ]
    table = Table(images, truths, np.random.default_rng(0).permutation(np.array(rows)))
    with np.load(io.BytesIO(packed(table, ("a", "b")))) as kept:
        detections = kept["detections"]
    assert set(detections[:, 0]) == set(images)
    for image in images:
        for label in (0, 1):
            own = detections[(detections[:, 0] == image) & (detections[:, 6] == label)]
            assert len(own) == 100
            assert own[:, 5].min() == pytest.approx(20 / 119)


def test_a_loss_that_no_object_has_part_in_is_not_the_best():
    """Where all scores have become 0, no point answers for an object, and nothing is divided by
    nothing."""
    lost = _LossSum()
    lost.add(Losses({"cls": torch.tensor(0.0)}, torch.tensor(0.0)))
    assert np.isnan(lost.metrics(SingleComm(), num_truths=3)["val_loss"])
    assert lost.metrics(SingleComm(), num_truths=0)["val_loss"] is None
