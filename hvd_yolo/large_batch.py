"""LARS and LAMB, whose step in each layer is a share of that layer's weights: optimizers for
updates of thousands of images.

Groups of parameters with `layer_wise` False (biases and normalisation layers) take the plain step:
SGD with momentum, or Adam. hvd.DistributedOptimizer makes a subclass and calls it with the groups
alone, so every argument but these has a default, and what a step needs lies in the groups.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


class LARS(torch.optim.Optimizer):
    """SGD with momentum and a rate of each layer's own (You, Gitman and Ginsburg 2017, arXiv
    1708.03888, algorithm 1).

    v = momentum v + lr ratio (g + weight_decay w), w = w - v, with ratio = trust_coefficient |w| /
    (|g| + weight_decay |w|) for the weights w of a layer and their gradient g; 1 where either is
    all zeros. As in the paper lr is inside the momentum.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.001,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        layer_wise: bool = True,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient, "layer_wise": layer_wise,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update; parameters without a gradient stay. Returns what `closure` gave, called with
        gradients on."""
        loss = _evaluated(closure)
        for group, params in _with_gradients(self.param_groups):
            gradients = [p.grad for p in params]
            for p in params:
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            decay = group["weight_decay"]
            steps = torch._foreach_add(gradients, params, alpha=decay)
            if group["layer_wise"]:
                sizes, lengths = _norms(params), _norms(gradients)
                ratios = group["trust_coefficient"] * sizes / (lengths + decay * sizes)
                _scale(steps, _or_one(ratios, sizes, lengths))
            buffers = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, steps, alpha=group["lr"])
            torch._foreach_sub_(params, buffers)
        return loss


class LAMB(torch.optim.Optimizer):
    """Adam whose step in each layer is as long as the layer's weights, times the rate (You et al.
    2020, arXiv 1904.00962, algorithm 2 with the identity as phi).

    w = w - lr ratio (r + weight_decay w), with Adam's r = m / (sqrt(v) + eps), both corrected for
    their bias, and ratio = |w| / |r + weight_decay w|; 1 where the weights w are all zeros, or r
    is, which means that no gradient has come yet.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        layer_wise: bool = True,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "layer_wise": layer_wise,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update; parameters without a gradient stay. Returns what `closure` gave, called with
        gradients on."""
        loss = _evaluated(closure)
        for group, params in _with_gradients(self.param_groups):
            steps = self._adam_directions(params, group["betas"], group["eps"])
            # Before the decay: alone it would have a direction too, and the ratio make it large.
            lengths = _norms(steps) if group["layer_wise"] else None
            torch._foreach_add_(steps, params, alpha=group["weight_decay"])
            if lengths is not None:
                sizes = _norms(params)
                _scale(steps, _or_one(sizes / _norms(steps), sizes, lengths))
            torch._foreach_add_(params, steps, alpha=-group["lr"])
        return loss

    def _adam_directions(
        self, params: list[Tensor], betas: tuple[float, float], eps: float
    ) -> list[Tensor]:
        """Takes the gradients into both moments and returns r of each parameter."""
        for p in params:
            if not self.state[p]:
                # On the CPU, where torch's own optimizers keep it: the host computes with it.
                self.state[p]["step"] = torch.tensor(0.0)
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
            self.state[p]["step"] += 1
        gradients = [p.grad for p in params]
        means = [self.state[p]["exp_avg"] for p in params]
        squares = [self.state[p]["exp_avg_sq"] for p in params]
        torch._foreach_lerp_(means, gradients, 1 - betas[0])
        torch._foreach_mul_(squares, betas[1])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - betas[1])
        counts = [self.state[p]["step"].item() for p in params]
        scales = torch._foreach_div(squares, [1 - betas[1] ** count for count in counts])
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, eps)
        directions = torch._foreach_div(means, [1 - betas[0] ** count for count in counts])
        torch._foreach_div_(directions, scales)
        return directions


def _with_gradients(
    groups: list[dict[str, Any]],
) -> Iterator[tuple[dict[str, Any], list[Tensor]]]:
    """Each group with its parameters that have a gradient, where it has any."""
    for group in groups:
        params = [p for p in group["params"] if p.grad is not None]
        if params:
            yield group, params


def _evaluated(closure: Callable[[], float] | None) -> float | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _norms(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of each tensor (T); all lie on one device."""
    return torch.stack(torch._foreach_norm(tensors))


def _or_one(ratios: Tensor, *norms: Tensor) -> Tensor:
    """The ratios where every norm is above zero (NaN stays NaN), else 1."""
    for norm in norms:
        ratios = torch.where(norm == 0, 1.0, ratios)
    return ratios


def _scale(tensors: list[Tensor], factors: Tensor) -> None:
    """Multiplies each tensor by its factor, without a wait for the device."""
    torch._foreach_mul_(tensors, list(factors.unbind()))
