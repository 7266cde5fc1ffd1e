"""A detector that is not built in, checked against the run that it is to be trained in."""

import logging

from torch import nn

from hvd_yolo import feed
from hvd_yolo.comm import Comm
from hvd_yolo.config import Config
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.errors import InputError
from hvd_yolo.models.trial import try_detector
from hvd_yolo.pace import make_pace, smallest_micro_batch

logger = logging.getLogger("hvd_yolo.start")


def check_foreign(model: nn.Module, config: Config, comm: Comm, train_set: Dataset) -> None:
    """Try a detector that is not built in on the smallest batch of the run, and log what becomes of
    what it learns beside its weights. Raises InputError where it cannot be trained."""
    smallest = _smallest_batch(config, comm, len(train_set))
    name = config.model
    learned = try_detector(model, name, len(train_set.names), config.imgsz, smallest)
    if config.train.sync_bn and learned.statistics:
        raise InputError(
            f"train.sync_bn: {', '.join(learned.statistics[:3])} of model {name} are statistics of "
            "norms that are not torch's BatchNorm2d, which cannot be made ones over all ranks; "
            "train without train.sync_bn, and they are averaged before evaluation and saving"
        )
    if learned.buffers and comm.size > 1:
        told = f"{len(learned.buffers)} buffers that training changes ({learned.buffers[0]}, ...)"
        logger.info(
            "model %s: %s are averaged over ranks where it is evaluated or saved", name, told
        )
    if learned.unsaved:
        logger.warning(
            "model %s: training changes %s, which the state dict does not hold: each rank has its "
            "own, and a run that is resumed begins with new ones; register_buffer() would keep "
            "and average them",
            name,
            ", ".join(learned.unsaved[:3]),
        )


def _smallest_batch(config: Config, comm: Comm, num_images: int) -> tuple[int, int]:
    """The fewest images that a rank has in a pass, and the smallest side that they can have."""
    side = feed.smallest_side(config, 32)
    if config.train.freeze_bn or config.train.sync_bn:
        return 2, side
    if config.batch_size == -1:
        return 1, side
    return smallest_micro_batch(make_pace(config, num_images, comm.size).dealing), side
