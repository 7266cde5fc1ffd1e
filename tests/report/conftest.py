"""Two small runs, trained and evaluated once."""

import json
import shutil

import numpy as np
import pytest

from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig, EvalConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.data.loader import evaluation_batches
from hvd_yolo.evaluate import evaluate
from hvd_yolo.weights.trained import open_trained
from tests.conftest import train


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory):
    """Runs of three epochs on drawn images with two learning rates."""
    folder = tmp_path_factory.mktemp("runs")
    options = ["--data", "shapes:16", "--imgsz", "64", "--epochs", "3", "--workers", "0"]
    options += ["--batch_size", "8", "--report.every", "1", "--report.plots", "false"]
    for name, rate in (("first", "0.001"), ("second", "0.004")):
        train(1, folder / name, *options, "--optim.lr", rate)
        keep_evaluation(folder / name)
        keep_ranks(folder / name)
    return folder


@pytest.fixture
def runs(trained_runs, tmp_path):
    """Copies of the two, to write into."""
    for name in ("first", "second"):
        shutil.copytree(trained_runs / name, tmp_path / name)
    return [tmp_path / "first", tmp_path / "second"]


def keep_evaluation(run):
    """evaluation.npz of best.pt."""
    if (run / "evaluation.npz").is_file():
        return
    options = EvalConfig(loss=False)
    trained = open_trained(run / "checkpoints" / "best.pt", options.conf, options.iou, 100)
    val_set = open_dataset(trained.config.data, "val")
    batches = evaluation_batches(val_set, trained.config.imgsz, 8, 0, 1, 0)
    comm = connect(CommConfig("single"), "cpu")
    found = evaluate(trained.model, val_set, batches, comm, options)
    ids, truths = [], [np.zeros((0, 8))]
    for index in range(len(val_set)):
        ids.append(val_set.image_id(index))
        height, width = val_set.image(index).shape[:2]
        own = val_set.annotations(index, width, height)
        rest = np.column_stack((own.labels, own.areas, own.is_crowd))
        truths.append(np.column_stack((np.full(len(own.boxes), ids[-1]), own.boxes, rest)))
    np.savez_compressed(
        run / "evaluation.npz", image_ids=np.array(ids, dtype=np.int64),
        truths=np.concatenate(truths), detections=found.detections.astype(np.float32),
        names=np.array(val_set.names),
    )  # fmt: skip


def keep_ranks(run):
    """ranks.jsonl with the waits that the train lines tell."""
    if (run / "ranks.jsonl").is_file():
        return
    waited, before, lines = np.zeros(2), 0.0, []
    for text in (run / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line["kind"] == "train":
            shares = np.array((line["data_wait"], line["comm_wait"]))
            waited += (line["seconds"] - before) * shares
            before = line["seconds"]
            own = {"rank": 0, "host": "alone", "updates": line["step"], "memory": 1e9}
            own |= {"data_wait": waited[0], "comm_wait": waited[1], "gpu_memory": 0}
            told = {"step": line["step"], "seconds": before, "ranks": [own]}
            lines.append(json.dumps(told) + "\n")
    (run / "ranks.jsonl").write_text("".join(lines))
