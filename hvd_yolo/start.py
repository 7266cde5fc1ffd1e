"""How a run starts, and starts again when ranks have come or gone: one config, one data set and one
state for all ranks."""

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hvd_yolo import checkpoint, cli, feed
from hvd_yolo.autobatch import find_batch_size
from hvd_yolo.comm import (
    Comm,
    agree,
    batch_norm,
    broadcast_bytes,
    connect,
    elastic,
    gather_json,
    launch,
    reproducible,
)
from hvd_yolo.config import Config, flatten, from_yaml, load, overridden, parse_train, to_yaml
from hvd_yolo.data import different_names, open_dataset
from hvd_yolo.data.changes import DataSummary, data_summary, images_seen_of, refuse_changes
from hvd_yolo.data.dataset import Dataset, object_sizes
from hvd_yolo.data.usable import refuse_without_objects
from hvd_yolo.errors import InputError
from hvd_yolo.foreign_detector import check_foreign
from hvd_yolo.models import YOLO
from hvd_yolo.models.anchors import fit_anchors, has_anchors
from hvd_yolo.models.losses import LossesOf, own_losses
from hvd_yolo.once_per_host import read_once_per_host
from hvd_yolo.precision import choose_amp, set_arithmetic
from hvd_yolo.report import environment
from hvd_yolo.state import Commit, TrainState, new_state, share_state
from hvd_yolo.teacher import keep_copy, learn_from, share_teacher
from hvd_yolo.value_range import share_value_range
from hvd_yolo.weights import load_weights

logger = logging.getLogger("hvd_yolo.start")

# What connect() looks at.
_CONNECTED_BY = (
    "device", "train.sync_bn", "comm.backend", "comm.op", "comm.compression", "comm.cycle_ms",
    "comm.fusion_mb", "comm.hierarchical", "comm.timeline",
)  # fmt: skip


@dataclass
class Kept:
    """What a process of an elastic job keeps while ranks come and go. data_summary: what its files
    held before they were cached; teacher: as read from its file."""

    caches: ExitStack
    config: Config | None = None
    sets: tuple[Dataset, Dataset | None] | None = None
    data_summary: DataSummary | None = None
    is_cached: bool = False
    state: TrainState | None = None
    teacher: dict[str, Any] | None = None
    num_ranks: int = 0

    @property
    def committed(self) -> Commit | None:
        """The last commit of this process."""
        return None if self.state is None else self.state.committed

    @property
    def updates(self) -> int:
        """How many the last commit holds, -1 where there is none."""
        return self.committed.training["updates"] if self.committed else -1


class Prepared(NamedTuple):
    """What training takes; losses_of: what it makes small; metrics_bytes: how much of metrics.jsonl
    stays."""

    comm: Comm
    config: Config
    train_set: Dataset
    val_set: Dataset | None
    state: TrainState
    losses_of: LossesOf
    metrics_bytes: int


def prepare(argv: Sequence[str], kept: Kept) -> Prepared:
    """Connects this rank, and agrees with the others on what they train; every rank calls it.

    Goes on from the last commit in `kept` of any rank, or else from the checkpoint of the run.
    Raises InputError, most often on all ranks; but HostsChanged on those that have a commit, for
    the fault is then that of a host that has come, and the others go on without it.
    """
    try:
        return _prepare(argv, kept)
    except InputError as error:
        if kept.committed is None:
            raise
        raise elastic.HostsChanged(str(error)) from error


