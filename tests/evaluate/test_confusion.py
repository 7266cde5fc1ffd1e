"""Ten boxes, worked out by hand: the confusion matrix, PR, and precision, recall and F1 over the
score; and the same from pycocotools fed from files."""

import numpy as np
import pytest

from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from hvd_yolo.evaluate.confusion import Faults, confusion, faults_by_image, match
from hvd_yolo.evaluate.curves import THRESHOLDS, curves
from hvd_yolo.evaluate.scoring import Table, score
from tests.evaluate.test_scoring import made_table, reference

CAT, DOG = 0, 1
SQUARE = 100.0 * 100.0
# Five objects and five detections on two images.
TRUTHS = np.array([
    (1, 0, 0, 100, 100, CAT, SQUARE, 0),
    (1, 200, 0, 300, 100, CAT, SQUARE, 0),
    (1, 0, 200, 100, 300, DOG, SQUARE, 0),
    (2, 50, 50, 150, 150, DOG, SQUARE, 0),
    (2, 200, 200, 300, 300, CAT, SQUARE, 0),
])  # fmt: skip
DETECTIONS = np.array([
    (1, 0, 0, 100, 100, 0.9, CAT),      # IoU 1 with the first cat
    (1, 200, 0, 300, 100, 0.8, DOG),    # IoU 1 with the second cat: the wrong class
    (1, 0, 0, 100, 90, 0.7, CAT),       # IoU 0.9 with the first cat, which is taken
    (2, 50, 50, 150, 130, 0.6, DOG),    # IoU 0.8 with the dog of image 2
    (2, 200, 200, 300, 300, 0.2, CAT),  # IoU 1 with the third cat, below 0.25
])  # fmt: skip
TABLE = Table(np.array([1, 2]), TRUTHS, DETECTIONS)


def test_the_confusion_matrix_of_ten_boxes():
    matches = match(TABLE, 0.25)
    assert confusion(TABLE, matches, 2).tolist() == [
        # cat, dog, background
        [1, 0, 1],  # found cat: the first; the second box on it is of nothing
        [1, 1, 0],  # found dog: the second cat, and the dog of image 2
        [1, 1, 0],  # missed: the third cat, for 0.2 < 0.25, and the dog of image 1
    ]
    assert faults_by_image(TABLE, matches) == {1: Faults(1, 1, 1), 2: Faults(1, 0, 0)}
    # With every detection the third cat is found.
    assert confusion(TABLE, match(TABLE, 0.0), 2)[:, CAT].tolist() == [2, 1, 0]


def test_precision_over_recall_of_ten_boxes():
    found = curves(TABLE, 2)
    assert found.labels.tolist() == [CAT, DOG]
    # Cats by score: 0.9 right, 0.7 wrong, 0.2 right, of three. Precision 1/1 at recall 1/3, 1/2,
    # 2/3 at recall 2/3; interpolated: 1 at recall 0 to 0.33, 2/3 at 0.34 to 0.66, then 0.
    cat = [1.0] * 34 + [2 / 3] * 33 + [0.0] * 34
    # Dogs: 0.8 wrong, 0.6 right, of two. Precision 1/2 at recall 1/2, and so at 0 to 0.5.
    dog = [0.5] * 51 + [0.0] * 50
    assert found.precision == pytest.approx(np.array([cat, dog]), abs=1e-12)
    assert found.ap50 == pytest.approx([(34 + 33 * 2 / 3) / 101, 51 * 0.5 / 101])


