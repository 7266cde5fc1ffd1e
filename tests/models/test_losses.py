"""Losses of a whole batch at once: as image by image, in little memory, in one graph."""

import json

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hvd_yolo import boxes as box_ops
from hvd_yolo.models.assigners import tables, task_aligned
from hvd_yolo.models.losses import losses_of_tensors
from hvd_yolo.targets import PaddedTargets, pad_targets
from tests.models.drawn import TARGETS, boxes_of, crowd, learned, predictions
from tests.models.make_losses_reference import FILE, figures

HEADS = list(predictions())
CPU = torch.device("cpu")


@pytest.mark.parametrize("case", TARGETS)
@pytest.mark.parametrize("name", HEADS)
def test_losses_and_gradients_are_those_of_single_images_and_masks(name, case):
    expected = json.loads(FILE.read_text())[name][case]
    for targets in (TARGETS[case], pad_targets(TARGETS[case], torch.float64, CPU)):
        found = figures(*predictions()[name], targets)
        assert found.keys() == expected.keys()
        for key, values in found.items():
            assert values == pytest.approx(expected[key], rel=1e-12, abs=1e-12), key


@pytest.mark.parametrize("name", HEADS)
def test_chunks_change_nothing(name, monkeypatch):
    whole = figures(*predictions()[name], TARGETS["few"])
    monkeypatch.setattr(tables, "_MAX_ELEMENTS", 1)
    assert figures(*predictions()[name], TARGETS["few"]) == whole


@pytest.mark.parametrize("name", HEADS)
def test_a_box_of_no_object_may_be_infinite(name):
    """As float16 gives them. The only object is far from the first cell, which is among the rows
    that stand for no object in tensors of fixed sizes."""
    head, prediction = predictions(1)[name]
    parts = learned(prediction)
    with torch.no_grad():
        if name == "anchors":
            prediction.levels[0][0, :, 0, 0, :4] = float("nan")
        else:
            boxes = parts if name == "cells" else parts[::2]
            boxes[0][0, 0] = float("inf")
    losses = head.losses(prediction, [boxes_of((40, 40, 60, 60, 1))])
    losses.total().backward()
    assert losses.terms["cls"] > 0
    assert losses.total().isfinite()
    assert all(part.grad.isfinite().all() for part in parts)


def test_tables_are_those_of_the_formulas():
    true_boxes = torch.stack((crowd("t", 7)["boxes"], crowd("u", 7)["boxes"]))
    boxes = torch.stack((crowd("v", 9)["boxes"], crowd("w", 9)["boxes"]))
    for table, formula in (
        (tables.complete_overlaps, lambda a, b: box_ops.complete_iou(a[:, :, None], b[:, None])),
        (tables.overlaps, box_ops.pairwise_iou),
    ):
        out, *spare = torch.empty(4, 2, 7, 9, dtype=torch.float64)
        found = table(true_boxes, boxes, out, spare)
        torch.testing.assert_close(found, formula(true_boxes, boxes), rtol=1e-13, atol=1e-13)


class _Allocations(TorchDispatchMode):
    """Bytes of all tensors made inside, and of the largest."""

    def __init__(self):
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {_memory(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and _memory(x) not in known:
                size = x.numel() * x.element_size()
                self.total, self.largest = self.total + size, max(self.largest, size)
        return result


def _memory(x):
    return x.untyped_storage()._cdata


def test_assignment_of_dense_images_takes_a_fraction_of_the_tables():
    """64 images of 250 objects at 640 pixels, without values. Whole tables, one for each step
    of the formula, took 264 bytes an element of (B, M, A), and 16 in one tensor."""
    shape, num_classes = (64, 250, 8400), 80
    with torch.device("meta"):
        arguments = (
            torch.empty(64, 8400, num_classes), torch.empty(64, 8400, 4), torch.empty(8400, 2),
            torch.empty(64, 250, 4), torch.empty(64, 250).long(), torch.empty(64, 250).bool(),
        )  # fmt: skip
    with _Allocations() as counted:
        found = task_aligned(*arguments)
    assert found.quality.shape == (64, 8400)
    elements = torch.Size(shape).numel()
    assert counted.total < 264 / 8 * elements
    assert counted.largest < 16 / 8 * elements


@pytest.mark.parametrize("name", HEADS)
def test_losses_are_one_graph_for_all_batches_of_a_shape(name):
    head, _ = predictions()[name]
    compiled = torch.compile(losses_of_tensors, backend="eager", fullgraph=True, dynamic=False)

    def losses_of(head, prediction, targets):
        return head.losses(prediction, targets)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for case in ("none", "outside"):
        padded = pad_targets(TARGETS[case], torch.float64, CPU)
        gradients = []
        for function in (losses_of_tensors, compiled):
            prediction = predictions()[name][1]
            parts = learned(prediction)
            losses = function(
                losses_of, head, prediction, padded.boxes, padded.labels, padded.counts
            )
            losses.total().backward()
            gradients.append([losses.total().detach(), *(part.grad for part in parts)])
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_padded_targets_of_any_length_give_the_same():
    targets = TARGETS["few"]
    padded = pad_targets(targets, torch.float64, CPU)
    longer = PaddedTargets(
        torch.nn.functional.pad(padded.boxes, (0, 0, 0, 24)),
        torch.nn.functional.pad(padded.labels, (0, 24)), padded.counts, padded.num_objects,
    )  # fmt: skip
    for name in HEADS:
        found = [figures(*predictions()[name], given) for given in (padded, longer)]
        for key, values in found[0].items():
            assert found[1][key] == pytest.approx(values, rel=1e-12, abs=1e-12), (name, key)
