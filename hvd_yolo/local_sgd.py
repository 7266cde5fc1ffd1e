"""Updates that each rank makes on its own, and how the ranks come together again.

Local SGD (Stich 2019, Local SGD converges fast and communicates little): every comm.sync_every
updates the weights are averaged. It begins after a warm-up of ordinary updates (Lin et al. 2020,
Don't use large mini-batches, use local SGD). Momenta stay each rank's own from round to round, as
there; only at a checkpoint are they averaged, and the moving average of the weights with them, so
that one checkpoint holds the state of all ranks. Adasum (Maleki et al. 2021) puts together what
each rank changed since the last time, as Horovod's own optimizer for it does.
"""

import torch
from torch import Tensor

from hvd_yolo.comm import Comm, average, traffic
from hvd_yolo.config import CommConfig
from hvd_yolo.state import TrainState


class LocalRounds:
    """How ranks go apart, and how they meet."""

    def __init__(self, options: CommConfig, comm: Comm) -> None:
        self._options = options
        self._comm = comm
        self._start: list[Tensor] = []
        self._is_apart = False
        self._is_settled = True

    def leave(self, state: TrainState) -> None:
        """Before the step of a local update."""
        if self._options.op == "adasum" and not self._is_apart:
            self._start = [p.detach().clone() for p in _trained(state)]
        self._is_apart, self._is_settled = True, False

    @torch.no_grad()
    def meet(self, state: TrainState) -> int:
        """Gives all ranks the same weights; returns the bytes this rank sent."""
        if not self._is_apart:
            return 0
        self._is_apart = False
        weights = _trained(state)
        if self._options.op == "adasum":
            changes = [p.detach() - start for p, start in zip(weights, self._start, strict=True)]
            self._comm.adasum(changes)
            torch._foreach_copy_(weights, self._start)
            torch._foreach_add_(weights, changes)
        else:
            average(weights, self._comm)
        return round(traffic.sum_bytes(sum(p.nbytes for p in weights), self._comm.size))

    def settle(self, state: TrainState) -> None:
        """Makes weights, their moving average and the optimizer's state one for all ranks."""
        if self._is_settled:
            return
        self.meet(state)
        pairs = zip(state.ema.module.parameters(), state.model.parameters(), strict=True)
        tensors = [average_ for average_, p in pairs if p.requires_grad]
        for kept in state.optimizer.state.values():
            # Counters of steps, scalars, are the same everywhere.
            tensors += [value for value in kept.values() if torch.is_tensor(value) and value.ndim]
        average([tensor.detach() for tensor in tensors], self._comm)
        self._is_settled = True


def _trained(state: TrainState) -> list[Tensor]:
    return [p for p in state.model.parameters() if p.requires_grad]