def test_precision_recall_and_f1_over_score_of_ten_boxes():
    found = curves(TABLE, 2)
    at = {s: int(np.argmin(abs(THRESHOLDS - s))) for s in (0.1, 0.5, 0.65, 0.85, 0.95)}
    precision, recall, f1 = (found.at_score[key] for key in ("precision", "recall", "F1"))
    # Recall in steps of 0.01: a third is 0.33. From 0.2 down all are in: cats 2/3 and 2/3.
    assert precision[:, at[0.1]] == pytest.approx([2 / 3, 0.5])
    assert recall[:, at[0.1]] == pytest.approx([0.66, 0.5])
    assert f1[:, at[0.1]] == pytest.approx([2 * 2 / 3 * 0.66 / (2 / 3 + 0.66), 0.5])
    # From 0.6 down one cat and one dog are found. The interpolated precision of cats is 1, the best
    # at that recall or a higher one.
    assert precision[:, at[0.5]] == pytest.approx([1.0, 0.5])
    assert recall[:, at[0.5]] == pytest.approx([0.33, 0.5])
    assert f1[:, at[0.5]] == pytest.approx([2 * 0.33 / 1.33, 0.5])
    # Above 0.6 the only dog is a wrong one: recall 0, to which the interpolated precision is 1/2
    # still. Above 0.8 there is no dog, above 0.9 nothing.
    assert recall[:, at[0.65]] == pytest.approx([0.33, 0.0])
    assert precision[:, at[0.65]] == pytest.approx([1.0, 0.5])
    assert f1[:, at[0.65]] == pytest.approx([2 * 0.33 / 1.33, 0.0])
    assert np.isnan(precision[:, at[0.85]]).tolist() == [False, True]
    assert np.isnan(precision[:, at[0.95]]).all()
    assert not f1[:, at[0.95]].any()
    # The means of F1 at 0.9, 0.8, 0.6 and 0.2: 0.248, 0.248, 0.498 and 0.582.
    best = {"precision": 7 / 12, "recall": 0.58, "f1": f1[:, at[0.1]].mean(), "threshold": 0.2}
    assert found.best == pytest.approx(best)


@pytest.mark.parametrize("scorer", ["pycocotools", "faster-coco-eval"])
def test_curves_are_pycocotools_own_precision_array(scorer):
    if scorer == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    for table, num_classes in ((TABLE, 2), (made_table(), 80)):
        expected = reference(table, num_classes).eval["precision"][0, :, :, 0, -1].T
        found = curves(table, num_classes, scorer)
        assert found.labels.tolist() == np.flatnonzero(expected[:, 0] > -1).tolist()
        assert np.abs(found.precision - expected[found.labels]).max() <= 1e-12
        names = tuple(str(k) for k in range(num_classes))
        metrics = score(table, names, connect(CommConfig("single"), "cpu"), scorer)
        assert found.best == {key: metrics[key] for key in found.best}
        # F1 is drawn at steps of 0.002, so its highest point lies no higher.
        assert metrics["f1"] - 0.02 < found.at_score["F1"].mean(0).max() <= metrics["f1"] + 1e-12


def test_the_larger_overlap_wins_not_the_higher_score():
    detections = np.array([(1, 0, 0, 100, 60, 0.9, CAT), (1, 0, 0, 100, 90, 0.3, CAT)])
    matches = match(TABLE._replace(truths=TRUTHS[:1], detections=detections))
    assert matches.pairs.tolist() == [[0, 1]]
    assert matches.unfounded.tolist() == [0]


def test_crowds_are_not_missed_and_what_lies_in_them_is_not_counted():
    truths = TRUTHS[:1].copy()
    truths[0, [3, 4, 7]] = (400, 400, 1)
    table = TABLE._replace(truths=truths, detections=DETECTIONS[:1])
    assert not confusion(table, match(table), 2).any()
    outside = table._replace(detections=DETECTIONS[:1] + np.array([0, 380, 0, 380, 0, 0, 0]))
    assert confusion(outside, match(outside), 2)[CAT, 2] == 1


def test_nothing_to_find_and_nothing_found():
    empty = TABLE._replace(truths=TRUTHS[:0], detections=DETECTIONS[:0])
    assert not confusion(empty, match(empty), 2).any()
    assert len(curves(empty, 2).labels) == 0
    missed = TABLE._replace(detections=DETECTIONS[:0])
    assert confusion(missed, match(missed), 2)[2].tolist() == [3, 2, 0]
    assert curves(missed, 2).best["f1"] == 0
