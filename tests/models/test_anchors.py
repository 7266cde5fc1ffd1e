import numpy as np
import pytest

from hvd_yolo.models import build_model
from hvd_yolo.models.anchors import best_possible_recall, fit_anchors


def test_best_possible_recall_by_hand():
    anchors = np.array([[10.0, 10.0], [100.0, 20.0]])
    # 39 = 3.9 x 10, 79 = 3.95 x 20; 41 = 4.1 x 10 and 5 = 20 / 4, which is not less than four.
    sizes = np.array([[39.0, 10.0], [41.0, 5.0], [100.0, 79.0], [3.0, 3.0], [2.4, 10.0]])
    assert best_possible_recall(anchors, sizes) == pytest.approx(3 / 5)


def objects(width, height, spread):
    rng = np.random.default_rng(0)
    return np.array([width, height]) * np.exp(spread * rng.standard_normal((200, 2)))


def test_anchors_that_match_stay():
    model = build_model("yolov5n", 3)
    before = model.head.anchors.clone()
    assert "100.0% of 200 objects match one" in fit_anchors(model, objects(40, 40, 0.5), 0)
    assert (model.head.anchors == before).all()


def test_anchors_that_do_not_match_are_fitted_and_sorted():
    sizes = np.concatenate((objects(4, 900, 0.3), objects(600, 6, 0.3), objects(50, 50, 0.3)))
    models = [build_model("yolov5n", 3) for _ in range(2)]
    told = [fit_anchors(model, sizes, 7) for model in models]
    assert "fitted anew" in told[0]
    found = models[0].head.anchors
    assert (found == models[1].head.anchors).all()
    assert best_possible_recall(found.flatten(0, 1).numpy(), sizes) > 0.98
    assert (found.flatten(0, 1).prod(1).diff() >= 0).all()
