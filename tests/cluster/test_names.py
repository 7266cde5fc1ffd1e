"""Classes and their numbers on several ranks: what is refused is said once, what is written is what
is scored."""

import json

import numpy as np
import pytest
import yaml

from hvd_yolo.data import open_dataset
from tests.cluster.test_evaluation import evaluate, pycocotools_on
from tests.colored import make_coco, make_yolo, some_rows, write_checkpoint
from tests.conftest import needs_mpi, run_job, train
from tests.evaluate.test_scoring import numbers

NAMES = ("red", "green", "blue")
IMAGES = [some_rows(seed) for seed in range(5)]


@needs_mpi
def test_a_run_on_ranks_refuses_other_classes_and_images_with_one_voice(tmp_path):
    images = [[(0, 4, 4, 20, 20)]] * 4
    data = make_yolo(tmp_path / "set", list(NAMES), images, split="train")
    run = tmp_path / "run"
    train(
        2, run, "--data", str(data), "--imgsz", "64", "--global_batch", "2", "--workers", "0",
        "--max_updates", "1", "--eval.every", "0", "--device", "cpu",
    )  # fmt: skip
    again = ["-m", "hvd_yolo.train", "--resume", str(run / "checkpoints" / "last.pt")]
    again += ["--device", "cpu"]
    content = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump(content | {"names": [*NAMES, "other"]}))
    done = run_job(2, again)
    assert done.returncode == 2
    told = "error: data {}: the classes were red, green, blue and are red, green, blue, other"
    assert done.stderr.count(told.format(data)) == 1
    assert "Traceback" not in done.stderr
    data.write_text(yaml.safe_dump(content))
    (tmp_path / "set" / "images" / "train" / "3.png").unlink()
    done = run_job(2, again)
    assert done.returncode == 2
    assert done.stderr.count(f"error: data {data}: 4 training images became 3") == 1
    done = run_job(2, [*again, "--override", "data,max_updates", "--max_updates", "2"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 training images became 3; the run goes on with those") == 1


@needs_mpi
@pytest.mark.parametrize("size", [1, 2])
def test_a_results_file_scores_as_evaluate_does_on_sparse_category_ids(tmp_path, size):
    """pycocotools reads the results beside the data set's own JSON: ids that are not its own would
    be refused, or score nothing."""
    ids = (5, 17, 90)
    annotations = make_coco(tmp_path / "coco", NAMES, ids, IMAGES)
    weights = write_checkpoint(tmp_path / "best.pt", NAMES, tmp_path / "coco", True, ids)
    results = tmp_path / "results.json"
    metrics = evaluate(size, "--weights", weights, "--results", str(results))
    assert {row["category_id"] for row in json.loads(results.read_text())} == set(ids)
    assert 0.1 < metrics["AP"] < 0.95
    expected = pycocotools_on(annotations, results)
    assert np.abs(numbers(metrics) - expected).max() <= 1e-9


@needs_mpi
@pytest.mark.parametrize("size", [1, 2])
def test_a_results_file_scores_as_evaluate_does_on_yolo_text(tmp_path, size):
    """Also of classes in another order than the checkpoint's; the truth as anybody would write it
    down with the numbers of the data set."""
    data = make_yolo(tmp_path / "set", ["blue", "red", "green"], IMAGES, label_of=(1, 2, 0))
    weights = write_checkpoint(tmp_path / "best.pt", NAMES, data, is_rough=True)
    results = tmp_path / "results.json"
    metrics = evaluate(size, "--weights", weights, "--results", str(results))
    dataset = open_dataset(str(data), "val")
    label_of = (1, 2, 0)
    boxes = [
        {"image_id": dataset.image_id(i), "category_id": dataset.category_ids[label_of[color]],
         "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
        for i, rows in enumerate(IMAGES) for color, x, y, w, h in rows
    ]  # fmt: skip
    truth = {
        "info": {}, "images": [{"id": dataset.image_id(i)} for i in range(len(IMAGES))],
        "categories": [{"id": number} for number in dataset.category_ids],
        "annotations": [box | {"id": number} for number, box in enumerate(boxes, 1)],
    }  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert 0.1 < metrics["AP"] < 0.95
    expected = pycocotools_on(tmp_path / "truth.json", results)
    assert np.abs(numbers(metrics) - expected).max() <= 1e-9


@needs_mpi
def test_all_ranks_score_the_same_chosen_classes(tmp_path):
    data = make_yolo(tmp_path / "set", ["blue", "rouge", "green"], IMAGES, label_of=(1, 2, 0))
    weights = write_checkpoint(tmp_path / "best.pt", NAMES, data, is_rough=True)
    options = ("--weights", weights, "--classes", "green,blue")
    one, three = evaluate(1, *options), evaluate(3, *options)
    assert list(one["per_class"]) == ["blue", "green"]
    assert one == three