def _prepare(argv: Sequence[str], kept: Kept) -> Prepared:
    # Rank 0 alone looks into the run's folder, for other hosts need not share its disk; so ranks
    # connect by what the command line says. In an elastic job a rank learns its number then.
    said = parse_train(argv)
    may_be_main = launch.launched_rank() == 0 or launch.is_elastic()
    config = kept.config or (load(argv) if may_be_main else said)
    if launch.promised() is None:
        said = config
    comm = connect(said.comm, said.device, said.train.sync_bn)
    cli.speak_as(comm.rank)
    root = _furthest(kept, comm)
    kept.config, is_resumed, may_change = _settle(config, comm, root, kept.committed is not None)
    config = kept.config
    refuse_unsaid(said, config)
    _set_arithmetic(config)
    folder = Path(config.output)
    with agree(comm):
        saved = _saved(config, is_resumed, kept) if comm.rank == root else None
    train_set, val_set = _share_data(kept, config, comm)
    _check_data(saved, kept.data_summary, config, comm, root, may_change)
    with agree(comm):
        state = new_state(config, len(train_set.names), comm.device)
        if not isinstance(state.model, YOLO):
            check_foreign(state.model, config, comm, train_set)
        if config.train.sync_bn:
            batch_norm.check_convertible(state.model)
        if comm.rank == root:
            _restore(state, saved, config, kept.data_summary)
    metrics_bytes = saved.metrics_bytes if saved else 0
    # Into config.yaml and the checkpoints: whoever uses the detector scales images alike.
    config.loader.value_range = share_value_range(
        (train_set, val_set), config.loader.value_range, comm
    )
    # What is lost from here on has its commit still.
    state.committed = kept.committed
    kept.state = state
    metrics_bytes = int(comm.broadcast(torch.tensor(metrics_bytes), root))
    if root:
        share_state(state, comm, root)
    losses_of = own_losses
    if config.teacher:
        kept.teacher = share_teacher(kept.teacher, config, is_resumed, comm, root)
        with agree(comm):
            losses_of = learn_from(kept.teacher, config, state.model, train_set.names, comm.device)
    if config.batch_size == -1:
        config.batch_size = find_batch_size(state.model, config, comm, train_set, losses_of)
    if config.train.autoanchor and not is_resumed:
        _fit_anchors(state, config, comm, train_set)
    with agree(comm):
        if comm.is_main:
            _open_folder(folder, config)
            if config.teacher:
                keep_copy(kept.teacher, folder)
    # Only an elastic job needs it again.
    kept.teacher = kept.teacher if comm.is_elastic else None
    start = environment.describe(comm)
    if start is not None:
        environment.append(folder / "environment.json", start, state.updates)
    return Prepared(comm, config, train_set, val_set, state, losses_of, metrics_bytes)


def _set_arithmetic(config: Config) -> None:
    """Before the model is made; all ranks alike."""
    if config.train.deterministic:
        reproducible.fix_cublas_workspace()
    set_arithmetic(config.train, not (config.order.multi_scale or config.order.rect))


def _open_folder(folder: Path, config: Config) -> None:
    """Makes the run's folder, with its config."""
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the run's folder {folder} cannot be made: {error.strerror}; choose another --output"
        ) from error
    checkpoint.save_text(folder / "config.yaml", to_yaml(config))


def _furthest(kept: Kept, comm: Comm) -> int:
    """The rank whose commit is the last one; rank 0 where there is none. Ranks that lose others in
    the midst of an update may have one more or less."""
    updates = gather_json(comm, kept.updates)
    return updates.index(max(updates))


def _share_data(kept: Kept, config: Config, comm: Comm) -> tuple[Dataset, Dataset | None]:
    """The data sets, of which each host reads one copy; every rank calls it."""
    read = None if kept.sets else partial(_open_data, config)
    opened = read_once_per_host(comm, config.data, read)
    if opened is not None:
        kept.sets, kept.data_summary = opened
    return kept.sets


def _open_data(config: Config) -> tuple[tuple[Dataset, Dataset | None], DataSummary]:
    train_set = open_dataset(config.data, "train")
    val_set = open_dataset(config.data, "val") if config.eval.is_wanted else None
    for split, dataset in (("train", train_set), ("val", val_set)):
        if dataset is not None and not dataset.has_truth:
            remedy = "" if split == "train" else ", or train without evaluations: --eval.every 0"
            raise InputError(
                f"data {config.data}: the {split} split has no annotations; annotate it{remedy}"
            )
    refuse_without_objects(train_set, config.data, "train")
    if val_set and val_set.names != train_set.names:
        raise InputError(different_names("the val split", val_set.names, train_set.names))
    return (train_set, val_set), data_summary(train_set, val_set)


