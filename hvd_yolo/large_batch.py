"""LARS and LAMB, whose step in each layer is a share of that layer's weights: optimizers for
updates of thousands of images.

Groups of parameters with `layer_wise` False (biases and normalisation layers) take the plain step:
SGD with momentum, or Adam. hvd.DistributedOptimizer makes a subclass and calls it with the groups
alone, so every argument but these has a default, and what a step needs lies in the groups.

Neither waits for the device. Both go through torch's fused optimizers, which look at found_inf
themselves: where it is 1, as after a gradient that is not finite, a step changes nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


class LARS(torch.optim.Optimizer):
    """SGD with momentum and a rate of each layer's own (You, Gitman and Ginsburg 2017, arXiv
    1708.03888, algorithm 1).

    v = momentum v + lr ratio (g + weight_decay w), w = w - v, with ratio = trust_coefficient |w| /
    (|g| + weight_decay |w|) for the weights w of a layer and their gradient g; 1 where either is
    all zeros. As in the paper lr is inside the momentum.
    """

    found_inf: Tensor | None = None

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
                _scale(steps, _or_one(ratios, sizes, lengths) * group["lr"])
            else:
                torch._foreach_mul_(steps, group["lr"])
            buffers = [self.state[p]["momentum_buffer"] for p in params]
            # The rate is in the steps already.
            sgd(
                params, steps, buffers, fused=True, found_inf=self.found_inf,
                weight_decay=0.0, momentum=group["momentum"], lr=1.0, dampening=0.0,
                nesterov=False, maximize=False,
            )  # fmt: skip
        return loss


class LAMB(torch.optim.Optimizer):
    """Adam whose step in each layer is as long as the layer's weights, times the rate (You et al.
    2020, arXiv 1904.00962, algorithm 2 with the identity as phi).

    w = w - lr ratio (r + weight_decay w), with Adam's r = m / (sqrt(v) + eps), both corrected for
    their bias, and ratio = |w| / |r + weight_decay w|; 1 where the weights w are all zeros, or r
    is, which means that no gradient has come yet.
    """

    found_inf: Tensor | None = None

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
            # Counters of steps lie on the device, and are put there again when they are loaded.
            "fused": True,
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
            # Of a step that is left out the direction is zero, and its rate.
            rate = params[0].new_full((), group["lr"])
            if self.found_inf is not None:
                rate = rate * (1 - self.found_inf)
            if lengths is not None:
                sizes = _norms(params)
                _scale(steps, _or_one(sizes / _norms(steps), sizes, lengths) * rate)
            else:
                torch._foreach_mul_(steps, rate)
            torch._foreach_sub_(params, steps)
        return loss

    def _adam_directions(
        self, params: list[Tensor], betas: tuple[float, float], eps: float
    ) -> list[Tensor]:
        """Takes the gradients into both moments and returns r of each parameter."""
        for p in params:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        states = [self.state[p] for p in params]
        # Weights of zero go to r in a step of Adam at the rate -1.
        directions = [torch.zeros_like(p) for p in params]
        adam(
            directions, [p.grad for p in params], [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states], [], [state["step"] for state in states],
            fused=True, found_inf=self.found_inf, amsgrad=False, beta1=betas[0], beta2=betas[1],
            lr=-1.0, weight_decay=0.0, eps=eps, maximize=False,
        )  # fmt: skip
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
