"""Weights that are a function of their names, for models whose code is not ours to share."""

import math
import zlib

import numpy as np
import torch
from torch import Tensor


def fill(state: dict[str, Tensor]) -> None:
    """Fills a state dict under the names of the ultralytics package, in place."""
    for name, tensor in state.items():
        if not tensor.is_floating_point() or ".dfl." in name:
            continue
        rng = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
        values = torch.from_numpy(rng.standard_normal(tuple(tensor.shape)))
        if tensor.ndim > 1:
            values *= 1.2 / math.sqrt(math.prod(tensor.shape[1:]))
        elif name.endswith("running_var"):
            values = 1 + 0.2 * values.clamp(-3, 3)
        elif name.endswith("bn.weight"):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        tensor.copy_(values)


def picture(size: int, count: int = 2) -> Tensor:
    """(count, 3, size, size) in 0..1."""
    rng = np.random.Generator(np.random.Philox(key=1))
    return torch.from_numpy(rng.random((count, 3, size, size))).float()


def samples(tensor: Tensor) -> list[float]:
    """Forty values, evenly spaced, and the mean of the absolute values."""
    flat = tensor.detach().double().flatten()
    places = torch.linspace(0, len(flat) - 1, 40).long()
    return [*flat[places].tolist(), flat.abs().mean().item()]


# (image, label, x, y, w, h) as shares of the sides.
OBJECTS = (
    (0, 1, 0.30, 0.40, 0.35, 0.30), (0, 0, 0.70, 0.60, 0.20, 0.50), (0, 1, 0.32, 0.42, 0.60, 0.70),
    (1, 2, 0.50, 0.50, 0.90, 0.80), (1, 79, 0.15, 0.85, 0.10, 0.12),
)  # fmt: skip