def _settle(config: Config, comm: Comm, root: int, has_commit: bool) -> tuple[Config, bool, bool]:
    """The config of rank `root` with its output folder and precision, whether a commit or a
    checkpoint is there to go on from, and whether the images may have changed; on all ranks."""
    if comm.rank == root and not config.output:
        config.output = str(cli.next_free("exp"))
    train = config.train
    train.amp = choose_amp(
        train.amp, train.dtype, config.model, comm.device, config.comm.shares_every_update
    )
    is_resumed = has_commit or (bool(config.resume) and checkpoint.is_there(_last(config)))
    said = json.dumps([to_yaml(config), is_resumed, "data" in overridden(config)])
    heard, *flags = json.loads(broadcast_bytes(comm, said.encode(), root))
    return from_yaml(heard), *flags


def refuse_unsaid(said: Config, config: Config) -> None:
    """Raises InputError where the run to resume was connected otherwise than the command line
    says; all ranks find the same."""
    old, new = flatten(config), flatten(said)
    unsaid = [f"--{key} {old[key]}" for key in _CONNECTED_BY if old[key] != new[key]]
    if unsaid:
        raise InputError(
            f"the run was started with {' '.join(unsaid)}: say it again, for ranks connect before "
            "they know what is in the run's folder"
        )


def _last(config: Config) -> Path:
    return Path(config.output) / "checkpoints" / "last.pt"


def _saved(config: Config, is_resumed: bool, kept: Kept) -> Commit | None:
    """What the run goes on from: its last commit, or else its newest checkpoint; None where it
    begins."""
    if kept.committed is not None or not is_resumed:
        return kept.committed
    content = checkpoint.load_newest(_last(config))
    return Commit(content["training"], content["metrics_bytes"])


def _check_data(
    saved: Commit | None, now: DataSummary, config: Config, comm: Comm, root: int, may_change: bool
) -> None:
    """Raises InputError on all ranks where they see different data, or another than the run that
    rank `root` has saved was trained on, as far as it may not change; the rest is told."""
    splits = {split: found for split, found in now.items() if split != "names"}
    feed.refuse_different(splits, config.data, comm)
    before = json.dumps(saved.training["data_summary"] if saved else {}).encode()
    if before := json.loads(broadcast_bytes(comm, before, root)):
        for change in refuse_changes(before, now, config.data, config.output, may_change):
            logger.warning(change)


def _restore(state: TrainState, saved: Commit | None, config: Config, now: DataSummary) -> None:
    """Loads what the run starts from, on one rank."""
    if saved is not None:
        state.load_state_dict(saved.training)
        before = state.data_summary["train"]["images"]
        state.images_seen = images_seen_of(state.images_seen, before, now["train"]["images"])
    elif config.weights:
        taken = load_weights(state.model, Path(config.weights), tuple(now["names"]))
        state.ema.module.load_state_dict(state.model.state_dict())
        logger.info("weights %s: %s", config.weights, taken)
    state.data_summary = now


def _fit_anchors(state: TrainState, config: Config, comm: Comm, train_set: Dataset) -> None:
    """Each rank reads its share of up to 2,000 images; all come to the same anchors, whatever their
    number."""
    if not has_anchors(state.model):
        return
    chosen = range(0, len(train_set), -(-len(train_set) // 2000))
    sizes = object_sizes(train_set, chosen[comm.rank :: comm.size], config.imgsz)
    sizes = torch.cat(comm.gather(torch.from_numpy(sizes))).numpy()
    sizes = sizes[np.lexsort(sizes.T)]
    logger.info(fit_anchors(state.model, sizes, config.seed))
    state.ema.module.load_state_dict(state.model.state_dict())
