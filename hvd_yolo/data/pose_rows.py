"""Keypoints without `kpt_shape`: rows that read as polygons, though no polygon looks like them."""

from collections import Counter
from collections.abc import Sequence

from hvd_yolo.errors import InputError

# Rows that are looked at, and the fraction of them that must look like keypoints: of drawn outlines
# up to 0.15 do, of a box and four keypoints or more 0.7 and above; of few rows nearly all must.
_MOST_ROWS, _FEW_ROWS, _FEWEST_ROWS = 1000, 20, 3
_FRACTION, _FRACTION_OF_FEW = 0.5, 0.9
# A box and three keypoints: four corners of an oriented box look too much like a box and two.
_FEWEST_NUMBERS = 10


def ends_in_visibilities(numbers: Sequence[float]) -> bool:
    """Whether a box is followed by at least two times x, y and 0, 1 or 2."""
    marks = numbers[6::3]
    has_columns = len(numbers) >= 10 and (len(numbers) - 4) % 3 == 0
    return has_columns and all(mark in (0, 1, 2) for mark in marks) and any(marks)


class PoseSuspicion:
    """Looks at the first rows that are read as polygons.

    They are keypoints if all have as many columns, and most of them a box in the first four numbers
    that holds all further points, save for those at 0 0, and if there is such a point, or w h lies
    outside of the others and the center among them, as two corners of an outline seldom do. One
    polygon may look so by chance; it takes several rows.
    """

    def __init__(self) -> None:
        self._lengths: Counter[int] = Counter()
        self._num_alike = 0
        self._first = ""

    def add(self, numbers: Sequence[float], where: str) -> None:
        """One row without its class, and its file and line."""
        if self._lengths.total() >= _MOST_ROWS:
            return
        self._lengths[len(numbers)] += 1
        if len(numbers) >= _FEWEST_NUMBERS and (_has_points(numbers) or _has_marks(numbers)):
            self._num_alike += 1
            self._first = self._first or where

    def refuse(self) -> None:
        """Raises InputError if the rows are keypoints."""
        total = self._lengths.total()
        is_one_length = len(self._lengths) == 1 and total >= _FEWEST_ROWS
        fraction = _FRACTION if total >= _FEW_ROWS else _FRACTION_OF_FEW
        if is_one_length and self._num_alike >= fraction * total:
            columns = next(iter(self._lengths)) + 1
            raise InputError(
                f"{self._first}: {columns} columns in all rows, a box and points inside it: these "
                f"are keypoints and no polygons; add `kpt_shape: [K, 2]` or `[K, 3]` to the YAML "
                f"file ({columns} = 5 + K * 2 or 5 + K * 3)"
            )


def _has_points(numbers: Sequence[float]) -> bool:
    """Whether x y follow the box; w h, or a point that is 0 0, lies outside of the others."""
    points = list(zip(numbers[4::2], numbers[5::2], strict=True))
    labeled = [point for point in points if point != (0, 0)]
    if not _are_in_box(numbers, labeled) or len(labeled) < 2:
        return False
    return len(labeled) < len(points) or _is_apart(numbers, labeled)


def _has_marks(numbers: Sequence[float]) -> bool:
    """Whether x y visibility follow the box."""
    if not ends_in_visibilities(numbers):
        return False
    points = zip(numbers[4::3], numbers[5::3], strict=True)
    return _are_in_box(numbers, [point for point in points if point != (0, 0)])


def _are_in_box(numbers: Sequence[float], points: list[tuple[float, float]]) -> bool:
    """Whether cx cy w h is a box with an area that holds the points, with a tenth to spare."""
    cx, cy, w, h = numbers[:4]
    reach_x, reach_y = 0.55 * w, 0.55 * h
    return w * h > 0 and all(abs(x - cx) <= reach_x and abs(y - cy) <= reach_y for x, y in points)


def _is_apart(numbers: Sequence[float], points: list[tuple[float, float]]) -> bool:
    """Whether (w, h) lies outside the rectangle around the points, and (cx, cy) inside it."""
    xs, ys = zip(*points, strict=True)
    cx, cy, w, h = numbers[:4]
    is_inside = min(xs) < cx < max(xs) and min(ys) < cy < max(ys)
    is_outside = not (min(xs) <= w <= max(xs) and min(ys) <= h <= max(ys))
    return is_inside and is_outside
