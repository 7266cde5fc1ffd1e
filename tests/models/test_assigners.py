import math

import pytest
import torch

from hvd_yolo.models.anchor_head import decode
from hvd_yolo.models.assigners import Objects, match_anchors, optimal_transport

SIXTEEN = torch.tensor([[8.0, 8], [24, 8], [8, 24], [24, 24]]).double()


def objects(*rows):
    table = torch.tensor(rows).double()
    return Objects(table[:, 0].long(), table[:, 1].long(), table[:, 2:])


def test_an_anchor_answers_from_the_cell_of_the_centre_and_the_two_nearest():
    # Centre (19, 27) with stride 8: cell (2, 3), in its left upper half.
    found = match_anchors(
        objects((0, 5, 11, 19, 27, 35)), torch.tensor([[2.0, 2.0]]).double(), 6, 6, 8, 4.0
    )
    places = sorted(zip(found.x.tolist(), found.y.tolist(), strict=True))
    assert places == [(1, 3), (2, 2), (2, 3)]
    assert found.labels.tolist() == [5, 5, 5]
    assert found.boxes[0].tolist() == [11, 19, 27, 35]


def test_neighbours_stay_inside_the_map():
    found = match_anchors(
        objects((1, 0, 0, 0, 4, 6)), torch.tensor([[1.0, 1.0]]).double(), 4, 4, 8, 4.0
    )
    # Centre (2, 3) lies in the left upper half of cell (0, 0), which has no such neighbours.
    assert (found.image.tolist(), found.x.tolist(), found.y.tolist()) == ([1], [0], [0])


def test_an_anchor_four_times_as_wide_does_not_answer():
    anchors = torch.tensor([[3.9, 1.0], [4.1, 1.0], [1.0, 0.24]]).double()
    found = match_anchors(objects((0, 0, 8, 8, 16, 16)), anchors, 4, 4, 8, 4.0)
    assert set(found.anchor.tolist()) == {0}


def test_anchor_boxes_by_hand():
    raw = torch.tensor([0.0, math.log(3), math.log(1 / 3), 0.0]).double()
    # Sigmoids 1/2, 3/4, 1/4, 1/2; the cell (2, 1) of stride 8 and an anchor of 16 x 24.
    box = decode(raw, torch.tensor([2.5, 1.5]).double(), torch.tensor([16.0, 24]).double(), 8)
    x, y, w, h = (2 * 0.5 - 0.5 + 2) * 8, (2 * 0.75 - 0.5 + 1) * 8, 0.5**2 * 16, 1.0 * 24
    assert box.tolist() == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def transport(boxes, scores, true_boxes, true_labels):
    logits = torch.tensor(scores).double().logit()
    sure = torch.full((len(logits),), 30.0).double()
    return optimal_transport(
        logits, sure, torch.tensor(boxes).double(), SIXTEEN, torch.full((4,), 16.0).double(),
        torch.tensor(true_boxes).double(), torch.tensor(true_labels),
    )  # fmt: skip


def test_simota_by_hand():
    """Overlaps 1, 1/2, 1/2 and 0 with one object add up to two cells; of the two with 1/2, the one
    that knows the class is cheaper."""
    boxes = [[0, 0, 32, 32], [0, 0, 16, 32], [0, 0, 32, 16], [40, 40, 50, 50]]
    found = transport(boxes, [[0.9], [0.3], [0.6], [0.9]], [[0, 0, 32, 32]], [0])
    assert found.cell.tolist() == [0, 2]
    assert found.object.tolist() == [0, 0]
    assert found.overlap.tolist() == pytest.approx([1.0, 0.5])


def test_simota_gives_a_contested_cell_to_the_cheaper_object():
    boxes = [[0, 0, 32, 32]] * 4
    scores = [[0.9, 0.2], [0.2, 0.9], [0.9, 0.2], [0.2, 0.9]]
    true_boxes = [[0, 0, 32, 32], [0, 0, 32, 31]]
    found = transport(boxes, scores, true_boxes, [0, 1])
    # Each object takes all four cells (overlaps of 1 and 31/32 add up to 4 and 3).
    assert dict(zip(found.cell.tolist(), found.object.tolist(), strict=True)) == {
        0: 0,
        1: 1,
        2: 0,
        3: 1,
    }


def test_simota_far_from_all_points_is_background():
    found = transport([[0, 0, 4, 4]] * 4, [[0.5]] * 4, [[300, 300, 310, 310]], [0])
    assert len(found.cell) == 0
