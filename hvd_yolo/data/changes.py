"""What has changed in a data set since a run was started on it."""

from collections.abc import Mapping
from typing import Any

from hvd_yolo.data.class_changes import change_of
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.digest import summary
from hvd_yolo.errors import InputError

# As JSON holds it: {"names": [...], "train": summary(), "val": summary()}.
DataSummary = dict[str, Any]


def data_summary(train_set: Dataset, val_set: Dataset | None) -> DataSummary:
    """What a run is trained on, in short."""
    splits = {"train": train_set} | ({} if val_set is None else {"val": val_set})
    return {"names": list(train_set.names)} | {
        split: summary(dataset) for split, dataset in splits.items()
    }


def refuse_changes(
    before: DataSummary, now: DataSummary, data: str, run: str, may_change: bool
) -> list[str]:
    """Changes that the run in the folder `run` may go on with, to be told: labels, validation data,
    and training images if `may_change`.

    Raises InputError where the classes have changed, whose order decides what each output of the
    model means, or, unless `may_change`, the training images, whose number and order decide which
    of them an update sees.
    """
    if before["names"] != now["names"]:
        raise InputError(
            f"data {data}: {change_of(before['names'], now['names'])}, and the run has learnt them "
            "as they were: put them back to resume it, or start a new run with another --output "
            f"and --weights {run}/checkpoints/last.pt, which takes the classes by name"
        )
    told = _train_changes(before["train"], now["train"])
    if told and not may_change:
        raise InputError(
            f"data {data}: {told}, and which images an update sees depends on them: put them back "
            "to resume the run, add --override data to go on with those that there are now, or "
            "choose another --output for a new run"
        )
    warnings = [f"data {data}: {told}; the run goes on with those"] if told else []
    if not told and before["train"]["truth"] != now["train"]["truth"]:
        warnings.append(
            f"data {data}: the labels of the training images have changed since the last "
            "checkpoint; the run goes on with the new ones"
        )
    if told := _val_changes(before.get("val"), now.get("val")):
        warnings.append(
            f"data {data}: {told}; evaluations of before, the one that chose best.pt too, cannot "
            "be compared with those that follow"
        )
    return warnings


def images_seen_of(images_seen: int, before: int, now: int) -> int:
    """Where an epoch stands that had seen some of `before` images and now has `now`: at the same
    share of it, so that the schedule of the learning rate goes on."""
    return images_seen * now // before


def _train_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before["images"] != now["images"]:
        return f"{before['images']} training images became {now['images']}"
    if before["files"] != now["files"]:
        return (
            f"the {now['images']} training images have other names, or another order, than when "
            "the run was started"
        )
    return ""


def _val_changes(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    if before is None or now is None or before["truth"] == now["truth"]:
        return ""
    if before["images"] != now["images"]:
        return f"{before['images']} validation images became {now['images']}"
    return "the validation images or their labels have changed"
