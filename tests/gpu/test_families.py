"""Every family on a GPU: the CPU's numbers in float64, and low precision where it is asked for."""

import copy

import pytest
import torch

from hvd_yolo.config import OptimConfig
from hvd_yolo.models import build_model
from hvd_yolo.models.losses import as_losses
from hvd_yolo.optim import build_optimizer
from hvd_yolo.precision import autocast

pytestmark = pytest.mark.gpu

NANO = ("yolov5n", "yolov5nu", "yolov8n", "yolov10n", "yolo11n", "yolox-nano")
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def batch(dtype, device):
    """Three images of 64 pixels: two objects, none, one."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 64, 64, generator=random, dtype=dtype)
    boxes = [[[4.0, 4.0, 30.0, 30.0], [20.0, 8.0, 60.0, 50.0]], [], [[10.0, 30.0, 34.0, 62.0]]]
    labels = [[1, 3], [], [0]]
    targets = [
        {"boxes": torch.tensor(b, dtype=dtype).view(-1, 4), "labels": torch.tensor(n).long()}
        for b, n in zip(boxes, labels, strict=True)
    ]
    targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
    return images.to(device), targets


def fresh(name, dtype):
    torch.manual_seed(0)
    return build_model(name, 6, conf=1e-5, iou=0.7, max_detections=300).to(dtype).train()


def step(model, device):
    """Loss terms, gradients and weights of one step, on the CPU."""
    dtype = next(model.parameters()).dtype
    model = copy.deepcopy(model).to(device)
    optimizer = build_optimizer(OptimConfig(name="sgd"), model)
    losses = as_losses(model(*batch(dtype, device)), 3)
    (losses.total() / losses.weight.clamp(min=1)).backward()
    # Before the step: foreach SGD writes into them.
    gradients = [p.grad.cpu().clone() for p in model.parameters() if p.grad is not None]
    optimizer.step()
    terms = {name: value.item() for name, value in losses.terms.items()}
    return terms, gradients, {name: value.cpu() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", NANO)
def test_a_step_in_float64_is_that_of_the_cpu(name, device):
    model = fresh(name, torch.float64)
    terms, gradients, weights = step(model, torch.device("cpu"))
    own_terms, own_gradients, own_weights = step(model, device)
    assert own_terms == pytest.approx(terms, rel=1e-12)
    assert all(value.device.type == "cpu" for value in own_weights.values())
    assert len(gradients) == len(own_gradients) > 50
    # Of gradients up to 1e3, sums of rounding errors.
    scale = max(float(gradient.abs().max()) for gradient in gradients)
    for ours, theirs in zip(own_gradients, gradients, strict=True):
        assert float((ours - theirs).abs().max()) < 1e-12 * max(1.0, scale)
    for key, value in weights.items():
        if value.is_floating_point():
            assert float((own_weights[key] - value).abs().max()) < 1e-12, key


@pytest.mark.parametrize("amp", LOW)
@pytest.mark.parametrize("name", NANO)
def test_features_have_the_dtype_of_amp(name, amp, device):
    model = fresh(name, torch.float32)
    seen = set()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda _, __, output: seen.add((output.dtype, output.device))
            )
    model = model.to(device)
    with autocast(amp, device):
        losses = as_losses(model(*batch(torch.float32, device)), 3)
    losses.total().backward()
    assert seen == {(LOW[amp], device)}
    assert losses.total().isfinite()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


@pytest.mark.parametrize("name", NANO)
def test_detections_are_those_of_the_cpu(name, device):
    model = fresh(name, torch.float64).eval()
    images, _ = batch(torch.float64, torch.device("cpu"))
    with torch.no_grad():
        expected = model(images)
        found = copy.deepcopy(model).to(device)(images.to(device))
    assert sum(len(one["boxes"]) for one in expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["boxes"].device.type == "cuda"
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(ours[key].cpu(), theirs[key], rtol=1e-10, atol=1e-10)
