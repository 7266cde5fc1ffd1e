"""COCO's numbers against pycocotools fed from files, as anyone would call it."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from hvd_yolo.evaluate.scoring import COCO_NUMBERS, Table, best_operating_point, score


def made_table(num_images=60, num_classes=80, seed=0):
    """Truth with crowds and images without any; detections near it, beside it and of wrong
    classes."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for image_id in range(1, num_images + 1):
        for _ in range(rng.integers(0, 9) if image_id % 5 else 0):
            x, y = rng.uniform(0, 400, 2)
            w, h = np.exp(rng.uniform(np.log(6), np.log(300), 2))
            label = int(rng.integers(num_classes) ** 2 // num_classes)
            crowd = rng.random() < 0.08
            truths.append((image_id, x, y, x + w, y + h, label, w * h * rng.uniform(0.5, 1), crowd))
            for _ in range(rng.integers(0, 5)):
                jitter = rng.normal(0, 0.12, 4) * (w, h, w, h)
                box = np.array((x, y, x + w, y + h)) + jitter
                box[2:] = np.maximum(box[2:], box[:2] + 1)
                wrong = rng.random() < 0.2
                found = int(rng.integers(num_classes)) if wrong else label
                # Scores in coarse steps, so that equal scores are common.
                detections.append((image_id, *box, rng.integers(1, 50) / 50, found))
    ids = np.arange(1, num_images + 1, dtype=np.float64)
    truth_table, detection_table = np.array(truths, dtype=np.float64), np.array(detections)
    return Table(ids, truth_table.reshape(-1, 8), detection_table.reshape(-1, 7))


def reference(table, num_classes, max_dets=(1, 10, 100)):
    """pycocotools from its own formats: instances JSON and results."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": int(i)} for i in table.image_ids],
            "categories": [{"id": k, "name": str(k)} for k in range(num_classes)],
            "annotations": [
                {"id": n, "image_id": int(r[0]), "category_id": int(r[5]), "area": r[6],
                 "bbox": [r[1], r[2], r[3] - r[1], r[4] - r[2]], "iscrowd": int(r[7])}
                for n, r in enumerate(table.truths.tolist(), 1)
            ],
        }  # fmt: skip
        truth.createIndex()
        results = truth.loadRes([
            {"image_id": int(r[0]), "category_id": int(r[6]), "score": r[5],
             "bbox": [r[1], r[2], r[3] - r[1], r[4] - r[2]]}
            for r in table.detections.tolist()
        ])  # fmt: skip
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def numbers(metrics):
    return np.array([-1 if metrics[name] is None else metrics[name] for name in COCO_NUMBERS])


@pytest.mark.parametrize("scorer", ["pycocotools", "faster-coco-eval"])
def test_the_twelve_numbers_are_those_of_pycocotools(scorer):
    if scorer == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    table = made_table()
    evaluation = reference(table, 80)
    names = tuple(str(k) for k in range(80))
    metrics = score(table, names, connect(CommConfig("single"), "cpu"), scorer)
    assert 0.05 < metrics["AP"] < 0.9
    assert np.abs(numbers(metrics) - evaluation.stats).max() <= 1e-12
    precision = evaluation.eval["precision"]
    for k, name in enumerate(names):
        known = precision[:, :, k, 0, -1]
        known = known[known > -1]
        found = metrics["per_class"][name]["AP"]
        assert found is None if not len(known) else abs(found - known.mean()) <= 1e-12


@pytest.mark.parametrize("scorer", ["pycocotools", "faster-coco-eval"])
def test_other_counts_of_detections_are_those_of_pycocotools(scorer):
    """Its own summary knows 1, 10 and 100 alone; the means are taken by hand here."""
    if scorer == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    table, names = made_table(num_classes=3), ("a", "b", "c")
    found = reference(table, 3, (1, 2, 4)).eval
    metrics = score(table, names, connect(CommConfig("single"), "cpu"), scorer, (1, 2, 4))

    def mean(values):
        return values[values > -1].mean()

    precision, recall = found["precision"], found["recall"]
    assert metrics["AP"] == pytest.approx(mean(precision[..., 0, 2]), abs=1e-12)
    assert metrics["AP50"] == pytest.approx(mean(precision[0, ..., 0, 2]), abs=1e-12)
    assert metrics["AP_small"] == pytest.approx(mean(precision[..., 1, 2]), abs=1e-12)
    for place, key in enumerate(("AR_1", "AR_10", "AR_100")):
        assert metrics[key] == pytest.approx(mean(recall[..., 0, place]), abs=1e-12)
    assert metrics["AR_large"] == pytest.approx(mean(recall[..., 3, 2]), abs=1e-12)
    assert metrics["AR_1"] < metrics["AR_10"] < metrics["AR_100"]


@pytest.mark.parametrize("num_classes", [1, 5, 80])
def test_ap_is_the_mean_of_the_classes_that_are_listed(num_classes):
    """Classes without truth are in neither, on whatever part of the classes there are."""
    table = made_table(num_images=12, num_classes=num_classes)
    names = tuple(str(k) for k in range(num_classes))
    metrics = score(table, names, connect(CommConfig("single"), "cpu"))
    for key in ("AP", "AP50"):
        listed = [numbers[key] for numbers in metrics["per_class"].values()]
        known = [value for value in listed if value is not None]
        there = set(table.truths[table.truths[:, 7] == 0][:, 5].astype(int).tolist())
        assert [value is not None for value in listed] == [k in there for k in range(num_classes)]
        assert metrics[key] == pytest.approx(np.mean(known), abs=1e-12)


def test_nothing_found_and_nothing_to_find():
    comm = connect(CommConfig("single"), "cpu")
    table = made_table()
    nothing_found = table._replace(detections=np.zeros((0, 7)))
    metrics = score(nothing_found, tuple("abcdefgh" * 10), comm)
    assert metrics["AP"] == metrics["AR_100"] == metrics["f1"] == 0
    nothing_there = table._replace(truths=np.zeros((0, 8)))
    assert score(nothing_there, tuple("abcdefgh" * 10), comm)["AP"] is None


def test_best_operating_point_by_hand():
    """One class: precision 1 up to recall 0.5 at score 0.8, then 0.5 up to recall 1 at score
    0.2."""
    precision, scores = np.ones((1, 101)), np.full((1, 101), 0.8)
    precision[0, 51:], scores[0, 51:] = 0.5, 0.2
    found = best_operating_point(precision, scores)
    # F1 is 2/3 at both ends: 2 * 1 * 0.5 / 1.5 and 2 * 0.5 * 1 / 1.5; the lower threshold comes
    # first.
    assert found["f1"] == pytest.approx(2 / 3)
    precision[0, 51:] = 0.4
    found = best_operating_point(precision, scores)
    assert found == pytest.approx({"precision": 1, "recall": 0.5, "f1": 2 / 3, "threshold": 0.8})
