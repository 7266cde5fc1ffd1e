"""LARS and LAMB against numbers worked out by hand and against the papers' algorithms, written down
tensor by tensor with numpy."""

import io
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from hvd_yolo.config import OptimConfig
from hvd_yolo.large_batch import LAMB, LARS
from hvd_yolo.optim import build_optimizer
from tests.conftest import train

SHAPES = [(4, 3, 3, 3), (4,), (5, 4), (2, 1)]


def parameter(*values):
    """One row of weights."""
    return nn.Parameter(torch.tensor([values], dtype=torch.float64))


def step(optimizer, p, *gradient):
    p.grad = torch.tensor([gradient], dtype=torch.float64)
    optimizer.step()
    return p[0].tolist()


def test_lars_by_hand():
    """|w| = 5 and |g| = 1, then |w| = 4.975; the rate of the second step is another."""
    p = parameter(3.0, 4.0)
    lars = LARS([p], lr=0.5, momentum=0.9, weight_decay=0.1, trust_coefficient=0.01)
    assert step(lars, p, 0.6, 0.8) == pytest.approx([2.985, 3.98], abs=1e-14)
    lars.param_groups[0]["lr"] = 1.0
    v = [0.0135 + 0.02985, 0.018 + 0.0398]
    assert step(lars, p, 0.6, 0.8) == pytest.approx([2.985 - v[0], 3.98 - v[1]], abs=1e-14)


def test_lamb_by_hand():
    """Under a constant gradient of ones, and eps 1, Adam's direction is a half everywhere."""
    p = parameter(3.0, 4.0)
    lamb = LAMB([p], lr=0.1, eps=1.0, weight_decay=0.1)
    ratio = 5 / math.hypot(0.8, 0.9)
    first = [3 - 0.1 * ratio * 0.8, 4 - 0.1 * ratio * 0.9]
    assert step(lamb, p, 1.0, 1.0) == pytest.approx(first, abs=1e-14)
    direction = [0.5 + 0.1 * w for w in first]
    ratio = math.hypot(*first) / math.hypot(*direction)
    second = [w - 0.1 * ratio * d for w, d in zip(first, direction, strict=True)]
    assert step(lamb, p, 1.0, 1.0) == pytest.approx(second, abs=1e-14)


def lars_of_the_paper(w, gradients, rates, decay, is_scaled):
    """Algorithm 1 of arXiv 1708.03888, momentum 0.9, eta 0.02."""
    v = np.zeros_like(w)
    for g, rate in zip(gradients, rates, strict=True):
        norm = np.sqrt((w**2).sum())
        local = 0.02 * norm / (np.sqrt((g**2).sum()) + decay * norm) if is_scaled else 1.0
        v = 0.9 * v + rate * local * (g + decay * w)
        w = w - v
    return w


