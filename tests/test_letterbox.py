import numpy as np
import pytest

from hvd_yolo.letterbox import letterbox


@pytest.mark.parametrize("canvas", [(320, 320), (320, 256), (96, 640)])
@pytest.mark.parametrize("shape", [(640, 480), (333, 500), (17, 1000), (320, 320)])
def test_boxes_go_back_exactly_and_one_side_is_filled(canvas, shape):
    (width, height), (canvas_width, canvas_height) = shape, canvas
    box = letterbox(width, height, canvas_width, canvas_height)
    assert box.width == canvas_width or box.height == canvas_height
    assert box.width <= canvas_width
    assert box.height <= canvas_height
    corners = np.sort(np.random.default_rng(0).uniform(0, 1, (50, 2, 2)), axis=1).reshape(-1, 4)
    boxes = corners * (width, height, width, height)
    assert np.abs(box.undo(box.apply(boxes), width, height) - boxes).max() < 1e-9
