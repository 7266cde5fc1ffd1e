import math

import pytest
import torch
from torch import nn

from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model
from hvd_yolo.models.assigners import task_aligned
from hvd_yolo.models.distances import DISTANCE_BINS, Prediction, distance_loss
from hvd_yolo.models.heads import DetectHead
from hvd_yolo.models.losses import Losses, aligned_losses, as_losses


def target(*rows):
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
    return {"boxes": table[:, :4], "labels": table[:, 4].long()}


def small_batch():
    torch.manual_seed(0)
    images = torch.rand(3, 3, 64, 64, dtype=torch.float64)
    targets = [
        target((4, 4, 40, 50, 1), (20, 10, 60, 60, 0)),
        target(),
        target((8, 30, 30, 62, 2)),
    ]
    return images, targets


def small_model():
    torch.manual_seed(1)
    return build_model("yolov8n", 3).double().train()


def test_biases_start_from_few_objects():
    model = build_model("yolov8n", 20)
    for tower, stride in zip(model.head.class_towers, (8, 16, 32), strict=True):
        expected = math.log(5 / 20 / (640 / stride) ** 2)
        assert torch.allclose(tower[-1].bias, torch.tensor(expected))


def prediction_of(sides, logits, points, stride=8.0):
    """A prediction whose distributions put all their mass on whole distances `sides` (A, 4)."""
    distances = torch.full((1, len(sides), 4, DISTANCE_BINS), -50.0)
    distances.scatter_(3, sides.long()[None, ..., None], 50.0)
    strides = torch.full((len(sides),), stride)
    return Prediction(distances, logits[None], points, strides)


def test_boxes_are_decoded_as_distances_from_the_point():
    sides = torch.tensor([[1.0, 2, 3, 4]])
    prediction = prediction_of(sides, torch.tensor([[5.0, -5]]), torch.tensor([[4.5, 4.5]]))
    boxes = [(4.5 - 1) * 8, (4.5 - 2) * 8, (4.5 + 3) * 8, (4.5 + 4) * 8]
    assert torch.allclose(prediction.boxes()[0, 0], torch.tensor(boxes))
    head = DetectHead(2, [16], [8])
    found = head.select(prediction, conf=0.5, iou=0.7, max_detections=10)[0]
    assert torch.allclose(found["boxes"], torch.tensor([boxes]))
    assert found["labels"].tolist() == [0]
    assert torch.allclose(found["scores"], torch.sigmoid(torch.tensor([5.0])))


def test_distance_loss_by_hand():
    logits = torch.zeros(1, 4, DISTANCE_BINS)
    # Uniform: every bin has probability 1/16, whatever the target.
    assert torch.allclose(distance_loss(logits, torch.full((1, 4), 2.3)), torch.tensor(16.0).log())
    # All mass on bins 2 and 3 in the ratio of the target gives the entropy of that ratio.
    logits = torch.full((1, 4, DISTANCE_BINS), -60.0)
    logits[..., 2], logits[..., 3] = math.log(0.7), math.log(0.3)
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    found = distance_loss(logits, torch.full((1, 4), 2.3))
    assert found.item() == pytest.approx(entropy, abs=1e-5)


