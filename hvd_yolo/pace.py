"""How far and how fast a run goes: images per update, passes, updates and the learning rate, from
config and size."""

import math
import time
from dataclasses import dataclass

from hvd_yolo.config import Config
from hvd_yolo.data.order import Dealing
from hvd_yolo.optim import RateSchedule, scaled_rate


@dataclass(frozen=True)
class Pace:
    """Everything that depends on the number of ranks. Computed at each start, never stored."""

    dealing: Dealing
    rates: RateSchedule
    epochs: int
    max_updates: int
    closing_epoch: int
    scaling: str

    def rate(self, epoch: int, images_seen: int) -> float:
        """The learning rate of the update that starts after `images_seen` images of `epoch`."""
        return self.rates.at(epoch + images_seen / self.dealing.num_images)

    def is_over(self, epoch: int, updates: int) -> bool:
        """Whether a run that has come so far has reached its last epoch or its last update.

        By epochs, not by a number of updates: a run resumed on other ranks makes another number of
        them in an epoch.
        """
        return epoch >= self.epochs or (self.max_updates > 0 and updates >= self.max_updates)

    def total_updates(self, epoch: int, images_seen: int, updates: int) -> int:
        """How many updates a run will have made at its end that has come so far."""
        left = (self.epochs - epoch) * self.dealing.updates_per_epoch
        left -= -(-images_seen // self.dealing.global_batch)
        total = updates + max(0, left)
        # A limit that was lowered since may lie behind the run.
        return max(updates, min(total, self.max_updates)) if self.max_updates else total

    def banner(self) -> str:
        """The arithmetic of batch and rate, in words."""
        d, r = self.dealing, self.rates
        per_rank = sorted({-(-d.global_batch // d.size), d.global_batch // d.size})
        passes = f" in {d.passes} passes of at most {d.micro_batch}" if d.passes > 1 else ""
        return (
            f"batch: {d.global_batch} images an update = {' or '.join(map(str, per_rank))} on "
            f"each of {d.size} "
            f"rank{'s' if d.size > 1 else ''}{passes}; {d.updates_per_epoch} updates an epoch of "
            f"{d.num_images} "
            f"images, {self.total_updates(0, 0, 0)} in all\n"
            f"rate: {r.start:g} at first, {r.peak:g} at its peak ({self.scaling}) after "
            f"{r.warmup_epochs:g} epochs of warmup, {r.shape} to {r.peak * r.final:g}"
        )


def smallest_micro_batch(dealing: Dealing) -> int:
    """The fewest images that any rank has in a pass of any update, but for none."""
    last = dealing.num_images % dealing.global_batch
    updates = {min(dealing.global_batch, dealing.num_images), last}
    shares = {n for images in updates for n in (images // dealing.size, -(-images // dealing.size))}
    return min(n % dealing.micro_batch or dealing.micro_batch for n in shares if n)


def make_pace(config: Config, num_images: int, size: int) -> Pace:
    """The pace of a run over `num_images` training images on `size` ranks.

    With global_batch the images per update and the rate are the same on any number of ranks; else a
    rank takes batch_size x train.accumulate images and the rate is scaled by ranks x accumulate.
    With Adasum the ranks do not count: where their gradients are orthogonal it adds them up, which
    is that scaling, and where they agree it does not (Maleki et al. 2021, section 3).
    """
    if config.global_batch:
        multiple, global_batch = 1, config.global_batch
        scaling = f"global_batch is fixed: the {size} ranks do not change it"
    else:
        accumulate = config.train.accumulate
        global_batch = config.batch_size * size * accumulate
        passes = f"x {accumulate} passes " if accumulate > 1 else ""
        if config.comm.op == "adasum":
            multiple = accumulate
            scaling = f"{config.optim.lr:g} {passes}{config.optim.lr_scaling}: Adasum scales itself"
        else:
            multiple = size * accumulate
            scaling = f"{config.optim.lr:g} x {size} ranks {passes}{config.optim.lr_scaling}"
    dealing = Dealing(num_images, global_batch, config.batch_size, size)
    length = float(config.epochs)
    if 0 < config.max_updates < config.epochs * dealing.updates_per_epoch:
        whole, rest = divmod(config.max_updates, dealing.updates_per_epoch)
        length = whole + rest * global_batch / num_images
    rates = RateSchedule(
        start=config.optim.lr * config.optim.warmup_start,
        peak=scaled_rate(config.optim.lr, config.optim.lr_scaling, multiple),
        epochs=length,
        warmup_epochs=config.optim.warmup_epochs,
        shape=config.optim.schedule,
        final=config.optim.final_lr,
    )
    closing_epoch = max(0, math.ceil(length) - config.augment.close_mosaic)
    return Pace(dealing, rates, config.epochs, config.max_updates, closing_epoch, scaling)


class Interval:
    """So many `minutes` since restart() was called last, or since this was made; 0: for ever."""

    def __init__(self, minutes: float) -> None:
        self._minutes = minutes
        self.restart()

    def restart(self) -> None:
        """It is done now."""
        self._start = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether it is due again, by the clock of this process."""
        return 0 < 60 * self._minutes < time.monotonic() - self._start
