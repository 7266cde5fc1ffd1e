"""A compiled step computes what the plain one does."""

import copy

import pytest
import torch

from hvd_yolo import compiling
from hvd_yolo.compiling import CompiledLosses
from hvd_yolo.config import load
from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model
from hvd_yolo.models.losses import losses_of_tensors, own_losses
from hvd_yolo.targets import pad_targets
from tests.models.drawn import TARGETS, learned, predictions

CPU = torch.device("cpu")


def targets_of(*counts):
    corners = torch.tensor([[4.0, 6.0, 40.0, 30.0], [20.0, 20.0, 60.0, 62.0], [1.0, 1.0, 9.0, 9.0]])
    targets = [
        {"boxes": corners[:count], "labels": torch.arange(count, dtype=torch.long)}
        for count in counts
    ]
    return pad_targets(targets, torch.float64, CPU)


@pytest.mark.parametrize("head", ["distances", "cells"])
def test_losses_without_the_network_are_those_of_plain_arithmetic(head):
    """What torch's compiler made of the assignments' tables had a weight of 0.0003 for 0.51."""
    padded = pad_targets(TARGETS["few"], torch.float64, CPU)
    compiled = torch.compile(losses_of_tensors, fullgraph=True, dynamic=False)
    results = []
    for function in (losses_of_tensors, compiled):
        made, prediction = predictions()[head]
        parts = learned(prediction)
        losses = function(
            lambda model, prediction, targets: model.losses(prediction, targets),
            made, prediction, padded.boxes, padded.labels, padded.counts,
        )  # fmt: skip
        losses.total().backward()
        results.append([*losses.terms.values(), losses.weight, *(part.grad for part in parts)])
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_batches_of_too_many_shapes_are_computed_without_compilation(monkeypatch, caplog):
    monkeypatch.setattr(compiling, "MAX_SHAPES", 0)
    model = build_model("yolov8n", 3).double().train()
    # It sets torch's own limits.
    with torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        compiled = CompiledLosses(own_losses)
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    state = copy.deepcopy(model.state_dict())
    losses = compiled(model, images, targets_of(3, 1))
    compiled(model, images, targets_of(3, 1))
    model.load_state_dict(state)
    expected = own_losses(model, images, targets_of(3, 1))
    assert torch.equal(losses.total(), expected.total())
    assert len([r for r in caplog.records if "without compilation" in r.message]) == 1


@pytest.mark.long
def test_losses_gradients_and_statistics_are_those_of_the_plain_model():
    """To 1e-10 of the largest: a compiler may add up in another order."""
    torch.manual_seed(0)
    plain = build_model("yolov8n", 3).double().train()
    model = copy.deepcopy(plain)
    compiled = CompiledLosses(own_losses)
    for counts in ((3, 1), (0, 2)):
        images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
        expected = own_losses(plain, images, targets_of(*counts))
        losses = compiled(model, images, targets_of(*counts))
        expected.total().backward()
        losses.total().backward()
        assert losses.terms.keys() == expected.terms.keys()
        for name, value in expected.terms.items():
            assert torch.allclose(losses.terms[name], value, rtol=1e-10, atol=1e-10)
        assert torch.allclose(losses.weight, expected.weight, rtol=1e-10)
    largest = max(p.grad.abs().max() for p in plain.parameters())
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=0, atol=1e-10 * float(largest))
    assert model.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.allclose(model.state_dict()[name], value, rtol=1e-10), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "torchvision:fcos_resnet50_fpn"), "is no built-in model"),
        (("--train.sync_bn", "true"), "train.compile does not go with train.sync_bn"),
    ],
)
def test_what_does_not_go_with_it_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        load(["--train.compile", "true", *options])