def test_assignment_by_hand():
    """Four points, one object over the first three; alignment is score^0.5 * IoU^6."""
    points = torch.tensor([[4.0, 4], [12, 4], [20, 4], [40, 40]]).double()
    true_boxes = torch.tensor([[[0.0, 0, 24, 8]]]).double()
    boxes = torch.tensor(
        [[[0.0, 0, 24, 8], [0, 0, 12, 8], [50, 50, 60, 60], [0, 0, 24, 8]]]
    ).double()
    scores = torch.tensor([[[0.25, 0.1], [0.81, 0.1], [0.9, 0.1], [0.9, 0.9]]]).double()
    found = task_aligned(
        scores, boxes, points, true_boxes, torch.tensor([[0]]), torch.tensor([[True]])
    )
    # The third overlaps nothing, the fourth lies outside, though its box and score are perfect.
    assert found.is_positive.tolist() == [[True, True, False, False]]
    # CIoU of the second: IoU 1/2, centres 6 apart on a hull of 24 x 8, aspect ratios 3 and 1.5.
    v = 4 / math.pi**2 * (math.atan(3) - math.atan(1.5)) ** 2
    ciou = 0.5 - 36 / (24**2 + 8**2) - v * v / (v - 0.5 + 1)
    alignments = [0.25**0.5, 0.81**0.5 * ciou**6]
    assert found.scores(2)[0, 0, 0].item() == pytest.approx(1.0, abs=1e-6)
    assert found.scores(2)[0, 1, 0].item() == pytest.approx(alignments[1] / alignments[0], rel=1e-4)
    assert found.scores(2)[0, :, 1].sum() == 0
    assert found.boxes[0, 1].tolist() == [0, 0, 24, 8]


def test_a_point_claimed_twice_goes_to_the_larger_overlap():
    points = torch.tensor([[10.0, 10]]).double()
    true_boxes = torch.tensor([[[0.0, 0, 20, 20], [0, 0, 40, 40]]]).double()
    boxes = torch.tensor([[[0.0, 0, 38, 38]]]).double()
    scores = torch.tensor([[[0.9, 0.1]]]).double()
    found = task_aligned(
        scores, boxes, points, true_boxes, torch.tensor([[0, 1]]), torch.ones(1, 2).bool()
    )
    assert found.boxes[0, 0].tolist() == [0, 0, 40, 40]
    assert found.scores(2)[0, 0].argmax() == 1


def test_an_object_that_no_box_overlaps_well_has_a_target():
    """IoU 0.01: its sixth power is far below 1e-9, and the target is that overlap all the same."""
    points = torch.tensor([[20.0, 20]])
    found = task_aligned(
        torch.tensor([[[0.01]]]), torch.tensor([[[0.0, 0, 40, 40]]]), points,
        torch.tensor([[[18.0, 18, 22, 22]]]), torch.tensor([[0]]), torch.tensor([[True]]),
    )  # fmt: skip
    assert found.is_positive.all()
    assert found.scores(1).item() == pytest.approx(16 / 1600, rel=1e-4)


def test_padding_of_objects_changes_nothing():
    images, targets = small_batch()
    model = small_model()
    prediction = model.predict(images)
    alone = aligned_losses(
        Prediction(*[t[:1] if t.ndim > 2 else t for t in prediction]), targets[:1]
    )
    padded_target = target((4, 4, 40, 50, 1), (20, 10, 60, 60, 0))
    pair = Prediction(*[torch.cat((t[:1], t[1:2])) if t.ndim > 2 else t for t in prediction])
    crowded = target(*[(1, 1, 5 + i, 6 + i, 0) for i in range(9)])
    both = aligned_losses(pair, [padded_target, crowded])
    other = aligned_losses(
        Prediction(*[t[1:2] if t.ndim > 2 else t for t in prediction]), [crowded]
    )
    for name in alone.terms:
        summed = alone.terms[name] + other.terms[name]
        assert torch.allclose(both.terms[name], summed, rtol=1e-12)


def test_a_plain_dict_of_means_becomes_sums():
    losses = as_losses({"a": torch.tensor(2.0), "b": torch.tensor(0.5)}, 4)
    assert (losses.terms["a"], losses.terms["b"], losses.weight) == (8.0, 2.0, 4.0)
    assert losses.total() == 10.0
    kept = Losses({"a": torch.tensor(1.0)}, torch.tensor(3.0))
    assert as_losses(kept, 4) is kept


def tiny_builder(num_classes):
    return nn.Conv2d(3, num_classes, 1)


def test_models_come_by_name_or_path():
    assert build_model("tests.models.test_yolov8:tiny_builder", 5).out_channels == 5
    for name in ("yolov9000", "no.such.module:build", "math:no_such_function"):
        with pytest.raises(InputError, match=name.split(":")[0]):
            build_model(name)
