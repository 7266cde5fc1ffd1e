"""The frames of video files, each the one that reading from the start yields.

OpenCV finds a frame by its number through the time stamps and key frames of the file, and is wrong
where they are irregular: in MPEG program and transport streams, at a variable frame rate, after a
cut without encoding again. So a reader decodes from the start and passes over the frames that
others detect on: exact in every format that OpenCV reads, without another package or a table of
frames. Each process decodes the whole video for that, which costs a fraction of what a detector
does; the alternative, PyAV with an index of packets, would have to reproduce what FFmpeg drops,
repeats and turns, to give the same frames.
"""

import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hvd_yolo.data.decoding import UnreadableImage

# Frames a second where a file states none, or one that no player has.
_USUAL_RATE = 25.0
_LARGEST_RATE = 1000.0


class Length(NamedTuple):
    """The number of frames that can be read one after the other, and the number that the file
    states, which some formats only estimate."""

    num_frames: int
    stated: int


def measure(file: Path) -> Length:
    """The length of a video, decoded once; 0 frames if OpenCV cannot open it."""
    video = open_video(file)
    if video is None:
        return Length(0, 0)
    stated = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    num_frames = 0
    while video.grab():
        num_frames += 1
    video.release()
    return Length(num_frames, stated)


def open_video(file: Path) -> cv2.VideoCapture | None:
    """The video at its first frame; None if OpenCV cannot open it."""
    try:
        # FFmpeg takes what stands before a colon for a protocol, unless the path begins with /.
        video = cv2.VideoCapture(os.path.abspath(file))
    except cv2.error:
        return None
    return video if video.isOpened() else None


def frame_rate(video: cv2.VideoCapture) -> float:
    """Frames a second, on average; 25 where the source does not say."""
    rate = video.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate <= _LARGEST_RATE else _USUAL_RATE


class VideoReader:
    """Frames of videos by number; those behind the last one of the same video are decoded on the
    way, one before it starts again."""

    def __init__(self) -> None:
        self._close()

    def frame(self, file: Path, number: int) -> np.ndarray:
        """(H, W, 3) uint8 BGR, turned as the file says; the first has number 0. Raises
        UnreadableImage."""
        if file != self._file or number < self._next:
            self._close()
            self._file, self._video = file, open_video(file)
        while self._video is not None and self._next < number and self._video.grab():
            self._next += 1
        image = None
        if self._video is not None and self._next == number:
            image = self._video.read()[1]
            self._next += 1
        if image is None:
            raise UnreadableImage(f"{file}: frame {number + 1} cannot be decoded")
        return image

    def _close(self) -> None:
        self._file: Path | None = None
        self._video: cv2.VideoCapture | None = None
        self._next = 0

    def __reduce__(self) -> tuple[type["VideoReader"], tuple[()]]:
        """Without the decoder, which belongs to its process."""
        return VideoReader, ()
