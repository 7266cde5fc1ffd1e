"""What the readers of annotations in pixels look for in their boxes and images."""

import math
from collections.abc import Sequence

from hvd_yolo.data.problems import ProblemLog
from hvd_yolo.errors import InputError

Box = tuple[float, float, float, float]


def is_usable(box: Box, size: tuple[int, int], problems: ProblemLog, where: str) -> bool:
    """Whether a box xyxy has an area and lies, at least in part, in the image of the stated size;
    0, 0: unknown. What is left out, and what is to be clipped, is counted."""
    x1, y1, x2, y2 = box
    if not (x2 > x1 and y2 > y1):
        problems.add("boxes without area, left out", where)
        return False
    width, height = size if any(size) else (math.inf, math.inf)
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        problems.add("boxes outside the image, left out", where)
        return False
    # Some tools round.
    slack_x, slack_y = (1e-6 * side if any(size) else 0.0 for side in (width, height))
    if x1 < -slack_x or y1 < -slack_y or x2 > width + slack_x or y2 > height + slack_y:
        problems.add("boxes partly outside the image, clipped", where)
    return True


def report_repeated(images: Sequence[str], problems: ProblemLog) -> None:
    """Counts the images that are there more than once."""
    seen: set[str] = set()
    for image in images:
        if image in seen:
            problems.add("images named more than once, used as often", image)
        seen.add(image)


def refuse_shares(rows: Sequence[Sequence[float]], source: str) -> None:
    """Raises InputError where all rows, each of which begins with a box xyxy, lie within the first
    pixel and have fractions: no image has its objects there."""
    if all(0 <= side <= 1 for row in rows for side in row[:4]) and any(
        side % 1 for row in rows for side in row[:4]
    ):
        raise InputError(
            f"{source}: no box has a coordinate above 1, the first is {tuple(rows[0][:4])}; these "
            "look like shares of the image where pixels are expected: multiply x by the width and "
            "y by the height of the image"
        )
