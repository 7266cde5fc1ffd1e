"""Batches that are made before the first step, so that a step is timed without its loader."""

from collections.abc import Iterator
from itertools import cycle

from hvd_yolo import feed
from hvd_yolo.comm import Comm
from hvd_yolo.config import Config
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.loader import Batch
from hvd_yolo.pace import Pace


def repeated_batches(
    config: Config, comm: Comm, train_set: Dataset, pace: Pace, stride: int, number: int
) -> Iterator[Batch]:
    """The first batch of each of the first `number` epochs, again and again.

    Each comes from a loader of its own that is asked for no other batch, so its memory is not used
    again.
    """
    config.workers = 0
    batches = [
        next(feed.open_training(config, comm, train_set, pace, stride, (epoch, 0)))
        for epoch in range(number)
    ]
    return cycle(batches)
