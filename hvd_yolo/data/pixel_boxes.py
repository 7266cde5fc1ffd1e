"""What the readers of annotations in pixels look for in their boxes and images."""

from collections.abc import Sequence

from hvd_yolo.data.problems import ProblemLog
from hvd_yolo.errors import InputError


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
