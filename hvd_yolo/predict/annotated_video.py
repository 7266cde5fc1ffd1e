"""The annotated video of a video: its frames in order, at its rate."""

import os
from pathlib import Path

import cv2
import numpy as np

from hvd_yolo.data.videos import measure
from hvd_yolo.errors import InputError

# What OpenCV's wheels can encode for each kind of file.
_CODECS = {
    ".avi": "MJPG", ".m4v": "mp4v", ".mkv": "mp4v", ".mov": "mp4v", ".mp4": "mp4v", ".webm": "VP80",
}  # fmt: skip


def refuse_video(file: Path) -> None:
    """Raises InputError when the file is there, or is of a kind that cannot be written."""
    if file.suffix.lower() not in _CODECS:
        raise InputError(f"video {file}: its suffix must be one of {', '.join(_CODECS)}")
    if os.path.lexists(file):
        raise InputError(f"video {file} is there already: name a new file")


class AnnotatedVideo:
    """A video that is written frame by frame inside a `with` statement, and has its name when that
    ends; where it ends in an error, nothing is left.

    All frames get the size of the first.
    """

    def __init__(self, file: Path, rate: float) -> None:
        self._file = file
        self._rate = rate
        # The suffix chooses the format.
        self._unfinished = file.with_name(f".{file.stem}.writing{file.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._num_frames = 0

    def __enter__(self) -> "AnnotatedVideo":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._close()
        elif self._writer is not None:
            self._writer.release()
            self._unfinished.unlink(missing_ok=True)

    def write(self, picture: np.ndarray) -> None:
        """Adds a frame (H, W, 3) BGR; raises InputError."""
        if self._writer is None:
            self._size = (picture.shape[1], picture.shape[0])
            self._writer = self._open()
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(picture)
        self._num_frames += 1

    def _close(self) -> None:
        """Puts the file in its place; raises InputError when it is not whole: OpenCV tells nobody
        of a full disk."""
        if self._writer is None:
            return
        self._writer.release()
        written = measure(self._unfinished).num_frames
        if written != self._num_frames:
            self._unfinished.unlink(missing_ok=True)
            raise InputError(
                f"video {self._file}: {written} of {self._num_frames} frames could be written; is "
                "the disk full?",
                rank=0,
            )
        os.replace(self._unfinished, self._file)

    def _open(self) -> cv2.VideoWriter:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"video {self._file} cannot be written: {error}", rank=0) from error
        codec = cv2.VideoWriter_fourcc(*_CODECS[self._file.suffix.lower()])
        name = os.path.abspath(self._unfinished)
        writer = cv2.VideoWriter(name, codec, self._rate, self._size)
        if not writer.isOpened():
            width, height = self._size
            raise InputError(
                f"video {self._file}: OpenCV cannot write {width} x {height} pixels as "
                f"{self._file.suffix}; try .avi",
                rank=0,
            )
        return writer
