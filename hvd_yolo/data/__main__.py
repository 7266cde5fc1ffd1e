"""`python -m hvd_yolo.data check|stats|convert|split|draw --data DATA`: looks at data sets and
writes them anew, on any number of ranks."""

import dataclasses
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hvd_yolo import cli
from hvd_yolo.checkpoint import save_text
from hvd_yolo.comm import Comm, agree, connect, gather_json
from hvd_yolo.config import parse
from hvd_yolo.config.data_verbs import (
    CheckConfig,
    ConvertConfig,
    DrawConfig,
    SplitConfig,
    StatsConfig,
)
from hvd_yolo.data import Splits, find_splits, open_dataset, telling, writing
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.dealing import deal, read_shares
from hvd_yolo.data.digest import summary
from hvd_yolo.data.entries import Entry, entries_of, parts_of, with_places
from hvd_yolo.data.judging import OTHER_SIZE, UNREADABLE, absent_splits, judge
from hvd_yolo.data.measures import measure
from hvd_yolo.data.order import keyed_rng, share
from hvd_yolo.data.sheets import save_sheet
from hvd_yolo.data.survey import Survey, take_survey
from hvd_yolo.errors import InputError
from hvd_yolo.feed import refuse_different
from hvd_yolo.value_range import share_value_range

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """The first word is the verb, the others are its options."""
    verb = argv[0] if argv else ""
    listing = ", ".join(_VERBS)
    if verb in ("-h", "--help"):
        print(f"python -m hvd_yolo.data VERB --data DATA ...; VERB is one of {listing}")
        print("python -m hvd_yolo.data VERB --help lists its options")
        return
    if verb not in _VERBS:
        found = f"the verb {verb!r} is not known" if verb else "the verb is missing"
        raise InputError(f"{found}: python -m hvd_yolo.data VERB ..., with one of {listing}")
    options, act = _VERBS[verb]
    config = parse(options, argv[1:], f"hvd_yolo.data {verb}")
    if not config.data:
        raise InputError("data is missing: name the data set, --data my_data.yaml")
    act(config, connect(config.comm, "cpu"))


def check(config: CheckConfig, comm: Comm) -> None:
    """Tells what is wrong; exit code 1 when something of it is an error."""
    datasets, absent = _find(config.data, config.splits, comm)
    surveys = _survey(datasets, comm)
    findings = judge(datasets, surveys) + absent_splits(absent)
    with agree(comm):
        if comm.is_main:
            splits = _measure(datasets, surveys)
            print(f"{telling.overview(splits)}\n\n{telling.findings_text(findings)}", flush=True)
            told = [dataclasses.asdict(finding) for finding in findings]
            _save_json(config.output, {"data": config.data, "splits": splits, "findings": told})
    # Only now, for a launcher ends all ranks when one returns 1.
    if any(finding.severity == "error" for finding in findings):
        sys.exit(1)


def stats(config: StatsConfig, comm: Comm) -> None:
    """Tells how many, how large and of what shape the objects are."""
    datasets = _open(config.data, config.splits, comm)
    surveys = _survey(datasets, comm)
    with agree(comm):
        if comm.is_main:
            splits = _measure(datasets, surveys)
            print(f"{telling.overview(splits)}\n\n{telling.distributions(splits)}", flush=True)
            _save_json(config.output, {"data": config.data, "splits": splits})


def convert(config: ConvertConfig, comm: Comm) -> None:
    """Writes all splits in another format."""
    datasets, surveys = _survey_to_write(config, comm)
    _write(config, comm, entries_of(datasets, surveys))


def split(config: SplitConfig, comm: Comm) -> None:
    """Pools the splits and writes them dealt anew, by the same writers."""
    shares = read_shares(config.shares)
    datasets, surveys = _survey_to_write(config, comm)
    entries = entries_of(datasets, surveys)
    pixels = np.concatenate([found.images[found.is_read, 3] for found in surveys.values()])
    labels = [entry.truth.labels for entry in entries]
    targets = deal(pixels, labels, shares, config.seed)
    dealt = [e._replace(split=target) for e, target in zip(entries, targets, strict=True)]
    _write(config, comm, sorted(dealt, key=lambda entry: list(shares).index(entry.split)))


