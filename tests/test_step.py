"""An update that is left out changes nothing, without the host's knowledge."""

import copy

import pytest
import torch
from torch import nn

from hvd_yolo.config import OptimConfig
from hvd_yolo.divergence import FiniteBuffers
from hvd_yolo.optim import build_optimizer, match_layout, scale_and_clip

OPTIMIZERS = pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "lamb"])


def small_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    return model.double()


def step(optimizer, model, gradient, found_inf):
    for p in model.parameters():
        p.grad = torch.full_like(p, gradient)
    optimizer.found_inf, optimizer.grad_scale = torch.tensor(found_inf), None
    optimizer.step()


@OPTIMIZERS
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_left_out_leaves_no_trace(name, bad):
    """Also the first one, as with fp16, whose first scale is too large."""
    model = small_model()
    other = copy.deepcopy(model)
    optimizer = build_optimizer(OptimConfig(name=name, lr=0.1), model)
    reference = build_optimizer(OptimConfig(name=name, lr=0.1), other)
    for gradient in (bad, 0.5, bad, bad, -0.25):
        is_bad = gradient is bad
        step(optimizer, model, gradient, float(is_bad))
        if not is_bad:
            step(reference, other, gradient, 0.0)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        for key, value in reference.state[q].items():
            assert torch.equal(optimizer.state[p][key], value)


@OPTIMIZERS
def test_momenta_of_another_layout_are_those_of_the_weights(name):
    """A fused optimizer goes through the memory of both: reference, the layout they agree in."""
    model, other = small_model(), small_model().to(memory_format=torch.channels_last)
    optimizers = [build_optimizer(OptimConfig(name=name, lr=0.1), one) for one in (model, other)]
    for _ in range(3):
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn(p.shape, dtype=torch.float64)
            q.grad = torch.empty_like(q).copy_(p.grad)
        for optimizer in optimizers:
            optimizer.step()
        optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
        match_layout(optimizers[1])
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("clip_norm", [0.0, 0.5, 1000.0])
def test_gradients_are_scaled_and_then_clipped(clip_norm):
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (3, 7)]
    for p in params:
        p.grad = torch.randn(p.shape, dtype=torch.float64, generator=generator)
    expected = [nn.Parameter(p.detach().clone()) for p in params]
    for p, q in zip(params, expected, strict=True):
        q.grad = p.grad * 3.0
    norm = nn.utils.clip_grad_norm_(expected, clip_norm or float("inf"))
    factor = torch.tensor(3.0, dtype=torch.float64)
    assert torch.allclose(scale_and_clip([p.grad for p in params], factor, clip_norm), norm)
    for p, q in zip(params, expected, strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=0, atol=1e-12)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


def test_statistics_that_are_no_numbers_become_the_last_ones_that_were():
    model = nn.Sequential(nn.BatchNorm2d(2), Masked())
    buffers = FiniteBuffers(model)
    x = torch.randn(4, 2, 3, 3)
    buffers.remember()
    model[0](x)
    buffers.restore()
    before = [buffer.clone() for buffer in model.buffers()]
    assert not torch.equal(before[0], torch.zeros(2))
    x[:, 1] = torch.nan
    buffers.remember()
    model[0](x)
    learnt = model[0].running_mean[0].clone()
    buffers.restore()
    assert model[0].running_mean.tolist() == [learnt.item(), before[0][1].item()]
    assert model[0].running_var[1] == before[1][1]
    assert model[1].mask.tolist() == [0.0, -torch.inf]
