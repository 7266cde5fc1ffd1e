"""What is wrong with a data set: faults of single labels and images, and images that are there
twice."""

from dataclasses import dataclass

import numpy as np

from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.data.orientation import TURNED_REMEDY
from hvd_yolo.data.problems import NUM_EXAMPLES, Severity
from hvd_yolo.data.survey import Survey, as_annotations, image_name

# Boxes narrower or lower are drawn by accident more often than not.
LEAST_SIDE = 2.0

UNREADABLE = "images that cannot be read"
OTHER_SIZE = "images whose size differs from the annotations'"

# Shares of a side below this are rounding: YOLO text has six digits.
_SLACK = 1e-6


@dataclass
class Finding:
    """Something that is wrong, how often, and the first examples.

    An error makes training or its score worthless; a warning may be meant.
    """

    severity: Severity
    split: str
    what: str
    count: int
    examples: list[str]


def judge(datasets: dict[str, Dataset], surveys: dict[str, Survey]) -> list[Finding]:
    """All that is wrong with the splits of one data set, errors first."""
    findings = _twice(datasets, surveys)
    for split, dataset in datasets.items():
        survey = surveys[split]
        findings += _of_split(split, dataset, survey)
        findings += _of_images(split, dataset, survey)
        findings += _of_boxes(split, dataset, survey)
        findings += _of_reader(split, dataset)
    found = [finding for finding in findings if finding.count]
    return sorted(found, key=lambda finding: finding.severity)


def absent_splits(absent: dict[str, str]) -> list[Finding]:
    """Splits that the data set names and that are not there, from why they are not."""
    what = "named, but not there; left out"
    return [_finding("warning", split, what, [reason]) for split, reason in absent.items()]


def _finding(severity: Severity, split: str, what: str, places: list[str]) -> Finding:
    return Finding(severity, split, what, len(places), places[:NUM_EXAMPLES])


def _of_split(split: str, dataset: Dataset, survey: Survey) -> list[Finding]:
    """A split without one usable object, once and not for each class and image."""
    if _is_usable(survey).any():
        return []
    purposes = {"train": "to learn from", "val": "to score against"}
    what = f"no object {purposes.get(split, 'to score against')} on any image; images"
    # A test split is often published without its labels.
    severity: Severity = "error" if split in purposes else "warning"
    problems = dataset.problems if isinstance(dataset, ImageFiles) else []
    examples = [f"{problem.what}: {problem.count}" for problem in problems[:NUM_EXAMPLES]]
    return [Finding(severity, split, what, len(survey.images), examples)]


def _is_usable(survey: Survey) -> np.ndarray:
    """(M): whether an object is no crowd, has an area, and lies in its image at least in part."""
    truth, sides = as_annotations(survey.objects), survey.images[survey.owners, :2]
    lows, highs = np.maximum(truth.boxes[:, :2], 0), np.minimum(truth.boxes[:, 2:], sides)
    return (highs > lows).all(1) & ~truth.is_crowd


def _of_images(split: str, dataset: Dataset, survey: Survey) -> list[Finding]:
    is_empty = survey.is_read & (survey.images[:, 2] == 0)
    present = set(as_annotations(survey.objects).labels.tolist())
    absent = [name for label, name in enumerate(dataset.names) if label not in present]
    without_objects = [
        _finding(
            "warning", split, "images without objects",
            [image_name(dataset, int(i)) for i in np.flatnonzero(is_empty)],
        ),
        _finding("warning", split, "classes without objects", absent),
    ]  # fmt: skip
    return [
        _finding("error", split, UNREADABLE, survey.unreadable),
        _finding("error", split, OTHER_SIZE, survey.other_size),
        _finding(
            "warning", split,
            f"images whose boxes are turned with them, as EXIF says; {TURNED_REMEDY}",
            survey.turned,
        ),
        *(without_objects if dataset.has_truth else []),
    ]  # fmt: skip