def draw(config: DrawConfig, comm: Comm) -> None:
    """Writes contact sheets of images drawn by lot; each rank draws its share of the sheets."""
    with agree(comm):
        dataset = open_dataset(config.data, config.split)
    share_value_range([dataset], 0.0, comm)
    folder = config.output or (str(cli.next_free("draw")) if comm.is_main else "")
    folder = Path(gather_json(comm, folder)[0])
    chosen = keyed_rng(config.seed, 0, 0).permutation(len(dataset)).tolist()
    num_sheets = min(config.sheets, -(-len(chosen) // config.images))
    with agree(comm):
        for number in cli.progress(_own(num_sheets, comm), "sheets"):
            indices = chosen[number * config.images : (number + 1) * config.images]
            save_sheet(
                folder / f"{config.split}_{number + 1:03}.png", dataset, indices, config.size
            )
    if comm.is_main:
        print(f"{num_sheets} sheets of the {config.split} split: {folder}", flush=True)


def _open(data: str, splits: str, comm: Comm) -> dict[str, Dataset]:
    datasets, absent = _find(data, splits, comm)
    for reason in absent.values():
        logger.warning("%s; the split is left out", reason)
    return datasets


def _find(data: str, splits: str, comm: Comm) -> Splits:
    names = _split_names(splits)
    with agree(comm):
        found = find_splits(data, names)
    seen = {split: summary(dataset) for split, dataset in found.datasets.items()}
    refuse_different(seen, data, comm)
    share_value_range(list(found.datasets.values()), 0.0, comm)
    return found


def _split_names(splits: str) -> list[str]:
    names = [name.strip() for name in splits.split(",") if name.strip()]
    for name in names:
        if Path(name).name != name:
            raise InputError(f"splits: {name!r} is not a name that a split can have")
    return names


def _survey(datasets: dict[str, Dataset], comm: Comm) -> dict[str, Survey]:
    """The survey of each split, on every rank; each reads its share of the images."""
    surveys = {}
    for name, dataset in datasets.items():
        part = take_survey(dataset, cli.progress(_own(len(dataset), comm), f"reading {name}"))
        images, objects = (
            np.concatenate([rows.numpy() for rows in comm.gather(torch.from_numpy(table))])
            for table in (part.images, part.objects)
        )
        messages = (
            [line for lines in gather_json(comm, own) for line in lines] for own in part[2:]
        )
        surveys[name] = Survey(images, objects, *messages)
    return surveys


def _own(number: int, comm: Comm) -> range:
    """This rank's share of so many."""
    return range(number)[share(number, comm.rank, comm.size)]


def _measure(datasets: dict[str, Dataset], surveys: dict[str, Survey]) -> dict[str, Any]:
    return {name: measure(dataset.names, surveys[name]) for name, dataset in datasets.items()}


def _save_json(file: str, content: dict[str, Any]) -> None:
    if not file:
        return
    with cli.output_file("output", file) as path:
        save_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _survey_to_write(
    config: ConvertConfig | SplitConfig, comm: Comm
) -> tuple[dict[str, Dataset], dict[str, Survey]]:
    """What the writers need; what would stop them is found before the images are read."""
    if not config.output:
        raise InputError("output is missing: name a folder to write to")
    with agree(comm):
        writing.refuse_occupied(Path(config.output))
        writing.refuse_missing_writer(config.to)
    datasets = _with_truth(config.data, _open(config.data, config.splits, comm), comm)
    surveys = _survey(datasets, comm)
    for what, lines in (
        (UNREADABLE, [line for survey in surveys.values() for line in survey.unreadable]),
        (OTHER_SIZE, [line for survey in surveys.values() for line in survey.other_size]),
    ):
        if lines and comm.is_main:
            print(f"{what}, left out: {len(lines)} (the first: {lines[0]})")
    if not any(survey.is_read.any() for survey in surveys.values()):
        raise InputError(f"data {config.data}: no image can be read")
    return datasets, surveys


def _with_truth(data: str, datasets: dict[str, Dataset], comm: Comm) -> dict[str, Dataset]:
    """The splits whose objects are known: images of the others would be written as background."""
    found = {split: dataset for split, dataset in datasets.items() if dataset.has_truth}
    for split in datasets.keys() - found.keys():
        if comm.is_main:
            print(f"{split}: left out, its file has no annotations, and its truth is not known")
    if not found:
        raise InputError(f"data {data}: no split has annotations")
    return found


def _write(config: ConvertConfig | SplitConfig, comm: Comm, entries: list[Entry]) -> None:
    """Each rank writes its share of the images and says what the format cannot hold; rank 0 writes
    the rest."""
    folder = Path(config.output)
    entries = with_places(entries, config.to)
    parts = parts_of(entries, config.to, config.shard_images)
    lost: Counter[str] = Counter()
    with agree(comm):
        for index in cli.progress(_own(len(parts), comm), "writing"):
            lost += writing.write_part(parts[index], folder, config.to, config.images)
    lost = sum(map(Counter, gather_json(comm, lost)), writing.keypoints_lost(entries))
    with agree(comm):
        if comm.is_main:
            renumbered = writing.write_index(parts, folder, config.to)
            for what in (*(f"{what}: {count}" for what, count in lost.items()), *renumbered):
                print(f"not held by {config.to}: {what}")
            counts = Counter(entry.split for entry in entries)
            told = ", ".join(f"{name} {count}" for name, count in counts.items())
            print(f"{folder / 'data.yaml'}: {told} images", flush=True)


_VERBS: dict[str, tuple[type, Callable[..., None]]] = {
    "check": (CheckConfig, check),
    "stats": (StatsConfig, stats),
    "convert": (ConvertConfig, convert),
    "split": (SplitConfig, split),
    "draw": (DrawConfig, draw),
}


if __name__ == "__main__":
    cli.run(main)
