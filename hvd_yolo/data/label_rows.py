"""The rows of a YOLO text file: `class cx cy w h`, a class and the points of a polygon, or, in a
data set with `kpt_shape`, a box and its keypoints; all of it as shares of the image.

What other programs write in such files is refused: pixels, predictions with a confidence, tracks.
"""

import math
from collections.abc import Sequence

from hvd_yolo.data.annotation_rows import AnnotationRows
from hvd_yolo.data.pose_rows import PoseSuspicion, ends_in_visibilities
from hvd_yolo.errors import InputError

# Shares beyond the image by more than this are no rounding, nor a polygon drawn over the border.
_SLACK = 0.02
_LEAST, _MOST = -_SLACK, 1 + _SLACK

_BOX = "`class cx cy w h`"


class LabelRows:
    """Adds the objects of label files to `rows`; whether a box or a polygon, as a box."""

    def __init__(self, num_classes: int, rows: AnnotationRows) -> None:
        self.num_classes = num_classes
        self.rows = rows
        self._pose = PoseSuspicion()

    def add(self, text: str, source: str) -> None:
        """The objects of a label file, `source`, of the image that was started last; raises
        InputError, which names the line, for a row that is no label."""
        shape = self.rows.keypoint_shape
        for number, line in enumerate(text.splitlines(), 1):
            fields = line.split()
            if not fields:
                continue
            where = f"{source}:{number}"
            label, numbers = self._parsed(fields, where)
            if shape is not None:
                self._add_pose(label, numbers, shape, where)
            elif len(numbers) == 4:
                if not (min(numbers) >= _LEAST and max(numbers) <= _MOST):
                    raise InputError(_not_shares(numbers, where))
                self._add_box(label, numbers, where)
            else:
                self._add_polygon(label, numbers, where)

    def finish(self) -> None:
        """Raises InputError if the polygons of all files turn out to be keypoints."""
        self._pose.refuse()

    def _parsed(self, fields: list[str], where: str) -> tuple[int, list[float]]:
        """The class and the numbers behind it."""
        try:
            label, *numbers = map(float, fields)
        except ValueError as error:
            is_comma = any("," in field for field in fields)
            hint = "; numbers have a decimal point and blanks between them" if is_comma else ""
            raise InputError(f"{where}: {error}; expected {_BOX}{hint}") from error
        if not (math.isfinite(label) and all(map(math.isfinite, numbers))):
            raise InputError(f"{where}: not a finite number; expected {_BOX}")
        if label != int(label) or not 0 <= label < self.num_classes:
            raise InputError(
                f"{where}: class {fields[0]} is out of range; names has {self.num_classes} "
                f"classes, 0 to {self.num_classes - 1}"
            )
        return int(label), numbers

    def _add_box(self, label: int, numbers: Sequence[float], where: str) -> None:
        cx, cy, w, h = numbers
        box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        self.rows.add_share(box, label, where)

    def _add_polygon(self, label: int, numbers: list[float], where: str) -> None:
        columns = len(numbers) + 1
        if columns == 6:
            raise InputError(
                f"{where}: 6 columns, as predictions have them ({_BOX} and a confidence, a track "
                f"id or an angle); these are no labels. Ground truth has 5: {_BOX}"
            )
        is_share = min(numbers, default=0) >= _LEAST and max(numbers, default=0) <= _MOST
        if columns == 7 and not is_share and max(numbers[:4]) <= _MOST:
            raise InputError(
                f"{where}: 7 columns, one outside 0 to 1: no triangle, but {_BOX}, a confidence "
                f"and a track id, as trackers write them; these are no labels. Ground truth has 5 "
                f"columns: {_BOX}"
            )
        if ends_in_visibilities(numbers) and not (is_share and columns % 2):
            raise InputError(
                f"{where}: {columns} columns, every third behind the box 0, 1 or 2: keypoints with "
                f"their visibility; add `kpt_shape: [{(columns - 5) // 3}, 3]` to the YAML file"
            )
        if columns < 7 or columns % 2 == 0:
            raise InputError(
                f"{where}: {columns} columns; expected {_BOX} or a class and x y of at least three "
                f"points (keypoints need `kpt_shape` in the YAML file)"
            )
        if not is_share:
            raise InputError(_not_shares(numbers, where))
        self._pose.add(numbers, where)
        xs, ys = numbers[::2], numbers[1::2]
        self.rows.add_share((min(xs), min(ys), max(xs), max(ys)), label, where)

    def _add_pose(
        self, label: int, numbers: list[float], shape: tuple[int, int], where: str
    ) -> None:
        num_points, num_values = shape
        expected = 5 + num_points * num_values
        if len(numbers) + 1 != expected:
            what = "x y" if num_values == 2 else "x y visibility"
            raise InputError(
                f"{where}: {len(numbers) + 1} columns; with kpt_shape [{num_points}, {num_values}] "
                f"each row has {expected}: {_BOX} and {what} of {num_points} keypoints"
            )
        box, points = numbers[:4], numbers[4:]
        shares = [*box, *points[::num_values], *points[1::num_values]]
        # A keypoint that is not labeled may be -1 -1.
        if not (min(box) >= _LEAST and max(shares) <= _MOST):
            raise InputError(_not_shares(shares, where))
        before = len(self.rows.rows)
        self._add_box(label, box, where)
        if len(self.rows.rows) > before:
            self.rows.keypoints.append(points)


def _not_shares(numbers: Sequence[float], where: str) -> str:
    """Why a row with a value outside 0 to 1 is refused."""
    largest = max(numbers)
    if largest > _MOST:
        return (
            f"{where}: {largest:g} where shares of 0 to 1 are expected; these look like pixels: "
            f"divide x by the width and y by the height of the image"
        )
    return (
        f"{where}: {min(numbers):g} where shares of 0 to 1 are expected: centers, widths, heights"
    )
