"""One value range for the deep images of a run, determined together by all ranks."""

import logging
from collections.abc import Sequence

import numpy as np

from hvd_yolo import cli
from hvd_yolo.comm import Comm, gather_json
from hvd_yolo.data.cache import CachedImages
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.deep_images import (
    Extent,
    choose_range,
    describe_range,
    extents,
    find_deep,
    range_problems,
)
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.data.problems import log_problems
from hvd_yolo.data.sources import Sources

logger = logging.getLogger(__name__)

# Deep images that are compared with a range that is already known, over all ranks.
_NUM_COMPARED = 64

_Files = ImageFiles | Sources


def set_value_range(dataset: Dataset, value_range: float) -> None:
    """Gives a data set the range of the training whose detector looks at it; 0, of a training
    without deep images: it determines its own."""
    files = _files_of(dataset)
    if files is not None and value_range:
        files.value_range = value_range


def share_value_range(datasets: Sequence[Dataset | None], known: float, comm: Comm) -> float:
    """Gives the data sets one value range and returns it; 0 where no image has more than 8 bits.

    known: the range of the training, which is kept; 0: determined from all deep images, of which
    each rank decodes its share. Every rank calls it with the same data sets. Raises InputError on
    all ranks where there is none.
    """
    all_files = [files for files in map(_files_of, datasets) if files is not None]
    found = [_gather_extents(files, comm, _NUM_COMPARED if known else 0) for files in all_files]
    everything = [extent for extents_of_one in found for extent in extents_of_one]
    value_range = known or choose_range(everything)
    if everything and not known:
        logger.info("%s", describe_range(value_range, everything))
    for files, own in zip(all_files, found, strict=True):
        files.value_range = value_range
        problems = range_problems(value_range, own, is_own=not known)
        log_problems(f"value range, {len(own)} images looked at", problems)
        if isinstance(files, ImageFiles):
            # Ranks of an elastic job that come later make all look again.
            files.problems.extend(one for one in problems if one not in files.problems)
    return value_range


def range_as_trained(datasets: Sequence[Dataset], trained_range: float, comm: Comm) -> None:
    """Gives the data that a trained detector looks at the range of its training; where that saw 8
    bits alone, the range of the data, with a warning. Every rank calls it."""
    value_range = share_value_range(datasets, trained_range, comm)
    if value_range and not trained_range:
        logger.warning(
            "value range: the detector was trained on images of 8 bits and has none; images of "
            "more bits are scaled by their own, %.10g",
            value_range,
        )


def _files_of(dataset: Dataset | None) -> _Files | None:
    """What can hold deep images."""
    if isinstance(dataset, CachedImages):
        dataset = dataset.dataset
    return dataset if isinstance(dataset, ImageFiles | Sources) else None


def _gather_extents(files: _Files, comm: Comm, num_most: int) -> list[Extent]:
    """What the deep images hold, all of them or, spread evenly, `num_most`; each rank decodes its
    share."""
    own = find_deep(files.files, files.storage, slice(comm.rank, None, comm.size))
    deep = np.sort(np.concatenate([np.array(part, int) for part in gather_json(comm, own)]))
    if num_most and len(deep) > num_most:
        deep = deep[np.linspace(0, len(deep) - 1, num_most).astype(int)]
    mine = deep[comm.rank :: comm.size].tolist()
    decoded = extents(files.files, files.storage, mine)
    # No bar where there is nothing to show.
    shown = cli.progress(mine, "determining the value range") if mine else ()
    taken = [next(decoded) for _ in shown]
    return [Extent(*one) for part in gather_json(comm, taken) for one in part if one is not None]