def _of_boxes(split: str, dataset: Dataset, survey: Survey) -> list[Finding]:
    truth, owners = as_annotations(survey.objects), survey.owners
    boxes = _written_boxes(dataset, survey)
    lows, highs = boxes[:, :2], boxes[:, 2:]
    image_sides = survey.images[owners, :2]
    slack = _SLACK * image_sides
    is_outside = ((highs <= 0) | (lows >= image_sides)).any(1)
    is_cut = ((lows < -slack) | (highs > image_sides + slack)).any(1) & ~is_outside
    keys = np.column_stack((owners, truth.labels, boxes.round(3)))
    is_repeated = np.ones(len(keys), dtype=bool)
    is_repeated[np.unique(keys, axis=0, return_index=True)[1]] = False
    sides = highs - lows
    faults = {
        "boxes without area": (sides <= 0).any(1),
        f"boxes less than {LEAST_SIDE:g} pixels wide or high": (
            (sides < LEAST_SIDE).any(1) & (sides > 0).all(1)
        ),
        "boxes outside the image": is_outside,
        "boxes partly outside the image": is_cut,
        "boxes that repeat another of the same class": is_repeated,
    }
    return [
        _finding("warning", split, what, _box_names(dataset, survey, np.flatnonzero(is_faulty)))
        for what, is_faulty in faults.items()
    ]


def _written_boxes(dataset: Dataset, survey: Survey) -> np.ndarray:
    """(M, 4): the objects' boxes; not cut to the image where no size is stated, for then the reader
    could not count those that are."""
    boxes = as_annotations(survey.objects).boxes
    if not (isinstance(dataset, ImageFiles) and dataset.is_clipped):
        return boxes
    written = dataset.boxes[np.repeat(survey.is_read, np.diff(dataset.offsets))]
    if dataset.sizes is None:
        return written
    is_stated = dataset.sizes[survey.owners].any(1)
    return np.where(is_stated[:, None], boxes, written)


def _box_names(dataset: Dataset, survey: Survey, rows: np.ndarray) -> list[str]:
    owners, truth = survey.owners[rows], as_annotations(survey.objects[rows])
    return [
        f"{image_name(dataset, owner)}: {dataset.names[label]} "
        f"({', '.join(f'{side:.6g}' for side in box)})"
        for owner, label, box in zip(
            owners.tolist(), truth.labels.tolist(), truth.boxes.tolist(), strict=True
        )
    ]


def _of_reader(split: str, dataset: Dataset) -> list[Finding]:
    """What the reader of the labels changed or left out, and the survey so cannot see."""
    problems = dataset.problems if isinstance(dataset, ImageFiles) else []
    return [
        Finding(
            problem.severity, split, f"reading: {problem.what}", problem.count, problem.examples
        )
        for problem in problems
    ]


def _twice(datasets: dict[str, Dataset], surveys: dict[str, Survey]) -> list[Finding]:
    """Images that are in two splits, or twice in one; the same, or by their looks."""
    places = [
        (split, int(index))
        for split, survey in surveys.items()
        for index in np.flatnonzero(survey.is_read)
    ]
    images = np.concatenate([survey.images[survey.is_read] for survey in surveys.values()])
    same = _groups(images[:, 3])
    firsts = np.sort(np.unique(images[:, 3], return_index=True)[1])
    # A picture of one colour has look_hash 0, whatever the colour.
    firsts = firsts[images[firsts, 4] != 0]
    alike = [firsts[group] for group in _groups(images[firsts, 4])]
    findings = []
    for groups, severity, what in (
        (same, "error", "the same image"),
        (alike, "warning", "images that look the same"),
    ):
        members = [[places[row] for row in group.tolist()] for group in groups]
        leaks = [group for group in members if len({split for split, _ in group}) > 1]
        texts = [_group_name(datasets, group) for group in leaks]
        findings.append(
            _finding(severity, " and ".join(datasets), f"{what} in more than one split", texts)
        )
        for split in datasets:
            inside = [[place for place in group if place[0] == split] for group in members]
            texts = [_group_name(datasets, group) for group in inside if len(group) > 1]
            findings.append(_finding("warning", split, f"{what} twice", texts))
    return findings


def _groups(keys: np.ndarray) -> list[np.ndarray]:
    """The rows that have their key in common with others, a group a key, in the order of their
    first rows."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order])) + 1
    groups = [group for group in np.split(order, starts) if len(group) > 1]
    return sorted(groups, key=lambda group: group[0])


def _group_name(datasets: dict[str, Dataset], group: list[tuple[str, int]]) -> str:
    return " = ".join(f"{split}: {image_name(datasets[split], i)}" for split, i in group)
