"""TrainState: all that must survive a restart. A checkpoint is this, and what rank 0 sends to all
at start is this."""

import io
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hvd_yolo.comm import Comm, broadcast_bytes
from hvd_yolo.config import Config
from hvd_yolo.data.changes import DataSummary
from hvd_yolo.ema import Ema
from hvd_yolo.errors import InputError
from hvd_yolo.models import YOLO, build_model, largest_stride
from hvd_yolo.models.freezing import freeze
from hvd_yolo.models.trial import copied as copied_module
from hvd_yolo.optim import build_optimizer, match_layout
from hvd_yolo.snapshot import copied


@dataclass
class TrainState:
    """What training has come to.

    epoch and images_seen (of that epoch) say which images come next; updates counts from the start
    of the run; best is the best number so far of best_metric, and stale_evaluations those in a row
    since that were no better; loss_weights are the global divisors of the last update's losses, the
    main one and then one a term once those are known, which scale the next;
    unreadable counts the images of this epoch that could not be read, objects those that the run
    has been shown; term_names are those of the
    loss; window holds the sums of the progress line under way; compression is what
    Comm.settle_compression() returned last; is_evaluation_due: an epoch has ended whose evaluation
    is not done; bad_updates: so many, the last ones in a row, had a gradient that was not finite.
    rollbacks: how often the run went back to a checkpoint; data_summary: what it is trained on, see
    data/changes.py; committed: what an elastic job goes back
    to when it loses ranks.
    """

    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0
    images_seen: int = 0
    updates: int = 0
    unreadable: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    objects: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    best: float | None = None
    best_metric: str = ""
    stale_evaluations: int = 0
    loss_weights: Tensor | None = None
    window: Tensor | None = None
    term_names: list[str] | None = None
    compression: dict[str, Tensor] = field(default_factory=dict)
    is_evaluation_due: bool = False
    bad_updates: int = 0
    rollbacks: int = 0
    data_summary: DataSummary = field(default_factory=dict)
    committed: "Commit | None" = None

    _COUNTERS = (
        "epoch", "images_seen", "updates", "unreadable", "objects", "best", "best_metric",
        "stale_evaluations", "loss_weights", "window", "term_names", "compression",
        "is_evaluation_due", "bad_updates", "rollbacks", "data_summary",
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
        match_layout(self.optimizer)
        # Of a run without float16 it is empty, which a scaler refuses.
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        device = next(self.model.parameters()).device
        for name in self._COUNTERS:
            value = state[name]
            setattr(self, name, value.to(device) if isinstance(value, Tensor) else value)

    def load_trained(self, state: dict[str, Any]) -> None:
        """Takes over what updates have changed, and not where they had come to: `state` is what
        state_dict() gave."""
        counters = {name: getattr(self, name) for name in self._COUNTERS}
        self.load_state_dict({**state, **counters, "loss_weights": state["loss_weights"]})

    def commit(self, comm: Comm, metrics_bytes: int) -> None:
        """Keeps a copy of all this in the memory of every rank, which calls it; metrics_bytes: on
        rank 0, how much of metrics.jsonl is written."""
        metrics_bytes = int(comm.broadcast(torch.tensor(metrics_bytes)))
        self.committed = Commit(copied(self.state_dict()), metrics_bytes)


class Commit(NamedTuple):
    """training: a state_dict() of its own memory; metrics_bytes: what metrics.jsonl held."""

    training: dict[str, Any]
    metrics_bytes: int


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
    if not isinstance(model, YOLO):
        # A foreign model that has no copy is named before one is needed.
        copied_module(model, config.model)
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


def share_state(state: TrainState, comm: Comm, root: int = 0) -> None:
    """Gives every rank the state of rank `root`, bit for bit.

    As one block of bytes: hvd.broadcast_optimizer_state takes a real step on an optimizer that has
    no state yet, and weight decay would move the weights; here weights, optimizer and counters are
    one thing.
    """
    buffer = io.BytesIO()
    if comm.rank == root:
        training = state.state_dict()
        # torch.save would fetch each tensor for itself.
        torch.save(copied(training) if comm.device.type == "cuda" else training, buffer)
    content = broadcast_bytes(comm, buffer.getvalue(), root)
    if comm.rank != root:
        state.load_state_dict(
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        )
