"""One update: micro-batches forward and backward, gradients summed over ranks, one step."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from hvd_yolo.comm import Comm, batch_norm, gather_json, log
from hvd_yolo.config import Config
from hvd_yolo.data.loader import Batch
from hvd_yolo.errors import AGAINST_DIVERGENCE, InputError
from hvd_yolo.local_sgd import LocalRounds
from hvd_yolo.models.freezing import keep_frozen_statistics
from hvd_yolo.models.losses import Losses, LossesOf, as_losses
from hvd_yolo.pace import Pace
from hvd_yolo.precision import autocast
from hvd_yolo.state import TrainState
from hvd_yolo.stopping import StopRequest
from hvd_yolo.tally import Tally, Wishes, is_divisor, next_weights, weight_of, wishes_in
from hvd_yolo.watchdog import pulse_of


class Step:
    """Makes updates on a TrainState; `grad_norm` tells about the last one, `tally` about those
    since the last line of progress; `wishes` what any rank wished in it, with comm.sync_every in a
    round of updates; `diverged`, if not empty, why the run cannot go on from this state."""

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
        self._tell = tell
        self._losses_of = losses_of
        self._image_ids: list[int] = []
        self.wishes = Wishes()
        self.diverged = ""
        self._saved = time.monotonic()
        self._dtype = getattr(torch, config.train.dtype)
        self._rounds = LocalRounds(config.comm, comm)
        self.tally = Tally(comm, config.loader.max_unreadable, pace.dealing.num_images)
        self.grad_norm = torch.zeros(())
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
        state.optimizer = self._comm.distribute(
            state.optimizer,
            state.model,
            self._pace.dealing.passes,
            self._config.comm,
            state.compression,
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
        self.diverged = ""
        passes = [self._forward_backward(state, self._next(batches)) for _ in range(dealing.passes)]

        def own_sums() -> Tensor:
            """This rank's part of what is summed beside the gradients."""
            sent = self._comm.sent_bytes - sent_before
            return self.tally.of_update(state, passes, sent, self._comm_waited, self._wishes())

        started = self._now()
        with self._comm.reduced_gradients(state.optimizer, own_sums) as sums:
            self._comm_waited = self._now() - started
            is_finite = self._step(state, sums, share)
        state.updates += 1
        state.bad_updates = 0 if is_finite else state.bad_updates + 1
        if not is_finite:
            self._leave_out(state, [losses for losses, _ in passes if losses is not None], is_local)
        self.wishes = Wishes()
        if is_local:
            started = time.monotonic()
            self._end_local(state, sums, share)
            self._comm_waited = time.monotonic() - started
        else:
            state.loss_weights = next_weights(state, sums, share)
            self.wishes = wishes_in(sums)
            self.tally.take_in(state, sums)
        state.images_seen += dealing.images_of_update(state.images_seen)
        has_ended_epoch = state.images_seen == dealing.num_images
        if has_ended_epoch or self._pace.is_over(state.epoch, state.updates):
            self.tally.share(state)
            self.tally.check_learned(state)
        if has_ended_epoch:
            state.epoch, state.images_seen = state.epoch + 1, 0
            state.unreadable = torch.zeros_like(state.unreadable)
        state.ema.update(state.model, state.updates)
        data_wait = sum(counts[-1] for _, counts in passes)
        pulse_of(self._comm).add(state.updates, data_wait, self._comm_waited)
        return rate

    def settle(self, state: TrainState, is_saved: bool) -> None:
        """Makes the state one for all ranks, as evaluation and checkpoints need it; every rank.
        is_saved: a checkpoint follows."""
        self._saved = time.monotonic() if is_saved else self._saved
        self.tally.share(state)
        self._rounds.settle(state)
        state.compression = self._comm.settle_compression()
        has_own_norms = not (self._config.train.sync_bn or self._config.train.freeze_bn)
        models = [state.model, state.ema.module]
        batch_norm.average_statistics(models, self._comm, has_own_norms)

    def _step(self, state: TrainState, sums: Tensor, share: float) -> bool:
        """Unscales, corrects the divisor to the update's own, clips and steps, unless a gradient is
        not finite, which it returns. share: see next_weights."""
        last, weight = state.loss_weights[0], weight_of(sums)
        weight = torch.where(is_divisor(weight), weight, last)
        state.scaler.unscale_(state.optimizer)
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, last / weight)
        self.grad_norm = torch.nn.utils.clip_grad_norm_(
            state.model.parameters(), self._config.optim.clip_norm or float("inf")
        )
        is_finite = bool(self.grad_norm.isfinite())
        # The scaler has looked for itself in unscale_(); a norm may overflow beyond what it finds.
        if is_finite:
            state.scaler.step(state.optimizer)
        is_lossy = self._config.comm.is_lossy
        scale = state.scaler.get_scale() if is_lossy else 1.0
        state.scaler.update()
        if is_lossy:
            # What is kept goes with the next update, in its divisor and scale.
            divisor = next_weights(state, sums, share)[0]
            self._comm.rescale_unsent(last / divisor * (state.scaler.get_scale() / scale))
        return is_finite

    def _leave_out(self, state: TrainState, own: list[Losses], is_local: bool) -> None:
        """Tells whose losses, of which images, were not finite; every rank, or of a local update
        the one. Raises InputError, or asks for a stop, when that was so too many times in a row."""
        # BatchNorm has seen it too.
        for ours, average in zip(state.model.buffers(), state.ema.module.buffers(), strict=True):
            if not bool(ours.isfinite().all()):
                ours.copy_(average)
        is_own = not all(bool(value.isfinite()) for one in own for value in one.terms.values())
        told = [self._comm.rank, is_own, self._image_ids]
        found = [told] if is_local else gather_json(self._comm, told)
        what = "loss" if any(is_bad for _, is_bad, _ in found) else "gradient"
        named = [f"rank {rank}, images {ids}" for rank, is_bad, ids in found if is_bad]
        named = named or [f"rank {rank}, images {ids}" for rank, _, ids in found]
        message = (
            f"update {state.updates} is left out: its {what} is not finite ({'; '.join(named)})"
        )
        most = self._config.train.max_bad_updates
        if not state.scaler.is_enabled() or state.bad_updates > most:
            if not is_local:
                self._tell(state.updates, "not finite", message)
            if is_local or self._comm.is_main:
                log(self._comm).error("%s", message)
        if state.bad_updates > most:
            many = f"{state.bad_updates} updates in a row were left out, train.max_bad_updates is"
            if is_local:
                self._stop.fault = f"{many} {most}; {AGAINST_DIVERGENCE}"
                return
            if self._config.train.on_divergence == "rollback":
                self.diverged = f"{many} {most}"
                return
            raise InputError(
                f"{many} {most}: {message}; {AGAINST_DIVERGENCE}; weights and last checkpoint are "
                "those of before"
            )

    def _end_local(self, state: TrainState, sums: Tensor, share: float) -> None:
        """Puts the ranks together where a round ends; divisors are shared there too, and before
        they are known. share: see next_weights."""
        is_round_over = state.updates % self._config.comm.sync_every == 0
        if is_round_over or len(state.loss_weights) == 1:
            shared = self._comm.sum(sums)
            state.loss_weights = next_weights(state, shared, share)
            self.wishes = wishes_in(shared)
        sent = self._rounds.meet(state) if is_round_over else 0
        self.tally.keep_own(sums, sent)

    def _wishes(self) -> Wishes:
        """What this rank wishes. Clocks differ, so that of rank 0 counts."""
        minutes = self._config.checkpoint.every_minutes
        is_save_due = minutes > 0 and time.monotonic() - self._saved > 60 * minutes
        return Wishes(
            bool(self._stop.reason), is_save_due and self._comm.is_main, self._comm.has_news
        )

    def _now(self) -> float:
        """The time at which the device has done what it was told, where ranks wait for ranks."""
        if self._comm.device.type == "cuda" and self._comm.size > 1:
            torch.cuda.current_stream().synchronize()
        return time.monotonic()

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


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Puts restored momenta into the layout of their weights; elementwise arithmetic gives the same
    bits, faster."""
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim == 4:
                state[name] = value.contiguous(memory_format=torch.channels_last)
