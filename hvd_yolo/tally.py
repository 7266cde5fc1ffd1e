"""What updates come to, added up over micro-batches, ranks and updates: images, losses with their
divisors, bytes sent and time waited."""

from typing import NamedTuple

import torch
from torch import Tensor

from hvd_yolo.comm import Comm, gather_json
from hvd_yolo.config.data_options import num_unreadable_allowed
from hvd_yolo.errors import InputError
from hvd_yolo.models.losses import Losses
from hvd_yolo.outcome import to_device
from hvd_yolo.state import TrainState

# The first entries of the vector that is summed over ranks with each update; the loss terms follow,
# and then their divisors.
_WEIGHT, _IMAGES, _OBJECTS, _UNREADABLE, _UPDATES, _SENT, _DATA_WAIT, _COMM_WAIT = range(8)
WISHES = slice(8, 12)
_TERMS = 12


class Wishes(NamedTuple):
    """What a rank wishes, or any of them: to stop, to write a checkpoint, to begin again with other
    ranks, to evaluate."""

    stop: bool = False
    save: bool = False
    regroup: bool = False
    evaluate: bool = False


class Window(NamedTuple):
    """The updates between two lines of progress.

    losses: means by term; images: over all ranks; sent_bytes: of gradients or weights, by a rank in
    an update, without those of a checkpoint; data_wait and comm_wait: seconds a rank waited for
    images and for the other ranks, means over ranks; updates: how many.
    """

    losses: dict[str, float]
    images: float
    sent_bytes: float
    data_wait: float
    comm_wait: float
    updates: float


