"""One update: micro-batches forward and backward, gradients summed over ranks, one step."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hvd_yolo.comm import Comm, batch_norm, gather_json, log
from hvd_yolo.config import Config
from hvd_yolo.data.loader import Batch
from hvd_yolo.errors import InputError
from hvd_yolo.models.freezing import keep_frozen_statistics
from hvd_yolo.models.losses import Losses, as_losses
from hvd_yolo.pace import Pace
from hvd_yolo.precision import autocast
from hvd_yolo.state import TrainState

# The first entries of the vector that is summed over ranks with each update; the loss terms follow,
# and then their divisors.
_WEIGHT, _IMAGES, _UNREADABLE, _WAIT, _TERMS = range(5)


class Step:
    """Makes updates on a TrainState; `grad_norm` tells about the last one."""

    def __init__(self, config: Config, comm: Comm, pace: Pace) -> None:
        self._config = config
        self._comm = comm
        self._pace = pace
        self._dtype = getattr(torch, config.train.dtype)
        self.grad_norm = torch.zeros(())
        self._waited = 0.0
        self._wait_of_window: Tensor | float = 0.0

    def prepare(self, state: TrainState) -> None:
        """Makes the shared state of all ranks ready to train: layout, BatchNorm, distributed
        optimizer."""
        train = self._config.train
        if train.channels_last:
            for module in (state.model, state.ema.module):
                module.to(memory_format=torch.channels_last)
        if train.sync_bn:
            batch_norm.convert(state.model, self._comm)
        if train.freeze_bn:
            batch_norm.freeze(state.model)
        keep_frozen_statistics(state.model)
        state.optimizer = self._comm.distribute(
            state.optimizer, state.model, self._pace.dealing.passes, self._config.comm.groups
        )
        # Makes the scaler's state now: a rank without images in its first update would not.
        state.scaler.scale(torch.zeros((), device=self._comm.device))
        if train.channels_last:
            _match_layout(state.optimizer)
        if state.loss_weights is None:
            images = float(self._pace.dealing.images_of_update(0))
            state.loss_weights = torch.tensor(
                [images], dtype=torch.float64, device=self._comm.device
            )

    def update(self, state: TrainState, batches: Iterator[Batch]) -> float:
        """The next update of the epoch; returns its learning rate.

        The loss is back-propagated as a sum divided by the last update's global weight, which every
        rank knows, and the summed gradients are multiplied by last / actual: the divisor is global,
        whatever the shares, and known only after the sums that are reported anyway. See Losses for
        terms with a divisor of their own.
        """
        dealing = self._pace.dealing
        rate = self._pace.rate(state.epoch, state.images_seen)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(_random_seed(self._config.seed, state.updates, self._comm.rank))
        state.optimizer.zero_grad()
        passes = [self._forward_backward(state, self._next(batches)) for _ in range(dealing.passes)]
        with self._comm.reduced_gradients(state.optimizer):
            # Only now: Horovod 0.28.1 stands still when another collective comes while some ranks
            # have sent a group of gradients and others have not.
            sums = self._sum_over_ranks(state, passes)
            last, weight = state.loss_weights[0], sums[_WEIGHT].clamp(min=1.0)
            weight = torch.where(weight.isfinite(), weight, last)
            state.scaler.unscale_(state.optimizer)
            gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, last / weight)
            self.grad_norm = torch.nn.utils.clip_grad_norm_(
                state.model.parameters(), self._config.optim.clip_norm or float("inf")
            )
            state.scaler.step(state.optimizer)
            state.scaler.update()
        state.loss_weights = _next_weights(state, sums)
        unreadable = sums[_UNREADABLE]
        if state.window is not None:
            # Before the first readable image nobody knows how many terms the loss has.
            missing = len(sums) - len(state.window)
            sums = sums + torch.nn.functional.pad(state.window, (0, missing))
        state.window = sums
        state.updates += 1
        state.unreadable = state.unreadable + unreadable
        state.images_seen += dealing.images_of_update(state.images_seen)
        if state.images_seen == dealing.num_images:
            self._check_unreadable(state)
            state.epoch, state.images_seen = state.epoch + 1, 0
            state.unreadable = torch.zeros_like(state.unreadable)
        state.ema.update(state.model, state.updates)
        return rate

    def close_window(self, state: TrainState) -> tuple[dict[str, float], float, float]:
        """Mean losses, images and seconds of data wait a rank since the last call.

        Raises InputError on all ranks when too many images of the epoch could not be read, as the
        epoch's last update does.
        """
        sums = state.window.tolist()
        state.window = None
        self._check_unreadable(state)
        wait, self._wait_of_window = float(self._wait_of_window) / self._comm.size, 0.0
        names = state.term_names or []
        values, weights = sums[_TERMS : _TERMS + len(names)], sums[_TERMS + len(names) :]
        losses = {
            name: value / max(weight, 1.0)
            for name, value, weight in zip(names, values, weights, strict=True)
        }
        return losses, sums[_IMAGES], wait

    def _check_unreadable(self, state: TrainState) -> None:
        limit = self._config.loader.max_unreadable
        if state.unreadable > limit:
            raise InputError(
                f"{int(state.unreadable)} images of this epoch could not be read, more than "
                f"loader.max_unreadable {limit}; each is named above: repair or remove them, or "
                "raise the limit"
            )

    def _next(self, batches: Iterator[Batch]) -> Batch:
        started = time.monotonic()
        batch = next(batches)
        self._waited = time.monotonic() - started
        for message in batch.unreadable:
            log(self._comm).error("skipped an unreadable image: %s", message)
        return batch

    def _forward_backward(
        self, state: TrainState, batch: Batch
    ) -> tuple[Losses | None, list[float]]:
        """Losses of one micro-batch, back-propagated, and its images, unreadable images and seconds
        of wait."""
        counts = [float(len(batch)), float(len(batch.unreadable)), self._waited]
        if not len(batch) and not self._config.train.sync_bn:
            return None, counts
        # With sync_bn the others wait in each BatchNorm for this rank's share, though it be empty.
        images, targets = batch.to_model(self._comm.device, self._dtype)
        if not self._config.train.channels_last:
            images = images.contiguous()
        with autocast(self._config.train.amp, self._comm.device):
            losses = as_losses(state.model(images, targets), len(batch))
        state.scaler.scale(self._divided(losses, state)).backward()
        return losses, counts

    def _divided(self, losses: Losses, state: TrainState) -> Tensor:
        """The scalar to back-propagate: each term divided by its weight of the last update."""
        if state.term_names is None:
            return losses.total() / state.loss_weights[0]
        if sorted(losses.terms) != state.term_names:
            raise InputError(
                f"the model returned the losses {sorted(losses.terms)}, before it was "
                f"{state.term_names}; a detector must return the same terms for every batch",
                rank=self._comm.rank,
            )
        values = torch.stack([losses.terms[name] for name in state.term_names])
        return (values / state.loss_weights[1:]).sum()

    def _sum_over_ranks(
        self, state: TrainState, passes: list[tuple[Losses | None, list[float]]]
    ) -> Tensor:
        """The vector of _WEIGHT, _IMAGES, ..., summed over micro-batches and ranks, float64 on the
        device."""
        names = self._agree_on_terms(state, [losses for losses, _ in passes if losses is not None])
        device = self._comm.device
        total = torch.zeros(_TERMS + 2 * len(names), dtype=torch.float64, device=device)
        for losses, counts in passes:
            total[_IMAGES:_TERMS] += torch.tensor(counts, dtype=torch.float64, device=device)
            if losses is not None:
                values = [losses.terms[name] for name in names]
                weights = [losses.weight_of(name) for name in names]
                values = [value.detach().double() for value in (*values, *weights, losses.weight)]
                values = torch.stack(values)
                total[_TERMS:] += values[:-1]
                total[_WEIGHT] += values[-1]
        total = self._comm.sum(total)
        # Apart from the rest: a checkpoint holds the window, and time must not change its bits.
        self._wait_of_window = self._wait_of_window + total[_WAIT].clone()
        total[_WAIT] = 0.0
        return total

    def _agree_on_terms(self, state: TrainState, losses: list[Losses]) -> list[str]:
        """The names of the loss terms; a rank whose first share is empty learns them from the
        others."""
        if state.term_names is None:
            own = sorted(losses[0].terms) if losses else None
            known = [names for names in gather_json(self._comm, own) if names is not None]
            if not known:
                return []
            state.term_names = known[0]
        return state.term_names


def _next_weights(state: TrainState, sums: Tensor) -> Tensor:
    """The divisor of the losses and of each term, from an update's sums; where it has none, as
    without an object, those of before."""
    names = state.term_names or []
    found = torch.cat((sums[_WEIGHT : _WEIGHT + 1], sums[_TERMS + len(names) :]))
    return torch.where(found.isfinite() & (found >= 1.0), found, state.loss_weights)


def _random_seed(seed: int, update: int, rank: int) -> int:
    """For models with random numbers of their own (dropout): a function of the update, so that
    resume repeats them."""
    return int(np.random.SeedSequence((seed, update, rank)).generate_state(1, np.uint64)[0] >> 1)


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Puts restored momenta into the layout of their weights; elementwise arithmetic gives the same
    bits, faster."""
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim == 4:
                state[name] = value.contiguous(memory_format=torch.channels_last)
