"""The classes of a checkpoint and those of the data it is scored on, matched by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hvd_yolo.data.class_changes import duplicates, shown
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate.scoring import Table


class ClassMap(NamedTuple):
    """The classes that are scored, their names and numbers in results; and of each label of the
    truth and of the detections which of them it is, -1 for none of them."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    of_truth: np.ndarray
    of_detections: np.ndarray

    @property
    def is_identity(self) -> bool:
        """Whether truth and detections have the same labels as the scores."""
        every = np.arange(len(self.names))
        return all(np.array_equal(every, part) for part in (self.of_truth, self.of_detections))

    def apply(self, table: Table) -> Table:
        """The table with the labels of the scores, without the rows that have none."""
        truths = _relabelled(table.truths, 5, self.of_truth)
        return table._replace(
            truths=truths, detections=_relabelled(table.detections, 6, self.of_detections)
        )


def match_classes(
    dataset: Dataset, known: Sequence[str], asked: str, data: str
) -> tuple[ClassMap, str]:
    """How the classes of the data, or of them those `asked` for, comma separated, correspond to
    those the checkpoint has `known`; and what there is to say of it, empty where they are the same.

    data: what the data set was opened by. Raises InputError where one is not known, or two have one
    name.
    """
    for whose, names in (("the checkpoint", known), (f"data {data}", dataset.names)):
        if twice := duplicates(names):
            raise InputError(
                f"{whose} has several classes called {shown(twice)}: they cannot be told apart by "
                "name; give each a name of its own"
            )
    chosen = _read_choice(asked, dataset.names, known) if asked else list(dataset.names)
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(_unknown(unknown, dataset.names, known, data))
    places = [dataset.names.index(name) for name in chosen]
    of_truth, of_detections = (
        np.array([chosen.index(name) if name in chosen else -1 for name in names], dtype=np.int64)
        for names in (dataset.names, known)
    )
    category_ids = tuple(dataset.category_ids[place] for place in places)
    classes = ClassMap(tuple(chosen), category_ids, of_truth, of_detections)
    return classes, "" if classes.is_identity else _told(classes, dataset.names, known)


def _relabelled(rows: np.ndarray, column: int, labels: np.ndarray) -> np.ndarray:
    given = rows[:, column].astype(np.int64)
    # A foreign detector may give labels that are no class.
    is_class = (given >= 0) & (given < len(labels))
    found = np.where(is_class, labels[np.where(is_class, given, 0)], -1)
    kept = rows[found >= 0].copy()
    kept[:, column] = found[found >= 0]
    return kept


def _read_choice(asked: str, names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The classes asked for, in the order of the data set."""
    # A name may hold a comma.
    words = [asked] if asked in names else [word.strip() for word in asked.split(",")]
    words = [word for word in words if word]
    for whose, there in (("the data", names), ("the checkpoint", known)):
        if missing := [word for word in words if word not in there]:
            raise InputError(
                f"--classes {asked}: {whose} has no class {shown(missing)}; it has {shown(there)}"
            )
    if not words:
        raise InputError(f"--classes {asked}: it names no class; the data has {shown(names)}")
    return [name for name in names if name in words]


def _unknown(unknown: Sequence[str], names: Sequence[str], known: Sequence[str], data: str) -> str:
    """What to say of classes that the checkpoint does not know, with the remedy for the format."""
    if Path(data).is_file():
        remedy = (
            f"give them the checkpoint's names in `names` of {data}, or with `format: coco` or voc "
            "leave them out there"
        )
    else:
        remedy = (
            f"a YAML file with `format: coco` (or voc), `path: {data}` and `names` picks the "
            "classes of a folder"
        )
    common = [name for name in names if name in known]
    choice = f", or score those that both have: --classes {','.join(common)}" if common else ""
    return (
        f"data {data} has classes that the checkpoint does not know: {shown(unknown)}; it knows "
        f"{shown(known)}: {remedy}{choice}"
    )


def _told(classes: ClassMap, names: Sequence[str], known: Sequence[str]) -> str:
    if len(classes.names) == len(names) == len(known):
        return (
            f"the classes are matched by name: {shown(known)} in the checkpoint, {shown(names)} in "
            "the data"
        )
    return (
        f"the classes are matched by name, scored are {len(classes.names)} of the data's "
        f"{len(names)} and the checkpoint's {len(known)}: {shown(classes.names)}"
    )