def lamb_of_the_paper(w, gradients, rates, decay, is_scaled):
    """Algorithm 2 of arXiv 1904.00962, betas 0.8 and 0.99, epsilon 1e-6, phi the identity."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = 0.8 * m + 0.2 * g
        v = 0.99 * v + 0.01 * g**2
        r = m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-6)
        u = r + decay * w
        local = np.sqrt((w**2).sum()) / np.sqrt((u**2).sum()) if is_scaled else 1.0
        w = w - rate * local * u
    return w


@pytest.mark.parametrize(
    ("kind", "settings", "reference"),
    [
        (LARS, {"trust_coefficient": 0.02}, lars_of_the_paper),
        (LAMB, {"betas": (0.8, 0.99)}, lamb_of_the_paper),
    ],
)
def test_five_steps_are_those_of_the_paper(kind, settings, reference):
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in SHAPES]
    gradients = [[rng.normal(size=shape) for _ in range(5)] for shape in SHAPES]
    params = [nn.Parameter(torch.from_numpy(w.copy())) for w in weights]
    matrices = [p for p in params if p.ndim > 1]
    vectors = [p for p in params if p.ndim == 1]
    optimizer = kind(
        [
            {"params": matrices, "weight_decay": 0.05},
            {"params": vectors, "weight_decay": 0.0, "layer_wise": False},
        ],
        **settings,
    )
    rates = [0.1, 0.3, 0.5, 0.2, 0.1]
    for i, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for p, values in zip(params, gradients, strict=True):
            p.grad = torch.from_numpy(values[i].copy())
        optimizer.step()
    for p, w, values in zip(params, weights, gradients, strict=True):
        is_matrix = w.ndim > 1
        expected = reference(w, values, rates, 0.05 * is_matrix, is_matrix)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [LARS, LAMB])
def test_zero_weights_or_a_zero_gradient_have_ratio_1(kind):
    """A layer that starts from zero gets away from it; one that no image reaches only decays."""
    zero, unreached = parameter(0.0, 0.0), parameter(3.0, 4.0)
    optimizer = kind([zero, unreached], lr=0.1, weight_decay=0.5)
    unreached.grad = torch.zeros_like(unreached)
    moved = [-0.2, -0.1] if kind is LARS else [-0.1, -0.1]
    assert step(optimizer, zero, 2.0, 1.0) == pytest.approx(moved, rel=2e-6)
    assert unreached[0].tolist() == pytest.approx([3 - 0.1 * 0.5 * 3, 4 - 0.1 * 0.5 * 4])


@pytest.mark.parametrize("kind", [LARS, LAMB])
def test_what_has_no_gradient_stays(kind):
    with_one, without = parameter(3.0, 4.0), parameter(3.0, 4.0)
    optimizer = kind([{"params": [with_one, without]}, {"params": [parameter(1.0)]}], lr=0.1)
    assert step(optimizer, with_one, 1.0, 1.0) != [3.0, 4.0]
    assert without[0].tolist() == [3.0, 4.0]
    assert without not in optimizer.state


@pytest.mark.parametrize("kind", [LARS, LAMB])
def test_a_saved_optimizer_goes_on_bit_for_bit(kind):
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(6, 4, 3, 3, 3, generator=generator)
    start = torch.randn(4, 3, 3, 3, generator=generator)

    def go_on(p, optimizer, some):
        for gradient in some:
            p.grad = gradient.clone()
            optimizer.step()

    undisturbed = nn.Parameter(start.clone())
    go_on(undisturbed, kind([undisturbed], lr=0.1, weight_decay=0.01), gradients)
    p = nn.Parameter(start.clone())
    first = kind([p], lr=0.1, weight_decay=0.01)
    go_on(p, first, gradients[:3])
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    second = kind([p])
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    go_on(p, second, gradients[3:])
    assert torch.equal(p, undisturbed)


def test_built_with_the_options_biases_and_norms_left_out():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    lars = build_optimizer(OptimConfig(name="lars", lr=2.0, trust_coefficient=0.02), model)
    lamb = build_optimizer(OptimConfig(name="lamb", momentum=0.8, lamb_eps=1e-5), model)
    for optimizer, kind in ((lars, LARS), (lamb, LAMB)):
        assert type(optimizer) is kind
        kernels, rest = optimizer.param_groups
        assert [p.ndim for p in kernels["params"]] == [4]
        assert (kernels["layer_wise"], kernels["weight_decay"]) == (True, 0.0005)
        assert (rest["layer_wise"], rest["weight_decay"]) == (False, 0.0)
    assert lars.param_groups[0]["trust_coefficient"] == 0.02
    assert (lars.param_groups[0]["lr"], lars.param_groups[0]["momentum"]) == (2.0, 0.9)
    assert (lamb.param_groups[0]["betas"], lamb.param_groups[0]["eps"]) == ((0.8, 0.999), 1e-5)


@pytest.mark.parametrize(("name", "rate"), [("lars", "2"), ("lamb", "0.03")])
def test_the_drawn_shapes_are_learnt(tmp_path, name, rate):
    train(
        1, tmp_path, "--data", "shapes:16", "--imgsz", "64", "--batch_size", "8", "--epochs", "12",
        "--augment.mosaic", "0", "--optim.warmup_epochs", "1", "--eval.every", "0",
        "--report.every", "4", "--optim.name", name, "--optim.lr", rate,
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 6
    assert losses[-1] < 0.75 * losses[0], losses