class Tally:
    """Adds up vectors of float64 on the device, one an update, into TrainState's window and counts
    of objects and unreadable images."""

    def __init__(self, comm: Comm, max_unreadable: float, num_images: int) -> None:
        """max_unreadable: loader.max_unreadable; num_images: of an epoch."""
        self._comm = comm
        self._num_images = num_images
        self._max_unreadable = max_unreadable
        self._waits: Tensor | None = None
        # Of local updates, this rank's alone, since the ranks last added them up.
        self._own: Tensor | None = None

    def of_update(
        self,
        state: TrainState,
        passes: list[tuple[Losses | None, list[float]]],
        sent_bytes: float,
        comm_wait: float,
        wishes: Wishes,
    ) -> Tensor:
        """This rank's vector of an update.

        passes: losses of each micro-batch, with its images, objects, unreadable images and seconds
        of wait for them; comm_wait: seconds of the update before, for this one's wait is not over.
        """
        names = state.term_names or []
        images, objects, unreadable, data_wait = (
            sum(column) for column in zip(*(counts for _, counts in passes), strict=True)
        )
        # In the order of the first entries; the weight comes below.
        fixed = [0.0, images, objects, unreadable, 1.0, sent_bytes, data_wait, comm_wait, *wishes]
        own = to_device([*map(float, fixed), *[0.0] * 2 * len(names)], self._comm.device)
        for losses, _ in passes:
            if losses is not None:
                values = [losses.terms[name] for name in names]
                weights = [losses.weight_of(name) for name in names]
                found = torch.stack([x.detach() for x in (*values, *weights, losses.weight)])
                own[_TERMS:].add_(found[:-1])
                own[_WEIGHT].add_(found[-1])
        return own

    def agree_on_terms(self, state: TrainState, losses: Losses | None) -> None:
        """Learns the names of the loss terms once: every rank, before each backward pass, None from
        a rank whose share is empty."""
        if state.term_names is None:
            own = None if losses is None else sorted(losses.terms)
            known = [names for names in gather_json(self._comm, own) if names is not None]
            state.term_names = known[0] if known else None

    def take_in(self, state: TrainState, sums: Tensor) -> None:
        """Adds sums over all ranks.

        Times are kept apart from the rest, and wishes forgotten: a checkpoint holds the window, and
        time must not change its bits.
        """
        self._waits = _added(self._waits, sums[_DATA_WAIT : _COMM_WAIT + 1].clone())
        sums[_DATA_WAIT:_TERMS].zero_()
        state.unreadable = state.unreadable + sums[_UNREADABLE]
        state.objects = state.objects + sums[_OBJECTS]
        state.window = _added(state.window, sums)

    def keep_own(self, own: Tensor, sent_bytes: int) -> None:
        """Adds a vector of this rank alone, until share(), and bytes that came after it."""
        own[_SENT].add_(sent_bytes)
        self._own = _added(self._own, own)

    def share(self, state: TrainState) -> None:
        """Takes in what the ranks kept; every rank."""
        if self._own is not None:
            self.take_in(state, self._comm.sum(self._own))
            self._own = None

    def close_window(self, state: TrainState) -> Window:
        """The updates since the last call; every rank.

        Raises InputError on all ranks when too many images of the epoch could not be read.
        """
        self.share(state)
        # All that the host looks at, at once.
        found = torch.cat((self._waits / self._comm.size, state.unreadable.view(1), state.window))
        data_wait, comm_wait, unreadable, *sums = found.tolist()
        state.window = self._waits = None
        self._check_unreadable(unreadable)
        names = state.term_names or []
        values, weights = sums[_TERMS : _TERMS + len(names)], sums[_TERMS + len(names) :]
        losses = {
            name: value / max(weight, 1.0)
            for name, value, weight in zip(names, values, weights, strict=True)
        }
        sent_bytes = sums[_SENT] / sums[_UPDATES]
        updates = sums[_UPDATES] / self._comm.size
        return Window(losses, sums[_IMAGES], sent_bytes, data_wait, comm_wait, updates)

    def _check_unreadable(self, unreadable: float) -> None:
        """Raise InputError when too many images of the epoch could not be read."""
        allowed = num_unreadable_allowed(self._max_unreadable, self._num_images)
        if unreadable > allowed:
            raise InputError(
                f"{int(unreadable)} images of this epoch could not be read, "
                f"loader.max_unreadable {self._max_unreadable:g} allows {allowed} of "
                f"{self._num_images}; each is named above: repair or remove them, or raise the "
                "limit"
            )

    def check_learned(self, state: TrainState) -> None:
        """Raise InputError where an epoch, or the run, ends and there was nothing to learn from:
        no image could be read, or no object was on any of them."""
        unreadable, objects = torch.stack((state.unreadable, state.objects)).tolist()
        self._check_unreadable(unreadable)
        num_seen = state.images_seen
        if objects > 0:
            return
        if unreadable >= num_seen:
            raise InputError(
                f"none of the {num_seen} training images of this run could be read; each is named "
                "above: there is nothing to learn from"
            )
        raise InputError(
            f"no object was on any of the {num_seen} training images of this run: there is nothing "
            "to learn from. A run of a few updates may end before any comes; boxes that lie "
            "outside their images are left out: `python -m hvd_yolo.data check` names them"
        )


def weight_of(sums: Tensor) -> Tensor:
    """The divisor of the losses in a vector of an update."""
    return sums[_WEIGHT]


def has_bad_term(own: Tensor) -> Tensor:
    """Whether a loss in a rank's vector of an update is not finite (bool scalar)."""
    return ~own[_TERMS:].isfinite().all()


def next_weights(state: TrainState, sums: Tensor, share: float) -> Tensor:
    """The divisor of the losses and of each term by which the next update is scaled, from the sums
    of one that had `share` of the images of most; where it has none, as without an object, those of
    before. Of all images: after the short update at the end of an epoch the loss of the next would
    else be many times as large as ever, which float16 cannot hold."""
    names = state.term_names or []
    found = torch.cat((sums[_WEIGHT : _WEIGHT + 1], sums[_TERMS + len(names) :]))
    return torch.where(is_divisor(found), found / share, state.loss_weights)


def is_divisor(weights: Tensor) -> Tensor:
    """Which of them can divide a loss: an update without objects has none."""
    return weights.isfinite() & (weights >= 1.0)


def _added(total: Tensor | None, sums: Tensor) -> Tensor:
    """Their sum; before the first readable image nobody knows how many terms the loss has."""
    if total is None:
        return sums
    if len(total) == len(sums):
        return sums + total
    return sums + torch.nn.functional.pad(total, (0, len(sums) - len(total)))
