"""Optimizers, the learning rate as a function of progress, and the moving average of the
weights."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hvd_yolo.comm.batch_norm import other_buffers
from hvd_yolo.config import OptimConfig
from hvd_yolo.large_batch import LAMB, LARS


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that optim.name asks for, SGD with Nesterov momentum; biases and normalisation
    layers do not decay, and LARS and LAMB do not scale their steps."""
    groups = parameter_groups(model, config.weight_decay)
    betas = (config.momentum, 0.999)
    if config.name == "sgd":
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0
        )
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas)
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


class Ema:
    """The exponential moving average of a model's weights and floating-point buffers, as a model of
    its own; other buffers are copied.

    The decay builds up as decay * (1 - exp(-updates / tau)), so that the first, poor weights are
    soon forgotten; decay 0 makes it a copy. It computes on each rank the same from the same
    weights: no collective.
    """

    def __init__(self, model: nn.Module, decay: float, tau: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.tau = tau
        self._others = frozenset(other_buffers(self.module))

    @torch.no_grad()
    def update(self, model: nn.Module, updates: int) -> None:
        """Takes in the weights after the given number of updates, counted from 1."""
        share = 1 - self.decay * (1 - math.exp(-updates / self.tau))
        averages, values = [], []
        for (name, mine), theirs in zip(
            self.module.state_dict().items(), model.state_dict().values(), strict=True
        ):
            if name in self._others:
                # An infinite constant, as in a mask, would become NaN.
                mine.copy_(torch.where(mine == theirs, mine, mine.lerp(theirs, share)))
            elif mine.dtype.is_floating_point:
                averages.append(mine)
                values.append(theirs)
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(averages, values, share)
