import math

import numpy as np
import torch
from pycocotools import mask

from hvd_yolo import boxes as box_ops


def random_boxes(count, seed, scale=100.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * scale
    sides = torch.rand(count, 2, generator=generator, dtype=torch.float64) * scale / 2 + 1
    return torch.cat((corner, corner + sides), dim=1)


def test_pairwise_iou_agrees_with_pycocotools():
    a, b = random_boxes(40, 0), random_boxes(30, 1)
    as_xywh = [
        np.concatenate((x[:, :2], x[:, 2:] - x[:, :2]), axis=1) for x in (a.numpy(), b.numpy())
    ]
    reference = mask.iou(as_xywh[0], as_xywh[1], np.zeros(30, dtype=np.uint8))
    assert np.abs(box_ops.pairwise_iou(a, b).numpy() - reference).max() < 1e-12


def test_pairwise_iou_of_boxes_without_area_is_zero():
    empty = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert box_ops.pairwise_iou(empty, empty).item() == 0


def test_complete_iou_by_hand():
    # Two 2x2 squares, one shifted by 1 along x: IoU 2/6; centres 1 apart, hull 3x2; equal aspect
    # ratios.
    a, b = torch.tensor([0.0, 0, 2, 2]).double(), torch.tensor([1.0, 0, 3, 2]).double()
    assert math.isclose(box_ops.complete_iou(a, b).item(), 2 / 6 - 1 / 13, abs_tol=1e-6)
    # A 1x1 in the middle of a 3x1: IoU 1/3, same centre, so only the aspect ratios count.
    a, b = torch.tensor([1.0, 0, 2, 1]).double(), torch.tensor([0.0, 0, 3, 1]).double()
    v = 4 / math.pi**2 * (math.atan(3) - math.atan(1)) ** 2
    expected = 1 / 3 - v * v / (v - 1 / 3 + 1)
    assert math.isclose(box_ops.complete_iou(a, b).item(), expected, abs_tol=1e-6)


def test_complete_iou_pulls_disjoint_boxes_together():
    a = torch.tensor([0.0, 0, 2, 2]).double().requires_grad_()
    box_ops.complete_iou(a, torch.tensor([5.0, 0, 7, 2]).double()).backward()
    # Moving the whole box to the right, towards the other, raises the score.
    assert a.grad[0] + a.grad[2] > 0


def greedy_nms(boxes, scores, labels, threshold):
    order = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    iou = box_ops.pairwise_iou(boxes, boxes)
    kept = []
    for i in order:
        if all(labels[i] != labels[j] or iou[i, j] <= threshold for j in kept):
            kept.append(i)
    return kept


def test_nms_is_the_greedy_one():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        boxes = random_boxes(150, seed, scale=60.0)
        # Few distinct scores, so that ties are common.
        scores = torch.randint(0, 40, (150,), generator=generator) / 40.0
        labels = torch.randint(0, 3, (150,), generator=generator)
        found = box_ops.nms(boxes, scores, labels, 0.5, 1000).tolist()
        assert found == greedy_nms(boxes, scores, labels, 0.5)


def test_nms_of_nothing_and_of_a_limit():
    none = box_ops.nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 0.5, 10)
    assert none.tolist() == []
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]])
    kept = box_ops.nms(boxes, torch.tensor([0.1, 0.9, 0.5]), torch.zeros(3), 0.5, 2)
    assert kept.tolist() == [1, 2]


def test_a_long_chain_of_suppressions_takes_as_many_rounds():
    """Each box overlaps its neighbors alone: every second one is kept, which takes a round each."""
    corners = torch.arange(20.0)[:, None] * torch.tensor([4.0, 0.0])
    boxes = torch.cat((corners, corners + 10), dim=1)[None]
    labels, is_real = torch.zeros(1, 20), torch.ones(1, 20, dtype=torch.bool)
    early, is_final = box_ops.greedy_survivors(boxes, labels, is_real, 0.4, 5, may_wait=False)
    assert not is_final
    kept, is_final = box_ops.greedy_survivors(boxes, labels, is_real, 0.4, 5)
    assert is_final
    assert kept[0].nonzero().flatten().tolist() == list(range(0, 20, 2))
    assert not torch.equal(early, kept)
