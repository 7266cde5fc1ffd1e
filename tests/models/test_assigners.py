import math

import pytest
import torch

from hvd_yolo.models.anchor_head import decode
from hvd_yolo.models.assigners import match_anchors, optimal_transport, places_of
from hvd_yolo.targets import pad_targets

CPU = torch.device("cpu")
SIXTEEN = torch.tensor([[8.0, 8], [24, 8], [8, 24], [24, 24]]).double()


def objects(*boxes):
    """Of the second of two images; the first has none."""
    table = torch.tensor(boxes).double()
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}
    some = {"boxes": table[:, 1:], "labels": table[:, 0].long()}
    return pad_targets([none, some], torch.float64, torch.device("cpu"))


def matched(*arguments):
    """The rows that match, by name."""
    found = match_anchors(*arguments)
    return {name: part[found.is_match].tolist() for name, part in found._asdict().items()}


def test_an_anchor_answers_from_the_cell_of_the_center_and_the_two_nearest():
    # Center (19, 27) with stride 8: cell (2, 3), in its left upper half.
    found = matched(objects((5, 11, 19, 27, 35)), torch.tensor([[2.0, 2.0]]).double(), 6, 6, 8, 4.0)
    assert sorted(zip(found["x"], found["y"], strict=True)) == [(1, 3), (2, 2), (2, 3)]
    assert found["labels"] == [5, 5, 5]
    assert found["image"] == [1, 1, 1]
    assert found["boxes"][0] == [11, 19, 27, 35]


def test_neighbors_stay_inside_the_map():
    found = matched(objects((0, 0, 0, 4, 6)), torch.tensor([[1.0, 1.0]]).double(), 4, 4, 8, 4.0)
    # Center (2, 3) lies in the left upper half of cell (0, 0), which has no such neighbors.
    assert (found["image"], found["x"], found["y"]) == ([1], [0], [0])


def test_a_center_outside_the_map_matches_nothing():
    boxes = ((0, -40, 0, -24, 8), (0, 0, -24, 8, -8), (0, 60, 0, 76, 8))
    found = matched(objects(*boxes), torch.tensor([[2.0, 1.0]]).double(), 4, 4, 8, 4.0)
    # Beyond the right side the last column answers, as in YOLOv5; its neighbors do where inside.
    assert set(found["x"]) == {3}
    assert set(found["labels"]) == {0}


def test_an_anchor_four_times_as_wide_does_not_answer():
    anchors = torch.tensor([[3.9, 1.0], [4.1, 1.0], [1.0, 0.24]]).double()
    found = matched(objects((0, 8, 8, 16, 16)), anchors, 4, 4, 8, 4.0)
    assert set(found["anchor"]) == {0}


def test_anchor_boxes_by_hand():
    raw = torch.tensor([0.0, math.log(3), math.log(1 / 3), 0.0]).double()
    # Sigmoids 1/2, 3/4, 1/4, 1/2; the cell (2, 1) of stride 8 and an anchor of 16 x 24.
    box = decode(raw, torch.tensor([2.5, 1.5]).double(), torch.tensor([16.0, 24]).double(), 8)
    x, y, w, h = (2 * 0.5 - 0.5 + 2) * 8, (2 * 0.75 - 0.5 + 1) * 8, 0.5**2 * 16, 1.0 * 24
    assert box.tolist() == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def transport(boxes, scores, true_boxes, true_labels):
    """Owner and overlap by cell, of one image; padding of the objects and a second image without
    any change nothing."""
    logits = torch.tensor([scores, scores]).double().logit()
    sure = torch.full(logits.shape[:2], 30.0).double()
    some = {"boxes": torch.tensor(true_boxes).double(), "labels": torch.tensor(true_labels)}
    padded = pad_targets([some, {key: v[:0] for key, v in some.items()}], torch.float64, CPU)
    found = optimal_transport(
        logits, sure, torch.tensor([boxes, boxes]).double(), SIXTEEN, torch.full((4,), 16).double(),
        padded.boxes, padded.labels, padded.is_real(),
    )  # fmt: skip
    assert not found.is_positive[1].any()
    cells = found.is_positive[0].nonzero()[:, 0].tolist()
    return {i: (found.owner[0, i].item(), found.overlap[0, i].item()) for i in cells}


def test_simota_by_hand():
    """Overlaps 1, 1/2, 1/2 and 0 with one object add up to two cells; of the two with 1/2, the one
    that knows the class is cheaper."""
    boxes = [[0, 0, 32, 32], [0, 0, 16, 32], [0, 0, 32, 16], [40, 40, 50, 50]]
    found = transport(boxes, [[0.9], [0.3], [0.6], [0.9]], [[0, 0, 32, 32]], [0])
    assert found == {0: (0, pytest.approx(1.0)), 2: (0, pytest.approx(0.5))}


def test_simota_gives_a_contested_cell_to_the_cheaper_object():
    boxes = [[0, 0, 32, 32]] * 4
    scores = [[0.9, 0.2], [0.2, 0.9], [0.9, 0.2], [0.2, 0.9]]
    true_boxes = [[0, 0, 32, 32], [0, 0, 32, 31]]
    found = transport(boxes, scores, true_boxes, [0, 1])
    # Each object takes all four cells (overlaps of 1 and 31/32 add up to 4 and 3).
    assert {cell: owner for cell, (owner, _) in found.items()} == {0: 0, 1: 1, 2: 0, 3: 1}


def test_simota_far_from_all_points_is_background():
    found = transport([[0, 0, 4, 4]] * 4, [[0.5]] * 4, [[300, 300, 310, 310]], [0])
    assert not found


def test_simota_takes_the_first_of_cells_of_one_cost():
    halves = [[0, 0, 16, 32]] * 4
    assert list(transport(halves, [[0.5]] * 4, [[0, 0, 32, 32]], [0])) == [0, 1]


def test_places_are_those_of_nonzero():
    mask = torch.tensor([0, 1, 1, 0, 0, 1]).bool()
    for size in (3, 5, 6):
        places, is_place = places_of(mask, size)
        assert places[is_place].tolist() == [1, 2, 5]
        assert len(places) == size
    assert places.max() < len(mask)
