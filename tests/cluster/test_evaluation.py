"""Promise 3: the score is the score, on any number of ranks."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hvd_yolo.evaluate.scoring import COCO_NUMBERS
from tests.conftest import needs_mpi, run_job, train
from tests.evaluate.test_scoring import made_table, numbers, reference


@needs_mpi
@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_made_set_with_80_classes_and_crowds(size):
    done = run_job(size, ["-m", "tests.cluster.programs.score_made_set"])
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout.split("METRICS ")[1])
    expected = reference(made_table(), 80).stats
    assert np.abs(numbers(metrics) - expected).max() <= 1e-12


@pytest.fixture(scope="module")
def weights(tmp_path_factory, bccd):
    """A model that finds a little."""
    folder = tmp_path_factory.mktemp("runs") / "bccd"
    train(
        1, folder, "--data", str(bccd / "data.yaml"), "--imgsz", "96", "--max_updates", "110",
        "--global_batch", "8", "--eval.every", "0", "--augment.mosaic", "0",
        "--augment.scale", "0", "--optim.lr", "0.002", "--train.amp", "none", OMP_NUM_THREADS="2",
    )  # fmt: skip
    return folder / "checkpoints" / "last.pt"


def evaluate(size, *options):
    done = run_job(size, ["-m", "hvd_yolo.evaluate", *options])
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    return json.loads(line)


def pycocotools_on(annotations, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@needs_mpi
def test_bccd_on_1_2_3_5_ranks_is_pycocotools_on_the_results_file(bccd, weights, tmp_path):
    """Detection and scoring dealt to ranks; 87 images in blocks of 40, so that two of five ranks
    have none."""
    options = ["--weights", str(weights), "--data", str(bccd), "--batch_size", "40"]
    options += ["--eval.scorer", "pycocotools"]
    found = {}
    for size in (1, 2, 3, 5):
        results = tmp_path / f"{size}.json"
        found[size] = evaluate(size, *options, "--results", str(results))
        assert results.read_bytes() == (tmp_path / "1.json").read_bytes()
    expected = pycocotools_on(bccd / "annotations/instances_val.json", tmp_path / "1.json")
    assert 0.001 < found[1]["AP"] < 0.9
    for size, metrics in found.items():
        assert np.abs(numbers(metrics) - expected).max() <= 1e-12, size
        assert metrics["per_class"] == found[1]["per_class"], size
        flat, expected_flat = (
            {key: value for key, value in m.items() if not isinstance(value, dict)}
            for m in (metrics, found[1])
        )
        assert flat == pytest.approx(expected_flat, rel=1e-12), size
    assert set(COCO_NUMBERS) <= found[1].keys()
    assert found[1]["val_loss"] > 0


def test_other_splits_are_scored_on_demand(bccd, weights):
    metrics = evaluate(1, "--weights", str(weights), "--split", "test", "--eval.loss", "false")
    assert metrics["AP"] > 0
    assert "val_loss" not in metrics
