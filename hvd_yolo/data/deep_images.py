"""Images of more than 8 bits per sample in a data set, and the range of their values.

Scanners, cameras and microscopes store 10, 12 or 14 bits in files of 16, or floating-point numbers.
What is white in them only the data set as a whole tells: the full scale of the least bit depth that
holds its largest value.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from hvd_yolo.data.decoding import UnreadableImage, decode_deep
from hvd_yolo.data.headers import pixel_format
from hvd_yolo.data.problems import NUM_EXAMPLES, Problem
from hvd_yolo.errors import InputError

logger = logging.getLogger(__name__)

# The formats that can hold more than 8 bits; no file of another name is looked at.
DEEP_SUFFIXES = (".png", ".tif", ".tiff")

# Of the bit depths of cameras and of integers.
_FULL_SCALES = tuple(float((1 << bits) - 1) for bits in (8, 10, 12, 14, 16, 20, 24, 32))

# Floating-point values up to here are shares of white: sharpening and resampling exceed 1.
_LARGEST_SHARE = 2.0

# An image is dark whose largest value lies four bits or more below the range.
_DARK_SHARE = 1 / 16

# Heads are waited for, pixels are computed.
_READ_THREADS, _DECODE_THREADS = 16, 2


class FileBytes(Protocol):
    """The bytes of image files, by index; methods raise UnreadableImage."""

    def item(self, index: int) -> np.ndarray | None:
        """All (n) uint8 of one."""
        ...

    def part(self, index: int, start: int, length: int) -> bytes:
        """Those from `start` on, at most `length`."""
        ...


class Extent(NamedTuple):
    """What the values of one deep image are.

    largest: of those that are finite; is_float: floating-point; num_clipped: values that are
    negative, infinite or not numbers.
    """

    file: str
    largest: float
    is_float: bool
    num_clipped: int


def find_deep(files: Sequence[str], storage: FileBytes, share: slice = slice(None)) -> list[int]:
    """Indices of the images of more than 8 bits, by their heads; of a `share` of those whose names
    allow it. What cannot be read is left out, as reading it will tell."""
    names = np.asarray(files).tolist()
    candidates = [
        index for index, file in enumerate(names) if file.lower().endswith(DEEP_SUFFIXES)
    ][share]
    if not candidates:
        return []
    # A piece per task: handing over each file by itself would take longer than reading its head.
    pieces = [candidates[start : start + 256] for start in range(0, len(candidates), 256)]
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        looks = pool.map(lambda piece: [i for i in piece if _is_deep(storage, i)], pieces)
        return [index for piece in looks for index in piece]


def _is_deep(storage: FileBytes, index: int) -> bool:
    try:
        return pixel_format(partial(storage.part, index)).is_deep
    except UnreadableImage:
        return False


def extents(
    files: Sequence[str], storage: FileBytes, indices: Sequence[int]
) -> Iterator[Extent | None]:
    """The extent of each deep image of `indices`, decoded as it is asked for; None for one that
    cannot be decoded, which reading it will name."""

    def take(index: int) -> Extent | None:
        """One image's."""
        file = str(files[index])
        try:
            return _extent(file, decode_deep(storage.item(index), file))
        except UnreadableImage:
            return None

    with ThreadPoolExecutor(_DECODE_THREADS) as pool:
        # In pieces, for a pool begins with all that it is given.
        for start in range(0, len(indices), 32):
            yield from pool.map(take, indices[start : start + 32])


def _extent(file: str, values: np.ndarray) -> Extent:
    if values.dtype.kind == "u":
        return Extent(file, float(values.max()), False, 0)
    # Geographic data marks missing values by numbers near the largest of the type.
    is_valid = (values >= 0) & (values <= _FULL_SCALES[-1])
    largest = float(np.max(values, where=is_valid, initial=0))
    num_clipped = int(values.size - np.count_nonzero(is_valid))
    return Extent(file, largest, values.dtype.kind == "f", num_clipped)


def choose_range(found: Sequence[Extent]) -> float:
    """The value that is white in all images: 1 for floating-point images of shares, else the full
    scale of 8, 10, 12, 14, 16 or more bits; 0 for no images.

    Raises InputError where integers lie beside shares, which one range would make black.
    """
    if not found:
        return 0.0
    floats = [extent for extent in found if extent.is_float]
    integers = [extent for extent in found if not extent.is_float and extent.largest > 0]
    brightest = max(floats, key=lambda extent: extent.largest, default=None)
    if brightest is not None and brightest.largest <= _LARGEST_SHARE:
        if not integers:
            return 1.0
        raise InputError(
            f"{brightest.file} holds floating-point values up to {brightest.largest:g}, "
            f"{integers[0].file} integers up to {integers[0].largest:.10g}: they have no value "
            "range in common; convert the images to one range"
        )
    largest = max(extent.largest for extent in found)
    # Integers of 64 bits alone exceed the last.
    return next((scale for scale in _FULL_SCALES if largest <= scale), largest)


def describe_range(value_range: float, found: Sequence[Extent]) -> str:
    """A line on a range and the images that it was determined from."""
    largest = max(extent.largest for extent in found)
    return (
        f"value range 0 to {value_range:.10g}: the largest value of {len(found)} images of more "
        f"than 8 bits per sample is {largest:.10g}"
    )


def range_problems(
    value_range: float, found: Sequence[Extent], is_own: bool = True
) -> list[Problem]:
    """What is clipped in images that are read with a value range, and what comes out dark, unless
    the range is that of other images."""
    kinds = {
        "images with values that are negative, infinite or not numbers, clipped": [
            f"{extent.file}: {extent.num_clipped}" for extent in found if extent.num_clipped
        ],
        f"images with values above the value range of {value_range:.10g}, clipped": [
            f"{extent.file}: {extent.largest:.10g}"
            for extent in found
            if extent.largest > value_range
        ],
        f"images that use less than 1/16 of the value range of {value_range:.10g} and come out "
        "dark; if they are of another bit depth than the rest, scale them to one": [
            f"{extent.file}: {extent.largest:.10g}"
            for extent in found
            if is_own and extent.largest < value_range * _DARK_SHARE
        ],
    }
    return [
        Problem("warning", what, len(places), places[:NUM_EXAMPLES])
        for what, places in kinds.items()
        if places
    ]


def range_of(files: Sequence[str], storage: FileBytes) -> float:
    """The value range of a data set that this process alone determines; 0 where no image has more
    than 8 bits."""
    decoded = extents(files, storage, find_deep(files, storage))
    found = [extent for extent in decoded if extent is not None]
    value_range = choose_range(found)
    if value_range:
        logger.info("%s", describe_range(value_range, found))
    return value_range
