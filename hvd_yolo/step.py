"""One update: micro-batches forward and backward, gradients summed over ranks, one step."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from hvd_yolo.comm import Comm, batch_norm, log
from hvd_yolo.compiling import CompiledLosses
from hvd_yolo.config import Config
from hvd_yolo.data.loader import Batch
from hvd_yolo.divergence import BadUpdates, FiniteBuffers
from hvd_yolo.errors import InputError
from hvd_yolo.gradients import step_gradients
from hvd_yolo.local_sgd import LocalRounds
from hvd_yolo.models.freezing import keep_frozen_statistics
from hvd_yolo.models.losses import Losses, LossesOf, as_losses
from hvd_yolo.optim import match_layout
from hvd_yolo.outcome import Outcome, Outcomes, Stopwatch
from hvd_yolo.pace import Interval, Pace
from hvd_yolo.precision import autocast
from hvd_yolo.state import TrainState
from hvd_yolo.stopping import StopRequest
from hvd_yolo.tally import WISHES, Tally, Wishes, has_bad_term, next_weights
from hvd_yolo.watchdog import pulse_of


class Step:
    """Makes updates on a TrainState, without a wait for the device but the one for the update
    before: on a GPU the host reads what an update came to after it has begun the next, or in
    finish().

    Of the updates read, `grad_norm` tells about the last one and `tally` about those since the last
    line of progress; since update() was called last, `wishes` is what any rank wished in them, with
    comm.sync_every in a round of updates, and `diverged`, if not empty, why the run cannot go on
    from this state.
    """

    def __init__(
        self,
        config: Config,
        comm: Comm,
        pace: Pace,
        stop: StopRequest,
        tell: Callable[[int, str, str], None],
        losses_of: LossesOf,
    ) -> None:
        """tell: takes the update, the kind of an event and the message, on rank 0."""
        self._config = config
        self._comm = comm
        self._pace = pace
        self._stop = stop
        self._losses_of = CompiledLosses(losses_of) if config.train.compile else losses_of
        self._image_ids: list[int] = []
        self.diverged, self.wishes = "", Wishes()
        self._since_save = Interval(config.checkpoint.every_minutes)
        self.since_evaluation = Interval(config.eval.every_minutes)
        self._dtype = getattr(torch, config.train.dtype)
        self._rounds = LocalRounds(config.comm, comm)
        self.tally = Tally(comm, config.loader.max_unreadable, pace.dealing.num_images)
        self._outcomes = Outcomes(comm)
        self._bad_updates = BadUpdates(config.train, comm, stop, tell)
        self._has_bad_loss = torch.zeros(())
        self.grad_norm = 0.0
        self._data_waited = 0.0
        self._comm_waited = 0.0

    def prepare(self, state: TrainState) -> None:
        """Makes the shared state of all ranks ready to train: layout, BatchNorm, distributed
        optimizer."""
        pulse_of(self._comm).updates = state.updates
        train = self._config.train
        if train.channels_last:
            for module in (state.model, state.ema.module):
                module.to(memory_format=torch.channels_last)
        if train.sync_bn:
            batch_norm.convert(state.model, self._comm)
        if train.freeze_bn:
            batch_norm.freeze(state.model)
        keep_frozen_statistics(state.model)
        self._buffers = FiniteBuffers(state.model)
        match_layout(state.optimizer)
        state.optimizer = self._comm.distribute(
            state.optimizer,
            state.model,
            self._pace.dealing.passes,
            self._config.comm,
            state.compression,
        )
        # Makes the scaler's state now: a rank without images in its first update would not.
        state.scaler.scale(torch.zeros((), device=self._comm.device))
        for name in ("unreadable", "objects"):
            setattr(state, name, getattr(state, name).to(self._comm.device))
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
        epoch = state.epoch + state.images_seen / dealing.num_images
        sharing = self._config.comm.sharing_at(epoch)
        self._comm.share_gradients(sharing)
        is_local = sharing == "own"
        if is_local:
            self._rounds.leave(state)
        share = dealing.images_of_update(state.images_seen) / dealing.images_of_update(0)
        sent_before = self._comm.sent_bytes
        state.optimizer.zero_grad()
        self._image_ids = []
        self.diverged, self.wishes = "", Wishes()
        self._buffers.remember()
        passes = [self._forward_backward(state, self._next(batches)) for _ in range(dealing.passes)]

        def own_sums() -> Tensor:
            """This rank's part of what is summed beside the gradients."""
            sent = self._comm.sent_bytes - sent_before
            own = self.tally.of_update(state, passes, sent, self._comm_waited, self._wishes())
            self._has_bad_loss = has_bad_term(own)
            return own

        stopwatch = Stopwatch(self._comm)
        stopwatch.start()
        with self._comm.reduced_gradients(state.optimizer, own_sums) as sums:
            stopwatch.stop()
            norm = step_gradients(state, sums, share, self._config, self._comm)
        self._buffers.restore()
        state.updates += 1
        if is_local:
            stopwatch.start()
            wishes = self._end_local(state, sums, share)
            stopwatch.stop()
        else:
            state.loss_weights = next_weights(state, sums, share)
            wishes = sums[WISHES].clone()
            self.tally.take_in(state, sums)
        state.images_seen += dealing.images_of_update(state.images_seen)
        state.ema.update(state.model, state.updates)
        has_bad_gradient = state.optimizer.found_inf
        values = torch.cat((torch.stack((has_bad_gradient, self._has_bad_loss, norm)), wishes))
        data_wait = sum(counts[-1] for _, counts in passes)
        self._outcomes.post(
            Outcome(state.updates, self._image_ids, is_local, data_wait, stopwatch, values)
        )
        self._read(state)
        self._end_epoch(state)
        return rate

    def finish(self, state: TrainState) -> None:
        """Reads what the updates so far came to; every rank, before it acts on that."""
        self._read(state, is_last=True)

    def _read(self, state: TrainState, is_last: bool = False) -> None:
        for outcome in self._outcomes.read(is_last):
            self.grad_norm = outcome.grad_norm
            pairs = zip(self.wishes, outcome.wishes, strict=True)
            self.wishes = Wishes(*(before or now for before, now in pairs))
            self._comm_waited = outcome.stopwatch.seconds()
            pulse_of(self._comm).add(outcome.update, outcome.data_wait, self._comm_waited)
            self.diverged = self._bad_updates.take_in(state, outcome) or self.diverged

    def _end_epoch(self, state: TrainState) -> None:
        """Checks what the ranks have learnt, where an epoch or the run ends; begins the next."""
        has_ended = state.images_seen == self._pace.dealing.num_images
        if has_ended or self._pace.is_over(state.epoch, state.updates):
            self.finish(state)
            self.tally.share(state)
            self.tally.check_learned(state)
        if has_ended:
            state.epoch, state.images_seen = state.epoch + 1, 0
            state.unreadable = torch.zeros_like(state.unreadable)

    def settle(self, state: TrainState, is_saved: bool) -> None:
        """Makes the state one for all ranks, as evaluation and checkpoints need it; every rank.
        is_saved: a checkpoint follows."""
        self.finish(state)
        if is_saved:
            self._since_save.restart()
        self.tally.share(state)
        self._rounds.settle(state)
        state.compression = self._comm.settle_compression()
        has_own_norms = not (self._config.train.sync_bn or self._config.train.freeze_bn)
        models = [state.model, state.ema.module]
        batch_norm.average_statistics(models, self._comm, has_own_norms)

    def _end_local(self, state: TrainState, sums: Tensor, share: float) -> Tensor:
        """Puts the ranks together where a round ends; divisors are shared there too, and before
        they are known. Returns the ranks' wishes. share: see next_weights."""
        is_round_over = state.updates % self._config.comm.sync_every == 0
        wishes = torch.zeros_like(sums[WISHES])
        if is_round_over or len(state.loss_weights) == 1:
            shared = self._comm.sum(sums)
            state.loss_weights = next_weights(state, shared, share)
            wishes = shared[WISHES]
        sent = self._rounds.meet(state) if is_round_over else 0
        self.tally.keep_own(sums, sent)
        return wishes

    def _wishes(self) -> Wishes:
        """What this rank wishes. Clocks differ, so that of rank 0 counts."""
        clocks = (self._since_save, self.since_evaluation)
        save, evaluate = (self._comm.is_main and clock.is_over for clock in clocks)
        return Wishes(bool(self._stop.reason), save, self._comm.has_news, evaluate)

    def _next(self, batches: Iterator[Batch]) -> Batch:
        started = time.monotonic()
        batch = next(batches)
        self._data_waited = time.monotonic() - started
        self._image_ids += [int(item.image_id) for item in batch.items]
        for message in batch.unreadable:
            log(self._comm).error("skipped an unreadable image: %s", message)
        return batch

    def _forward_backward(
        self, state: TrainState, batch: Batch
    ) -> tuple[Losses | None, list[float]]:
        """Losses of one micro-batch, back-propagated, and its images, objects, unreadable images
        and seconds of wait for them."""
        num_objects = sum(batch.num_objects)
        counts = [float(n) for n in (len(batch), num_objects, len(batch.unreadable))]
        counts.append(self._data_waited)
        if not len(batch) and not self._config.train.sync_bn:
            self.tally.agree_on_terms(state, None)
            return None, counts
        # With sync_bn the others wait in each BatchNorm for this rank's share, though it be empty.
        images, targets = batch.to_model(self._comm.device, self._dtype)
        if not self._config.train.channels_last:
            images = images.contiguous()
        with autocast(self._config.train.amp, self._comm.device):
            losses = as_losses(self._losses_of(state.model, images, targets), len(batch))
        self.tally.agree_on_terms(state, losses)
        state.scaler.scale(self._divided(losses, state)).backward()
        return losses, counts

    def _divided(self, losses: Losses, state: TrainState) -> Tensor:
        """The scalar to back-propagate: each term divided by its weight of the last update."""
        if sorted(losses.terms) != state.term_names:
            raise InputError(
                f"the model returned the losses {sorted(losses.terms)}, before it was "
                f"{state.term_names}; a detector must return the same terms for every batch",
                rank=self._comm.rank,
            )
        if len(state.loss_weights) == 1:
            return losses.total() / state.loss_weights[0]
        values = torch.stack([losses.terms[name] for name in state.term_names])
        return (values / state.loss_weights[1:]).sum()


def _random_seed(seed: int, update: int, rank: int) -> int:
    """For models with random numbers of their own (dropout): a function of the update, so that
    resume repeats them."""
    return int(np.random.SeedSequence((seed, update, rank)).generate_state(1, np.uint64)[0] >> 1)
