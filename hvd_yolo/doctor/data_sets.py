"""Whether every host sees the data set, the same one, and reads it fast enough."""

import dataclasses
import hashlib
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hvd_yolo.data import find_splits
from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.data.digest import MAKE_ALIKE, digest_of_truth
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.doctor.disks import NETWORK, file_system
from hvd_yolo.doctor.facts import Facts
from hvd_yolo.doctor.findings import Finding, on
from hvd_yolo.errors import InputError

# Of each split: files whose lengths are compared, and files that are read whole.
_NUM_LENGTHS, _NUM_READ = 500, 8

# A disk that turns needs about 12 ms, a busy network file system about as much.
_SLOW_SECONDS = 0.05


@dataclass
class Look:
    """What a host sees of the data set.

    error: why it cannot be opened, empty if it can. absent: why a split that is named, and needed
    for no training, is not there. splits: images of each split, digests: of its classes, labels,
    lengths and a few whole images. read_seconds: the median for one file.
    unreadable: the first file that could not be read.
    """

    error: str = ""
    absent: list[str] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    file_system: str = ""
    read_seconds: float = 0.0
    unreadable: str = ""


def look(data: str) -> Look:
    """Opens the data set on this host and reads some of it."""
    try:
        datasets, absent = find_splits(data)
    except InputError as error:
        return Look(error=str(error))
    found = Look(
        absent=list(absent.values()),
        splits={split: len(dataset) for split, dataset in datasets.items()},
    )
    times: list[float] = []
    for split, dataset in datasets.items():
        total = digest_of_truth(dataset)
        if isinstance(dataset, ImageFiles):
            found.file_system = file_system(Path(str(dataset.files[0])))
            found.unreadable = found.unreadable or _read(dataset, total, times)
        found.digests[split] = total.hexdigest()[:12]
    found.read_seconds = statistics.median(times) if times else 0.0
    return found


def judge(facts: list[Facts], looks: dict[int, Look], is_kept: bool) -> Iterator[Finding]:
    """What the hosts see, by the rank that looked. is_kept: the training will read a copy or cache
    on the host."""
    opened = {rank: found for rank, found in looks.items() if not found.error}
    for rank, found in looks.items():
        if found.error:
            yield on(
                [facts[rank]], "error", "data-missing", found.error,
                "mount or copy the data set at the same place on every host",
            )  # fmt: skip
        elif found.unreadable:
            yield on(
                [facts[rank]], "error", "data-unreadable", found.unreadable,
                "copy the data set anew; python -m hvd_yolo.data check reads every image",
            )  # fmt: skip
    for reason in dict.fromkeys(reason for found in opened.values() for reason in found.absent):
        yield on(
            [facts[rank] for rank, found in opened.items() if reason in found.absent],
            "warning", "data-split-missing", reason,
            "training needs no test split; correct the path in the YAML file to score on it",
        )  # fmt: skip
    usual = next((found for found in opened.values()), None)
    odd = [rank for rank, f in opened.items() if (f.splits, f.digests) != _seen(usual)]
    if odd:
        yield on(
            [facts[rank] for rank in odd], "error", "data-differs",
            f"{_told(facts, opened)}: other images, lengths or labels",
            MAKE_ALIKE,
        )  # fmt: skip
    yield from _speed(facts, opened, is_kept)


def _seen(found: Look | None) -> tuple[dict[str, int], dict[str, str]]:
    return (found.splits, found.digests) if found else ({}, {})


def _told(facts: list[Facts], looks: dict[int, Look]) -> str:
    """The first host's data set and the first that differs from it."""
    (first, usual), *others = looks.items()
    other = next(rank for rank, found in others if _seen(found) != _seen(usual))
    return " but ".join(
        f"{facts[rank].host} has "
        + ", ".join(f"{s} {n} images ({looks[rank].digests[s]})" for s, n in found.splits.items())
        for rank, found in ((first, usual), (other, looks[other]))
    )


def _speed(facts: list[Facts], looks: dict[int, Look], is_kept: bool) -> Iterator[Finding]:
    slow = [rank for rank, found in looks.items() if found.read_seconds > _SLOW_SECONDS]
    if slow:
        worst = max(looks[rank].read_seconds for rank in slow)
        yield on(
            [facts[rank] for rank in slow], "warning", "data-slow",
            f"reading one image file takes {worst * 1e3:.0f} ms",
            "--loader.stage FOLDER copies the files to a local disk once, --loader.cache disk "
            "keeps them decoded; or pack them: python -m hvd_yolo.data convert --to webdataset",
        )  # fmt: skip
    remote = [rank for rank, found in looks.items() if found.file_system in NETWORK]
    if remote and not is_kept:
        yield on(
            [facts[rank] for rank in remote], "warning", "data-network",
            f"the images lie on a network file system ({looks[remote[0]].file_system})",
            "--loader.stage FOLDER on a local disk, or --loader.cache disk",
        )  # fmt: skip


def _read(dataset: ImageFiles, total: "hashlib._Hash", times: list[float]) -> str:
    """Adds lengths and contents to the digest and the seconds to the times; the first file that
    cannot be read, or ""."""
    last = len(dataset) - 1
    try:
        for index in np.unique(np.linspace(0, last, _NUM_LENGTHS).astype(int)).tolist():
            total.update(repr(dataset.storage.num_bytes(index)).encode())
        for index in np.unique(np.linspace(0, last, _NUM_READ).astype(int)).tolist():
            _forget(str(dataset.files[index]))
            started = time.perf_counter()
            content = dataset.encoded(index)
            times.append(time.perf_counter() - started)
            total.update(content)
    except UnreadableImage as error:
        return str(error)
    return ""


def _forget(file: str) -> None:
    """Lets the kernel drop its copy of the file, so that the disk is measured."""
    if not os.path.isfile(file):
        return
    try:
        with open(file, "rb", buffering=0) as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        # The reading that follows has the same error, and names the file.
        return


def as_json(looks: dict[int, Look]) -> dict[str, dict]:
    """By rank, for the report."""
    return {str(rank): dataclasses.asdict(found) for rank, found in looks.items()}
