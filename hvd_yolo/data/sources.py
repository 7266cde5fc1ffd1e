"""Pictures and videos to detect on, as a Dataset without annotations."""

import glob
from pathlib import Path

import cv2
import numpy as np

from hvd_yolo.data.dataset import WHOLE, Annotations
from hvd_yolo.data.decoding import Scaled, UnreadableImage, open_image, read_file, scaled
from hvd_yolo.errors import InputError

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


class Sources:
    """The pictures of a file, folder or glob pattern, or the frames of its videos, by name.

    names: the classes of the detector.
    """

    is_clean = True
    has_truth = False

    def __init__(self, source: str, names: tuple[str, ...]) -> None:
        """Raises InputError when there is nothing to detect on."""
        self.names = names
        self.category_ids = tuple(range(1, len(names) + 1))
        # (file, frame of a video or -1)
        self._places: list[tuple[Path, int]] = []
        self._root = Path(source) if Path(source).is_dir() else None
        for file in _files(source):
            if file.suffix.lower() in VIDEOS:
                self._places += [(file, frame) for frame in range(_num_frames(file))]
            else:
                self._places.append((file, -1))
        if not self._places:
            raise InputError(
                f"source {source!r}: no picture ({', '.join(PICTURES)}) or video "
                f"({', '.join(VIDEOS)}) is there"
            )

    def __len__(self) -> int:
        return len(self._places)

    def name(self, index: int) -> str:
        """The file's name, below a folder with the folders on the way, and with the number of the
        frame for a video."""
        file, frame = self._places[index]
        name = "_".join(file.relative_to(self._root).parts) if self._root else file.name
        return name if frame < 0 else f"{Path(name).stem}_{frame + 1:06}.jpg"

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 BGR; raises UnreadableImage."""
        return self.scaled(index, WHOLE).pixels()

    def scaled(self, index: int, size: int) -> Scaled:
        """The picture or frame, its long side cut to at most `size`."""
        file, frame = self._places[index]
        if frame < 0:
            return open_image(read_file(str(file)), self.name(index), size)
        video = cv2.VideoCapture(str(file))
        video.set(cv2.CAP_PROP_POS_FRAMES, frame)
        image = video.read()[1]
        video.release()
        if image is None:
            raise UnreadableImage(f"{self.name(index)}: not a frame that OpenCV can decode")
        height, width = image.shape[:2]
        return scaled(width, height, size, lambda: image)

    def fingerprint(self) -> bytes:
        """The files and frames."""
        return repr(self._places).encode()

    def image_id(self, index: int) -> int:
        """The index, from 1."""
        return index + 1

    def annotations(self, index: int, width: int, height: int) -> Annotations:
        """None are known."""
        nothing = np.zeros(0)
        return Annotations(
            np.zeros((0, 4)), nothing.astype(np.int64), nothing, nothing.astype(bool)
        )


def _files(source: str) -> list[Path]:
    path = Path(source)
    if path.is_file():
        return [path]
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(source, recursive=True))
    known = PICTURES + VIDEOS
    return sorted(file for file in found if file.suffix.lower() in known)


def _num_frames(file: Path) -> int:
    video = cv2.VideoCapture(str(file))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    if count <= 0:
        raise InputError(f"source {file}: not a video that OpenCV can decode")
    return count
