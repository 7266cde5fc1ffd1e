"""TrainState: all that must survive a restart. A checkpoint is this, and what rank 0 sends to all
at start is this."""

import io
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hvd_yolo.comm import Comm, broadcast_bytes
from hvd_yolo.config import Config
from hvd_yolo.errors import InputError
from hvd_yolo.models import YOLO, build_model, largest_stride
from hvd_yolo.models.freezing import freeze
from hvd_yolo.optim import Ema, build_optimizer


@dataclass
class TrainState:
    """What training has come to.

    epoch and images_seen (of that epoch) say which images come next; updates counts from the start
    of the run; best is the highest AP so far; loss_weights are the global divisors of the last
    update's losses, the main one and then one a term once those are known, which scale the next;
    unreadable counts the images of this epoch that could not be read; term_names are those of the
    loss; window holds the sums of the progress line under way; compression is what
    Comm.settle_compression() returned last; is_evaluation_due: an epoch has ended whose evaluation
    is not done; bad_updates: so many, the last ones in a row, had a gradient that was not finite.
    """

    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0
    images_seen: int = 0
    updates: int = 0
    unreadable: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    best: float = float("-inf")
    loss_weights: Tensor | None = None
    window: Tensor | None = None
    term_names: list[str] | None = None
    compression: dict[str, Tensor] = field(default_factory=dict)
    is_evaluation_due: bool = False
    bad_updates: int = 0

    _COUNTERS = (
        "epoch", "images_seen", "updates", "unreadable", "best", "loss_weights", "window",
        "term_names", "compression", "is_evaluation_due", "bad_updates",
    )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, for torch.save."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **{name: getattr(self, name) for name in self._COUNTERS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what state_dict() gave, on this state's device."""
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        device = next(self.model.parameters()).device
        for name in self._COUNTERS:
            value = state[name]
            setattr(self, name, value.to(device) if isinstance(value, Tensor) else value)


def new_state(config: Config, num_classes: int, device: torch.device) -> TrainState:
    """A state before the first update; the weights are drawn from config.seed."""
    torch.manual_seed(config.seed)
    limits = config.eval
    model = build_model(
        config.model, num_classes,
        conf=limits.conf, iou=limits.iou, max_detections=limits.max_detections,
    )  # fmt: skip
    model.to(device, getattr(torch, config.train.dtype)).train()
    if config.imgsz % largest_stride(model):
        raise InputError(
            f"imgsz is {config.imgsz}, for {config.model} it must be a multiple of "
            f"{largest_stride(model)}, its largest stride"
        )
    freeze(model, config.train.freeze)
    if config.train.checkpoint_activations:
        if not isinstance(model, YOLO):
            raise InputError(
                f"train.checkpoint_activations: {config.model} is no built-in model; let it use "
                "torch.utils.checkpoint itself"
            )
        model.recompute_activations()
    return TrainState(
        model=model,
        ema=Ema(model, config.optim.ema_decay, config.optim.ema_tau),
        optimizer=build_optimizer(config.optim, model),
        scaler=torch.amp.GradScaler(device.type, enabled=config.train.amp == "fp16"),
    )


def share_state(state: TrainState, comm: Comm) -> None:
    """Gives every rank the state of rank 0, bit for bit.

    As one block of bytes: hvd.broadcast_optimizer_state takes a real step on an optimizer that has
    no state yet, and weight decay would move the weights; here weights, optimizer and counters are
    one thing.
    """
    buffer = io.BytesIO()
    if comm.is_main:
        torch.save(state.state_dict(), buffer)
    content = broadcast_bytes(comm, buffer.getvalue())
    if not comm.is_main:
        state.load_state_dict(
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        )
