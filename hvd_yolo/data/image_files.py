"""The data set that lives in image files."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hvd_yolo.data.dataset import WHOLE, Annotations
from hvd_yolo.data.decoding import (
    OtherSize,
    Scaled,
    UnreadableImage,
    is_deep,
    open_image,
    read_file,
    read_part,
)
from hvd_yolo.data.deep_images import range_of
from hvd_yolo.data.orientation import turn_boxes
from hvd_yolo.data.problems import Problem

# A network file system answers many questions at once as fast as one.
NETWORK_THREADS = 16


class Contents(Protocol):
    """The bytes of image files."""

    def item(self, index: int) -> np.ndarray | None:
        """Those of one file (n) uint8; None if it could not be read when they were fetched."""
        ...


class Storage(Contents, Protocol):
    """Where a data set keeps its image files."""

    def num_bytes(self, index: int) -> int:
        """The length of one file, without reading it; raises UnreadableImage."""
        ...

    def part(self, index: int, start: int, length: int) -> bytes:
        """The bytes of one file from `start` on, at most `length`; raises UnreadableImage."""
        ...

    def fingerprint(self) -> bytes:
        """Changes when a file does, as far as that can be told without reading it."""
        ...


@dataclass
class LooseFiles:
    """Storage in which every image is a file of the file system."""

    files: np.ndarray

    def item(self, index: int) -> np.ndarray:
        """The file, read."""
        return read_file(str(self.files[index]))

    def num_bytes(self, index: int) -> int:
        """As the file system has it."""
        file = str(self.files[index])
        try:
            return os.stat(file).st_size
        except OSError as error:
            raise UnreadableImage(f"{file}: {error.strerror}") from error

    def part(self, index: int, start: int, length: int) -> bytes:
        """Read at its place."""
        return read_part(str(self.files[index]), start, length)

    def fingerprint(self) -> bytes:
        """Names, lengths and times of change."""
        files = self.files.tolist()
        return repr((files, lengths_and_times(files))).encode()


@dataclass
class ImageFiles:
    """A Dataset of files, whose annotations lie in flat arrays.

    `files` (N) are their names, `storage` has them; `contents`, if given, is a copy that is read in
    its place. Image i owns the rows offsets[i] to offsets[i + 1] of boxes (M, 4), labels, areas and
    is_crowd (M). Boxes and areas are pixels, or shares of the image if `is_normalized`. `problems`:
    what the reader corrected, left out or could not use. `value_range`: the value that is white in
    images of more than 8 bits per sample, 0 where there are none; None: not determined yet.
    `keypoints` (M, K, 2 or 3), where the data set has them: x and y in the unit of the boxes, and
    the visibility as it is written.
    `sizes` (N, 2): width and height that the annotations state, 0 where they do not; None: of no
    image. `is_clipped`: annotations() cuts the boxes to the image. `has_truth`: False where the
    annotations of the split are withheld.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    files: np.ndarray
    storage: Storage
    ids: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray
    is_normalized: bool
    contents: Contents | None = None
    problems: list[Problem] = field(default_factory=list)
    value_range: float | None = None
    keypoints: np.ndarray | None = None
    sizes: np.ndarray | None = None
    is_clipped: bool = False
    has_truth: bool = True

    def __post_init__(self) -> None:
        # Of pixels it cannot be told without the images.
        is_inside = self.is_normalized and ((self.boxes >= 0) & (self.boxes <= 1)).all()
        has_area = (self.boxes[:, 2:] > self.boxes[:, :2]).all()
        self.is_clean = bool(is_inside and has_area and not self.is_crowd.any())

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> np.ndarray:
        """The decoded file, turned upright as its EXIF says."""
        return self.scaled(index, WHOLE).pixels()

    def scaled(self, index: int, size: int) -> Scaled:
        """The file's image, its long side cut to at most `size`; raises OtherSize, an
        UnreadableImage, where the annotations are of an image of another size."""
        encoded = self.encoded(index)
        value_range = self.settled_range() if is_deep(encoded) else 0.0
        found = open_image(encoded, str(self.files[index]), size, value_range)
        stated = self._stated_size(index)
        sides = found.width, found.height
        if any(stated) and stated != sides and not self.is_turned(index, *sides, found.orientation):
            raise OtherSize(
                f"{self.files[index]}: it is {sides[0]} x {sides[1]} pixels, its annotations are "
                f"of {stated[0]} x {stated[1]}, and their boxes do not fit it; export them "
                "again for the image as it is, or put back the image that was annotated"
            )
        return found

    def is_turned(self, index: int, width: int, height: int, orientation: int) -> bool:
        """Whether the annotations are of the image as it is stored, and EXIF displays it with its
        sides swapped, as width x height: then annotations() turns the boxes with it."""
        return orientation >= 5 and width != height and self._stated_size(index) == (height, width)

    def _stated_size(self, index: int) -> tuple[int, int]:
        if self.sizes is None:
            return 0, 0
        width, height = self.sizes[index].tolist()
        return width, height

    def settled_range(self) -> float:
        """The value range, determined from all images of the data set if it is not known yet."""
        if self.value_range is None:
            self.value_range = range_of(self.files, self.storage)
        return self.value_range

    def __getstate__(self) -> dict[str, Any]:
        # Determined here, not in each worker that the data set is sent to.
        self.settled_range()
        return self.__dict__

    def fingerprint(self) -> bytes:
        """Names, lengths and times of change of the files, or of what they are stored in, and the
        sizes that are stated: they decide which images can be used."""
        stated = b"" if self.sizes is None else self.sizes.tobytes()
        return self.storage.fingerprint() + stated

    def encoded(self, index: int) -> np.ndarray:
        """The bytes of the file; raises UnreadableImage when it cannot be opened."""
        kept = None if self.contents is None else self.contents.item(index)
        return self.storage.item(index) if kept is None else kept

    def image_id(self, index: int) -> int:
        """The data set's own number of the image."""
        return int(self.ids[index])

    def annotations(self, index: int, width: int, height: int, orientation: int = 1) -> Annotations:
        """The rows of the image, in pixels as it is displayed."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        boxes, areas, is_crowd = self.boxes[rows], self.areas[rows], self.is_crowd[rows]
        if self.is_normalized:
            boxes, areas = boxes * (width, height, width, height), areas * (width * height)
        elif self.is_turned(index, width, height, orientation):
            boxes = turn_boxes(boxes, orientation, height, width)
        if self.is_clipped:
            boxes = np.clip(boxes, 0, (width, height, width, height))
            sides = boxes[:, 2:] - boxes[:, :2]
            # What lies outside altogether is ignored, as crowds are.
            areas, is_crowd = sides.prod(1), is_crowd | (sides <= 0).any(1)
        return Annotations(boxes, self.labels[rows], areas, is_crowd)

    def image_keypoints(self, index: int, width: int, height: int) -> np.ndarray | None:
        """(N, K, 2 or 3), those of the image's rows with x and y in pixels; None where the data set
        has none."""
        if self.keypoints is None:
            return None
        found = self.keypoints[self.offsets[index] : self.offsets[index + 1]].copy()
        if self.is_normalized:
            found[..., :2] *= (width, height)
        return found


def lengths_and_times(files: Sequence[str]) -> list[tuple[int, int]]:
    """Bytes and time of change (ns) of each; -1, -1 where there is no such file."""
    with ThreadPoolExecutor(NETWORK_THREADS) as pool:
        return list(pool.map(_length_and_time, files, chunksize=256))


def _length_and_time(file: str) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        # Reading it will tell.
        return -1, -1
    return found.st_size, found.st_mtime_ns
