"""Pictures and the frames of videos to detect on, as a Dataset without annotations."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hvd_yolo.data.dataset import WHOLE, Annotations
from hvd_yolo.data.decoding import Scaled, is_deep, open_image, scaled
from hvd_yolo.data.deep_images import range_of
from hvd_yolo.data.image_files import LooseFiles
from hvd_yolo.data.source_files import SourceFiles, is_video
from hvd_yolo.data.videos import VideoReader
from hvd_yolo.data.yolo_txt import image_ids


class Place(NamedTuple):
    """Where a picture comes from: the path below the root of the source, and the number of the
    frame, from 1, for a video, else 0."""

    name: str
    frame: int


class Sources:
    """The pictures of a source and the frames of its videos, in the order of its files.

    image_id: the number that the file names are, if each is another one (as COCO's are), else the
    index from 1: as the same pictures have as a data set of YOLO text. files, storage: of all
    pictures and videos; value_range: see ImageFiles.
    """

    is_clean = True
    has_truth = False

    def __init__(
        self,
        found: SourceFiles,
        num_frames: Sequence[int],
        names: tuple[str, ...],
        category_ids: tuple[int, ...],
    ) -> None:
        """num_frames: of each file that is a video; those of the others are not looked at. names
        and category_ids: the classes of the detector."""
        self.names = names
        self.category_ids = category_ids
        self.files = np.array([str(file) for file in found.files], dtype=str)
        self.storage = LooseFiles(self.files)
        self.value_range: float | None = None
        self._files = found.files
        self._names = found.names
        places = [
            (number, frame)
            for number, name in enumerate(found.names)
            for frame in (range(num_frames[number]) if is_video(name) else (-1,))
        ]
        self._places = np.array(places, dtype=np.int64).reshape(-1, 2)
        has_videos = (self._places[:, 1] >= 0).any()
        ids = range(1, len(places) + 1) if has_videos else image_ids(found.files)
        self._ids = np.array(ids, dtype=np.int64)
        # Inputs and what is drawn on are asked for in turn, each in ascending order.
        self._input_frames, self._whole_frames = VideoReader(), VideoReader()

    def __len__(self) -> int:
        return len(self._places)

    def place(self, index: int) -> Place:
        """The file and frame."""
        number, frame = self._places[index].tolist()
        return Place(self._names[number], frame + 1)

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 BGR; raises UnreadableImage."""
        number, frame = self._places[index].tolist()
        if frame < 0:
            return self._picture(number, WHOLE).pixels()
        return self._whole_frames.frame(self._files[number], frame)

    def scaled(self, index: int, size: int) -> Scaled:
        """The picture or frame, its long side cut to at most `size`."""
        number, frame = self._places[index].tolist()
        if frame < 0:
            return self._picture(number, size)
        image = self._input_frames.frame(self._files[number], frame)
        return scaled(image.shape[1], image.shape[0], size, lambda: image)

    def _picture(self, number: int, size: int) -> Scaled:
        encoded = self.storage.item(number)
        if self.value_range is None and is_deep(encoded):
            self.value_range = range_of(self.files, self.storage)
        return open_image(encoded, str(self._files[number]), size, self.value_range or 0.0)

    def fingerprint(self) -> bytes:
        """The files and frames."""
        return repr((self._names, self._places.tolist())).encode()

    def image_id(self, index: int) -> int:
        """See the class."""
        return int(self._ids[index])

    def is_turned(self, index: int, width: int, height: int, orientation: int) -> bool:
        """Never."""
        return False

    def annotations(self, index: int, width: int, height: int, orientation: int = 1) -> Annotations:
        """None are known."""
        return no_annotations()


def no_annotations() -> Annotations:
    """Those of an image that nothing is known of."""
    nothing = np.zeros(0)
    return Annotations(np.zeros((0, 4)), nothing.astype(np.int64), nothing, nothing.astype(bool))
