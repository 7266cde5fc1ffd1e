"""Reports of runs that have nothing to draw say so."""

import io
import json
import shutil

import numpy as np
import pytest

from hvd_yolo.comm.single import SingleComm
from hvd_yolo.evaluate.curves import curves
from hvd_yolo.evaluate.keeping import packed
from hvd_yolo.evaluate.scoring import Table, score
from hvd_yolo.report.page import write_report
from tests.conftest import train
from tests.test_nothing import BOX, OPTIONS, write_set

pytest.importorskip("matplotlib")

NAMES = ("红细胞", "b")
TRUTH = np.array([[1, 0, 0, 30, 30, 0, 900, 0]], dtype=np.float64)
CROWD = np.array([[1, 0, 0, 30, 30, 0, 900, 1]], dtype=np.float64)
FOUND = np.array([[1, 0, 0, 30, 30, 0.9, 0]], dtype=np.float64)
NONE = {"truths": np.zeros((0, 8)), "detections": np.zeros((0, 7))}


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """A run of one update that was never evaluated, and its data set."""
    folder = tmp_path_factory.mktemp("short")
    data = write_set(folder / "set", [BOX] * 2)
    train(1, folder / "run", "--data", data, *OPTIONS, "--max_updates", "1", "--eval.every", "0")
    return folder


@pytest.fixture
def run(short_run, tmp_path):
    """A copy of the run, to write into."""
    shutil.copytree(short_run / "run", tmp_path / "run")
    return tmp_path / "run"


def keep(run, truths, detections):
    """The table of an evaluation, and its eval line."""
    table = Table(np.array([1, 2]), truths, detections)
    (run / "evaluation.npz").write_bytes(packed(table, NAMES))
    numbers = score(table, NAMES, SingleComm(), "pycocotools")
    line = {"kind": "eval", "epoch": 0.5, "step": 1, **numbers, "val_loss": None, "val_losses": {}}
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def test_a_run_without_an_evaluation(run):
    page = write_report([run], run / "report.html").read_text()
    assert "No evaluation has been made yet." in page
    assert (run / "plots" / "loss.png").is_file()


def test_a_run_without_a_line(run):
    (run / "metrics.jsonl").write_text("")
    (run / "ranks.jsonl").unlink()
    assert "No update has been told of yet." in write_report([run], run / "r.html").read_text()


def test_a_run_whose_losses_are_no_numbers(run):
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    line |= {"loss": "nan", "losses": dict.fromkeys(line["losses"], "nan"), "grad_norm": "nan"}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    write_report([run], run / "report.html")
    assert not {"loss.png", "loss_terms.png"} & {f.name for f in (run / "plots").iterdir()}


@pytest.mark.parametrize(
    "table",
    [NONE, NONE | {"truths": TRUTH}, NONE | {"detections": FOUND},
     {"truths": CROWD, "detections": FOUND}],
    ids=["nothing", "no_detections", "no_objects", "crowds"],
)  # fmt: skip
def test_a_run_with_an_empty_table(run, table):
    keep(run, **table)
    page = write_report([run, run], run / "comparison.html").read_text()
    assert "runs compared" in page
    page = write_report([run], run / "report.html").read_text()
    is_scored = len(table["truths"]) and not table["truths"][0, 7]
    assert ("AP is undefined in every evaluation" in page) == (not is_scored)
    assert (run / "plots" / "confusion.png").is_file()


def test_a_run_whose_training_images_can_none_be_read(short_run, run, tmp_path):
    data = write_set(tmp_path / "set", [BOX] * 2, unreadable=(0, 1))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(short_run / "set/data.yaml"), data))
    keep(run, TRUTH, FOUND)
    page = write_report([run], run / "report.html").read_text()
    assert "max() arg" not in page
    assert "None of the images of the first updates can be read." in page


def test_numbers_without_objects_are_undefined_and_not_minus_one():
    """pycocotools' -1 is a number to nobody who reads these."""
    table = Table(np.array([1, 2]), TRUTH, FOUND)
    numbers = score(table, NAMES, SingleComm(), "pycocotools")
    assert numbers["AP"] == numbers["AP_small"] == pytest.approx(1)
    assert numbers["AP_large"] is numbers["AR_medium"] is None
    numbers = score(table._replace(**NONE), NAMES, SingleComm(), "pycocotools")
    assert {v for v in numbers.values() if not isinstance(v, dict)} == {None}
    assert {v for own in numbers["per_class"].values() for v in own.values()} == {None}
    assert curves(table._replace(**NONE), 2, "pycocotools").best["threshold"] is None
    kept = np.load(io.BytesIO(packed(table._replace(**NONE), NAMES)))
    assert len(kept["truths"]) == 0
