"""Candidates and suppression of a batch at once, against plain loops over sorted pairs."""

import pytest
import torch

from hvd_yolo.models import selection
from tests.test_boxes import greedy_nms, random_boxes


def sorted_pairs(scores, conf, count):
    """Of an image, scores (A, K): the (point, class) pairs above conf among the best `count`."""
    flat = scores.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:count]
    return [divmod(i, scores.shape[1]) for i in order if flat[i] > conf]


def random_points(num_images, num_points, num_classes, seed, steps):
    """Boxes (B, A, 4) and scores (B, A, K) of few distinct values, so that ties are common; the
    last image has none."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.stack([random_boxes(num_points, seed + i) for i in range(num_images)])
    scores = torch.randint(0, steps, (num_images, num_points, num_classes), generator=generator)
    scores = scores.double() / steps
    scores[-1] = 0.0
    return boxes, scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("num_points", "num_classes"), [(1500, 1), (60, 80), (40, 3)])
def test_candidates_are_the_first_of_all_pairs_in_stable_order(num_points, num_classes, dtype):
    boxes, scores = random_points(3, num_points, num_classes, 5, 30)
    scores = scores.to(dtype)
    found = selection.best(boxes, scores, 0.12, 1000)
    for one, of_image, image_boxes in zip(found, scores, boxes, strict=True):
        pairs = sorted_pairs(of_image, 0.12, 1000)
        assert one["labels"].tolist() == [label for _, label in pairs]
        assert torch.equal(one["boxes"], image_boxes[[point for point, _ in pairs]])
        assert one["scores"].tolist() == [float(of_image[pair]) for pair in pairs]
    assert len(found[0]["scores"]) > 1
    assert len(found[2]["scores"]) == 0


def test_suppression_of_a_batch_is_greedy_in_each_image():
    boxes, scores = random_points(4, 150, 3, 1, 40)
    found = selection.suppress(boxes, scores, 0.3, 0.5, 25)
    for one, of_image, image_boxes in zip(found, scores, boxes, strict=True):
        pairs = sorted_pairs(of_image, 0.3, 1000)
        candidates = image_boxes[[point for point, _ in pairs]]
        labels = [label for _, label in pairs]
        kept = greedy_nms(candidates, [float(of_image[pair]) for pair in pairs], labels, 0.5)[:25]
        assert torch.equal(one["boxes"], candidates[kept])
        assert one["labels"].tolist() == [labels[i] for i in kept]


def test_detections_of_a_foreign_detector_become_one_table():
    detections = [
        {"boxes": torch.rand(n, 4), "scores": torch.rand(n), "labels": torch.arange(n)}
        for n in (2, 0, 3)
    ]
    padded = selection.pad_detections(detections)
    for one, rows in zip(detections, padded.on_host(), strict=True):
        assert torch.equal(torch.from_numpy(rows[:, :4]), one["boxes"])
        assert rows[:, 5].tolist() == one["labels"].tolist()
        assert torch.equal(torch.from_numpy(rows[:, 4]), one["scores"])
