"""A compiled step computes what the plain one does."""

import copy

import pytest
import torch

from hvd_yolo.compiling import CompiledLosses
from hvd_yolo.config import load
from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model
from hvd_yolo.models.losses import own_losses
from hvd_yolo.targets import pad_targets

CPU = torch.device("cpu")


def targets_of(*counts):
    corners = torch.tensor([[4.0, 6.0, 40.0, 30.0], [20.0, 20.0, 60.0, 62.0], [1.0, 1.0, 9.0, 9.0]])
    targets = [
        {"boxes": corners[:count], "labels": torch.arange(count, dtype=torch.long)}
        for count in counts
    ]
    return pad_targets(targets, torch.float64, CPU)


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
