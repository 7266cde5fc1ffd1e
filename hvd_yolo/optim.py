"""Optimizers, clipping, and the learning rate as a function of progress."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hvd_yolo.config import OptimConfig
from hvd_yolo.large_batch import LAMB, LARS


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that optim.name asks for, SGD with Nesterov momentum; biases and normalisation
    layers do not decay, and LARS and LAMB do not scale their steps.

    Each is fused: where its attribute found_inf, a tensor, is 1, a step changes nothing, and the
    host need not know of it.
    """
    groups = parameter_groups(model, config.weight_decay)
    betas = (config.momentum, 0.999)
    if config.name == "sgd":
        sgd = torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True
        )
        if config.momentum > 0:
            # By itself it would begin with uninitialized memory if the first step is left out.
            for p in model.parameters():
                if p.requires_grad:
                    sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return sgd
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)
    groups[1]["layer_wise"] = False
    if config.name == "lars":
        return LARS(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            trust_coefficient=config.trust_coefficient,
        )
    return LAMB(groups, lr=config.lr, betas=betas, eps=config.lamb_eps)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: kernels and matrices, which decay, and everything of one dimension, which does
    not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Puts restored momenta into the layout of their weights: the same numbers, but fused
    optimizers go through the memory of both."""
    for p, state in optimizer.state.items():
        for name, value in state.items():
            is_like = isinstance(value, Tensor) and value.shape == p.shape
            if is_like and value.stride() != p.stride():
                state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)


def scale_and_clip(gradients: Sequence[Tensor], factor: Tensor, clip_norm: float) -> Tensor:
    """Multiplies the gradients by `factor`, a scalar above 0, and clips their norm to `clip_norm`
    unless that is 0; returns the norm between the two. They have one dtype and lie on one
    device."""
    norms = torch._foreach_norm(gradients)
    # In their dtype: with a scalar of another one torch multiplies them one by one.
    factor = factor.to(norms[0].dtype)
    norm = torch.linalg.vector_norm(torch.stack(norms)) * factor
    if clip_norm:
        # As torch.nn.utils.clip_grad_norm_, with its epsilon.
        factor = factor * (clip_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)
    return norm


def scaled_rate(lr: float, rule: str, multiple: int) -> float:
    """The peak rate for updates of `multiple` batches (ranks x accumulated passes) by an
    optim.lr_scaling rule."""
    return lr * {"linear": float(multiple), "sqrt": math.sqrt(multiple), "none": 1.0}[rule]


@dataclass(frozen=True)
class RateSchedule:
    """The learning rate over `epochs`: from `start` up to `peak` in `warmup_epochs`, then down to
    final * peak."""

    start: float
    peak: float
    epochs: float
    warmup_epochs: float
    shape: str
    final: float

    def at(self, epoch: float) -> float:
        """The rate after so many epochs, a real number."""
        progress = min(epoch / self.epochs, 1.0)
        if self.shape == "cosine":
            decay = self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
        elif self.shape == "linear":
            decay = 1 - (1 - self.final) * progress
        else:
            decay = 1.0
        rate = self.peak * decay
        if epoch >= self.warmup_epochs:
            return rate
        return self.start + (rate - self.start) * epoch / self.warmup_epochs
