"""Updates that are left out because their gradient is not finite."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hvd_yolo.comm import Comm, gather_json, log
from hvd_yolo.config import TrainConfig
from hvd_yolo.errors import AGAINST_DIVERGENCE, InputError
from hvd_yolo.outcome import Outcome
from hvd_yolo.state import TrainState
from hvd_yolo.stopping import StopRequest


class FiniteBuffers:
    """Keeps the floating-point buffers of a model finite, BatchNorm's statistics above all: what an
    update makes of a value that was finite before it, and no longer is, is undone.

    It does so after each update, for the host does not know whether that was a good one.
    """

    def __init__(self, model: nn.Module) -> None:
        # By module and name, for a model may put another tensor into the place of a buffer.
        self._places = [
            (module, name)
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and buffer.is_floating_point()
        ]
        self._before: dict[torch.dtype, Tensor] = {}

    @torch.no_grad()
    def remember(self) -> None:
        """Before an update."""
        self._before = {dtype: _joined(buffers) for dtype, buffers in self._buffers().items()}

    @torch.no_grad()
    def restore(self) -> None:
        """After the update."""
        for dtype, buffers in self._buffers().items():
            after, before = _joined(buffers), self._before.get(dtype)
            if before is None or before.shape != after.shape:
                # The model has put others there.
                continue
            whole = torch.where(after.isfinite(), after, before)
            parts = whole.split([buffer.numel() for buffer in buffers])
            values = [part.view(b.shape) for part, b in zip(parts, buffers, strict=True)]
            torch._foreach_copy_(buffers, values)

    def _buffers(self) -> dict[torch.dtype, list[Tensor]]:
        groups: dict[torch.dtype, list[Tensor]] = {}
        for module, name in self._places:
            buffer = module._buffers[name]
            groups.setdefault(buffer.dtype, []).append(buffer)
        return groups


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


class BadUpdates:
    """Says which updates were left out, and ends what has diverged."""

    def __init__(
        self,
        options: TrainConfig,
        comm: Comm,
        stop: StopRequest,
        tell: Callable[[int, str, str], None],
    ) -> None:
        """tell: takes the update, the kind of an event and the message, on rank 0."""
        self._options = options
        self._comm = comm
        self._stop = stop
        self._tell = tell

    def take_in(self, state: TrainState, outcome: Outcome) -> str:
        """Counts the update, and tells whose losses, of which images, were not finite; every rank,
        or of a local update the one.

        Returns why the run cannot go on from this state, if it is to go back; else raises
        InputError, or asks for a stop, when an update was bad too many times in a row.
        """
        state.bad_updates = 0 if outcome.is_finite else state.bad_updates + 1
        if outcome.is_finite:
            return ""
        message = self._message(outcome)
        most = self._options.max_bad_updates
        if not state.scaler.is_enabled() or state.bad_updates > most:
            if not outcome.is_local:
                self._tell(outcome.update, "not finite", message)
            if outcome.is_local or self._comm.is_main:
                log(self._comm).error("%s", message)
        if state.bad_updates <= most:
            return ""
        many = f"{state.bad_updates} updates in a row were left out, train.max_bad_updates is"
        if outcome.is_local:
            self._stop.fault = f"{many} {most}; {AGAINST_DIVERGENCE}"
            return ""
        if self._options.on_divergence == "rollback":
            return f"{many} {most}"
        raise InputError(
            f"{many} {most}: {message}; {AGAINST_DIVERGENCE}; weights and last checkpoint are "
            "those of before"
        )

    def _message(self, outcome: Outcome) -> str:
        own = [self._comm.rank, outcome.has_bad_loss, outcome.image_ids]
        reports = [own] if outcome.is_local else gather_json(self._comm, own)
        what = "loss" if any(is_bad for _, is_bad, _ in reports) else "gradient"
        named = [f"rank {rank}, images {ids}" for rank, is_bad, ids in reports if is_bad]
        named = named or [f"rank {rank}, images {ids}" for rank, _, ids in reports]
        return f"update {outcome.update} is left out: its {what} is not finite ({'; '.join(named)})"
