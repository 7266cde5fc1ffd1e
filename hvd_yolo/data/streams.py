"""The frames of a network stream, as they come: there is one receiver, and no frame twice."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import cv2
import numpy as np

from hvd_yolo.data.dataset import Annotations
from hvd_yolo.data.decoding import Scaled, scaled
from hvd_yolo.data.sources import Place, no_annotations
from hvd_yolo.data.videos import frame_rate
from hvd_yolo.errors import InputError

_STREAM = re.compile(r"(rtsps?|https?)://", re.IGNORECASE)


def is_stream(source: str) -> bool:
    """Whether a source is an address to receive frames from."""
    return _STREAM.match(source) is not None


def shown(url: str) -> str:
    """An address without user name, password and query, which are nobody else's business."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Stream:
    """An open stream. rate: frames a second; name: a file name for it, of the end of its
    address."""

    def __init__(self, url: str) -> None:
        """Raises InputError when it cannot be opened."""
        self.shown = shown(url)
        last = PurePosixPath(urlsplit(url).path).name
        self.name = re.sub(r"[^\w.-]", "_", last).lstrip(".") or "stream"
        self._video = cv2.VideoCapture(url)
        if not self._video.isOpened():
            raise InputError(
                f"source {self.shown}: the stream cannot be opened; does a player show it from "
                "this host?"
            )
        self.rate = frame_rate(self._video)

    def frames(self) -> Iterator[np.ndarray]:
        """The frames (H, W, 3) uint8 BGR until the stream ends."""
        while (frame := self._video.read()[1]) is not None:
            yield frame


@dataclass
class FrameBlock:
    """A Dataset of consecutive frames of a stream; `first` is the number of the first of them."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    frames: Sequence[np.ndarray]
    first: int
    name: str
    is_clean = True
    has_truth = False

    def __len__(self) -> int:
        return len(self.frames)

    def place(self, index: int) -> Place:
        """The name of the stream and the number of the frame."""
        return Place(self.name, self.first + index)

    def image(self, index: int) -> np.ndarray:
        """The frame."""
        return self.frames[index]

    def scaled(self, index: int, size: int) -> Scaled:
        """The frame, its long side cut to at most `size`."""
        image = self.frames[index]
        return scaled(image.shape[1], image.shape[0], size, lambda: image)

    def fingerprint(self) -> bytes:
        """Frames pass and do not come back."""
        return repr((self.name, self.first)).encode()

    def image_id(self, index: int) -> int:
        """The number of the frame, from 1."""
        return self.first + index

    def annotations(self, index: int, width: int, height: int, orientation: int = 1) -> Annotations:
        """None are known."""
        return no_annotations()

    def is_turned(self, index: int, width: int, height: int, orientation: int) -> bool:
        """There are no boxes to turn."""
        return False


def blocks(
    stream: Stream,
    size: int,
    names: tuple[str, ...],
    category_ids: tuple[int, ...],
    is_stopped: Callable[[], bool],
) -> Iterator[FrameBlock]:
    """The frames in blocks of at most `size`, until the stream ends or is_stopped() says so."""
    frames = stream.frames()
    first = 1
    while not is_stopped():
        taken: list[np.ndarray] = []
        for frame in islice(frames, size):
            taken.append(frame)
            if is_stopped():
                break
        if not taken:
            return
        yield FrameBlock(names, category_ids, taken, first, stream.name)
        first += len(taken)
