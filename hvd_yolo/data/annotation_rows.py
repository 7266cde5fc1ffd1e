"""The flat arrays of a data set's annotations, collected image by image."""

import math
from pathlib import Path

import numpy as np

from hvd_yolo.data.image_files import ImageFiles, LooseFiles, Storage
from hvd_yolo.data.problems import ProblemLog, log_problems

# x1, y1, x2, y2.
Box = tuple[float, float, float, float]


class AnnotationRows:
    """Collects annotations image by image, counts what had to be changed, and makes the flat
    arrays."""

    def __init__(self, source: str, keypoint_shape: tuple[int, int] | None = None) -> None:
        """keypoint_shape: how many keypoints each object has, and how many numbers each of them."""
        self.source = source
        self.keypoint_shape = keypoint_shape
        self.keypoints: list[list[float]] = []
        self.files: list[str] = []
        self.ids: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.lengths: list[int] = []
        self.rows: list[tuple[float, ...]] = []
        self.problems = ProblemLog()

    def start_image(self, file: Path | str, image_id: int, size: tuple[int, int] = (0, 0)) -> None:
        """The rows that follow belong to this image. size: the width and height that the
        annotations state; 0, 0: unknown."""
        self.files.append(str(file))
        self.ids.append(image_id)
        self.sizes.append(size)
        self.lengths.append(0)

    def add(
        self, box: tuple[float, ...], label: int, area: float = np.nan, is_crowd: bool = False
    ) -> None:
        """One object: box xyxy, in the unit of the whole data set."""
        self.rows.append((*box, label, area, is_crowd))
        self.lengths[-1] += 1

    def add_share(self, box: Box, label: int, where: str) -> None:
        """Adds a box in shares of its image, cut to it; one outside or without area is left out.
        Both are counted."""
        x1, y1, x2, y2 = box
        # Nearly all.
        if 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1:
            self.add(box, label)
        elif self._is_usable(box, 1, 1, where):
            self.add((max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0)), label)

    def add_usable(self, box: Box, label: int, where: str, is_crowd: bool = False) -> None:
        """Adds a box in pixels of the image that was started last, to be cut to it when it is
        opened; one outside the size that is stated, or without area, is left out. Both are
        counted."""
        width, height = self.sizes[-1]
        if self._is_usable(box, width or math.inf, height or math.inf, where):
            self.add(box, label, is_crowd=is_crowd)

    def _is_usable(self, box: Box, width: float, height: float, where: str) -> bool:
        x1, y1, x2, y2 = box
        if not (x2 > x1 and y2 > y1):
            self.problems.add("boxes without area, left out", where)
            return False
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            self.problems.add("boxes outside the image, left out", where)
            return False
        # YOLO files round to six digits, which puts a box at the edge outside by half of the last.
        slack_x, slack_y = (1e-6 * side if side < math.inf else 0.0 for side in (width, height))
        if x1 < -slack_x or y1 < -slack_y or x2 > width + slack_x or y2 > height + slack_y:
            self.problems.add("boxes partly outside the image, clipped", where)
        return True

    def finish(
        self,
        names: tuple[str, ...],
        category_ids: tuple[int, ...],
        is_normalized: bool,
        storage: Storage | None = None,
        is_clipped: bool = False,
        has_truth: bool = True,
    ) -> ImageFiles:
        """The data set, of loose files unless it has another storage; what was counted is logged, a
        line a kind."""
        problems = self.problems.problems()
        log_problems(self.source, problems)
        table = np.array(self.rows, dtype=np.float64).reshape(-1, 7)
        boxes, areas = table[:, :4].copy(), table[:, 5]
        box_areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        files = np.array(self.files, dtype=str)
        return ImageFiles(
            names=names,
            category_ids=category_ids,
            files=files,
            storage=LooseFiles(files) if storage is None else storage,
            ids=np.array(self.ids, dtype=np.int64),
            offsets=np.concatenate(([0], np.cumsum(self.lengths, dtype=np.int64))),
            boxes=boxes,
            labels=table[:, 4].astype(np.int64),
            areas=np.where(np.isnan(areas), box_areas, areas),
            is_crowd=table[:, 6].astype(bool),
            is_normalized=is_normalized,
            problems=problems,
            keypoints=self._keypoint_table(),
            sizes=np.array(self.sizes, dtype=np.int64) if any(map(any, self.sizes)) else None,
            is_clipped=is_clipped,
            has_truth=has_truth,
        )

    def _keypoint_table(self) -> np.ndarray | None:
        if self.keypoint_shape is None:
            return None
        return np.array(self.keypoints, dtype=np.float64).reshape(-1, *self.keypoint_shape)
