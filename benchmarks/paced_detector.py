"""A detector that takes its time without the host's cores, as one on an accelerator does: each
layer sleeps. Its gradients are as large as those of a YOLOv8n, and all zero.

    python -m hvd_yolo.train --model benchmarks.paced_detector:build

So several ranks fit on few cores, and what they wait for is the network alone.
"""

import time
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = 40
PARAMETERS = 3_157_184
# Seconds of a forward and of a backward pass.
FORWARD, BACKWARD = 0.3, 0.3


class _Pause(torch.autograd.Function):
    """The input, after a while, both ways."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401
        """x as it is."""
        ctx.save_for_backward(weight)
        time.sleep(FORWARD / LAYERS)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """The gradient as it is, and zeros for the weight."""
        time.sleep(BACKWARD / LAYERS)
        return grad, torch.zeros_like(ctx.saved_tensors[0])


class PacedDetector(nn.Module):
    """One loss, which is always 1, and no detections."""

    def __init__(self) -> None:
        super().__init__()
        shape = (64, PARAMETERS // LAYERS // 64)
        self.weights = nn.ParameterList(torch.zeros(shape) for _ in range(LAYERS))

    def forward(
        self, images: Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation."""
        if targets is None:
            none = images.new_zeros((0, 4))
            empty = {"boxes": none, "scores": none[:, 0], "labels": none[:, 0].long()}
            return [empty for _ in images]
        x = torch.ones(())
        for weight in self.weights:
            x = _Pause.apply(x, weight)
        return {"loss": x}


def build(num_classes: int) -> PacedDetector:
    """For --model; it has no classes."""
    del num_classes
    return PacedDetector()
