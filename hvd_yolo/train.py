"""Training: start reading here. fit() is the whole story, in the order it happens.

horovodrun -np 16 -H node1:8,node2:8 python -m hvd_yolo.train --data coco.yaml --model yolov8s
"""

import json
import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from hvd_yolo import checkpoint, cli, feed
from hvd_yolo.autobatch import find_batch_size
from hvd_yolo.comm import Comm, agree, broadcast_bytes, connect, launch
from hvd_yolo.comm.traffic import update_bytes
from hvd_yolo.config import Config, flatten, from_yaml, load, parse_train, to_yaml
from hvd_yolo.data import different_names, open_dataset
from hvd_yolo.data.dataset import Dataset, object_sizes
from hvd_yolo.errors import InputError
from hvd_yolo.models import YOLO, largest_stride
from hvd_yolo.models.anchors import fit_anchors, has_anchors
from hvd_yolo.models.trial import try_detector
from hvd_yolo.pace import Pace, make_pace
from hvd_yolo.precision import choose_amp
from hvd_yolo.report import Report, environment, slow_data_remedy
from hvd_yolo.state import TrainState, new_state, share_state
from hvd_yolo.step import Step
from hvd_yolo.weights import load_weights

logger = logging.getLogger("hvd_yolo.train")

# What connect() looks at.
_CONNECTED_BY = (
    "device", "train.sync_bn", "comm.backend", "comm.op", "comm.compression", "comm.cycle_ms",
    "comm.fusion_mb", "comm.hierarchical", "comm.timeline",
)  # fmt: skip

__all__ = ["TrainState", "fit", "main"]


def fit(
    state: TrainState,
    config: Config,
    comm: Comm,
    train_set: Dataset,
    val_set: Dataset | None,
    report: Report,
    folder: Path,
) -> TrainState:
    """Trains `state` to the end of its run; every rank calls it with the same config and data.

    The state of rank 0 counts, whatever the others bring. Rank 0 writes last.pt, best.pt and the
    epochs to keep into `folder`.
    """
    pace = make_pace(config, len(train_set), comm.size)
    share_state(state, comm)
    step = Step(config, comm, pace)
    step.prepare(state)

    order = feed.make_order(config, comm, train_set, pace, largest_stride(state.model))
    start = (state.epoch, state.images_seen)
    batches = feed.open_training(config, comm, train_set, order, pace, start)
    validate = feed.open_validation(config, comm, val_set) if val_set else None

    report.resumed_at(state.updates)
    while not pace.is_over(state.epoch, state.updates):
        rate = step.update(state, batches)

        is_last = pace.is_over(state.epoch, state.updates)
        has_ended_epoch = state.images_seen == 0
        epochs_seen = state.epoch + state.images_seen / len(train_set)
        if is_last or _is_due(state.updates, config.report.every):
            window = step.tally.close_window(state)
            report.train(epochs_seen, state.updates, rate, float(step.grad_norm), window)

        if is_last or has_ended_epoch or _is_due(state.updates, config.checkpoint.every_updates):
            step.settle(state)
            is_epoch_due = has_ended_epoch and _is_due(state.epoch, config.eval.every)
            if validate and (is_last or is_epoch_due):
                found = validate(state.ema.module)
                report.evaluation(epochs_seen, state.updates, found)
                if found.metrics["AP"] > state.best:
                    state.best = found.metrics["AP"]
                    save(folder / "best.pt", state, config, train_set, report, comm)
            save(folder / "last.pt", state, config, train_set, report, comm)
            if has_ended_epoch and _is_due(state.epoch, config.checkpoint.every_epochs):
                kept = folder / f"epoch_{state.epoch:03}.pt"
                save(kept, state, config, train_set, report, comm)
    return state


def save(
    file: Path, state: TrainState, config: Config, dataset: Dataset, report: Report, comm: Comm
) -> None:
    """Writes the state to `file` on rank 0, with all that evaluating or resuming it needs."""
    if comm.is_main:
        content = {
            "config": to_yaml(config),
            "names": list(dataset.names),
            "category_ids": list(dataset.category_ids),
            "weights": state.ema.module.state_dict(),
            "training": state.state_dict(),
            "metrics_bytes": report.metrics_bytes,
        }
        checkpoint.save(file, content)


def main(argv: Sequence[str]) -> None:
    """`python -m hvd_yolo.train`: every rank runs this."""
    # Rank 0 alone looks into the run's folder, for other hosts need not share its disk; so ranks
    # connect by what the command line says.
    said = parse_train(argv)
    config = load(argv) if launch.launched_rank() == 0 else said
    if launch.promised() is None:
        said = config
    comm = connect(said.comm, said.device, said.train.sync_bn)
    config, is_resumed = _settle(config, comm)
    _refuse_unsaid(said, config)
    folder = Path(config.output)
    with agree(comm):
        train_set = open_dataset(config.data, "train")
        val_set = open_dataset(config.data, "val") if config.eval.every else None
        if val_set and val_set.names != train_set.names:
            raise InputError(different_names("the val split", val_set.names, train_set.names))
        state = new_state(config, len(train_set.names), comm.device)
        if not isinstance(state.model, YOLO):
            try_detector(state.model, config.model, len(train_set.names), config.imgsz)
        metrics_bytes = _restore(state, config, is_resumed) if comm.is_main else 0
    if config.batch_size == -1:
        config.batch_size = find_batch_size(state.model, config, comm, train_set)
    if config.train.autoanchor and not is_resumed:
        _fit_anchors(state, config, comm, train_set)
    with agree(comm):
        if comm.is_main:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            checkpoint.save_text(folder / "config.yaml", to_yaml(config))
    start = environment.describe(comm)
    if comm.is_main:
        environment.append(folder / "environment.json", start, state.updates)

    pace = make_pace(config, len(train_set), comm.size)
    total_updates = pace.total_updates(state.epoch, state.images_seen, state.updates)
    num_workers = launch.loader_workers(config.workers, comm.local_size, comm.device)
    remedy = slow_data_remedy(config.loader.cache, num_workers)
    report = Report(folder, comm.is_main, comm.size > 1, metrics_bytes, total_updates, remedy)
    report.say(_banner(config, comm, pace, state, train_set, val_set))
    side = feed.largest_side(config, largest_stride(state.model))
    with ExitStack() as stack:
        with agree(comm):
            train_set = feed.kept(stack, config.loader, train_set, side, comm)
            val_set = val_set and feed.kept(stack, config.loader, val_set, config.imgsz, comm)
        fit(state, config, comm, train_set, val_set, report, folder / "checkpoints")
    best = f"; best AP {state.best:.4f} in {folder}/checkpoints/best.pt" if val_set else ""
    report.say(f"done: {state.updates} updates{best}")
    report.close()


def _settle(config: Config, comm: Comm) -> tuple[Config, bool]:
    """The config of rank 0 with its output folder and precision, and whether a checkpoint is there
    to go on from; on all ranks."""
    if comm.is_main and not config.output:
        config.output = str(cli.next_free("exp"))
    train = config.train
    train.amp = choose_amp(train.amp, train.dtype, config.model, comm.device)
    is_resumed = bool(config.resume) and _last(config).is_file()
    said = json.dumps({"config": to_yaml(config), "is_resumed": is_resumed})
    heard = json.loads(broadcast_bytes(comm, said.encode()))
    return from_yaml(heard["config"]), heard["is_resumed"]


def _refuse_unsaid(said: Config, config: Config) -> None:
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


def _restore(state: TrainState, config: Config, is_resumed: bool) -> int:
    """Loads what the run starts from, on rank 0, and returns how much of metrics.jsonl stays."""
    if is_resumed:
        content = checkpoint.load(_last(config))
        state.load_state_dict(content["training"])
        return content["metrics_bytes"]
    if config.weights:
        taken = load_weights(state.model, Path(config.weights))
        state.ema.module.load_state_dict(state.model.state_dict())
        logger.info("weights %s: %s", config.weights, taken)
    return 0


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


def _banner(
    config: Config,
    comm: Comm,
    pace: Pace,
    state: TrainState,
    train_set: Dataset,
    val_set: Dataset | None,
) -> str:
    loader = config.loader
    num_workers = launch.loader_workers(config.workers, comm.local_size, comm.device)
    staged = f", files staged in {loader.stage}" if loader.stage else ""
    num_parameters = sum(p.numel() for p in state.model.parameters())
    evaluated = f", {len(val_set)} to evaluate" if val_set else ""
    settings = " ".join(f"{name}={value}" for name, value in comm.settings.items())
    went_on = f"goes on after update {state.updates}\n" if state.updates else ""
    return (
        f"run: {config.output}\n"
        f"model: {config.model}, {num_parameters:,} parameters, {config.imgsz} pixels, "
        f"{config.train.dtype if config.train.amp == 'none' else config.train.amp}"
        f"{', channels_last' if config.train.channels_last else ''}\n"
        f"data: {config.data}, {len(train_set)} images to train on{evaluated}, "
        f"{len(train_set.names)} classes\n"
        f"ranks: {comm.size} by {comm.name} on {comm.device.type}, {torch.get_num_threads()} "
        f"threads each"
        f"{', ' + settings if settings else ''}\n"
        f"{_wire(config, comm, state)}"
        f"loader: {num_workers or 'no'} worker processes a rank, cache {loader.cache}{staged}\n"
        f"{pace.banner()}\n{went_on}"
    ).rstrip()


def _wire(config: Config, comm: Comm, state: TrainState) -> str:
    """The banner's line on what ranks send, empty for one rank."""
    if comm.size == 1:
        return ""
    options = config.comm
    shapes = [p.shape for p in state.model.parameters() if p.requires_grad]
    rank, share = options.powersgd_rank, options.topk_share
    sent = update_bytes(shapes, comm.size, options.compression, rank, share) / 1e6
    if options.shares_every_update:
        what = {
            "none": "gradients",
            "powersgd": f"gradients by PowerSGD of rank {rank}",
            "topk": f"the largest {share:.2%} of the gradients",
        }.get(options.compression, f"gradients in {options.compression}")
        line = f"{sent:.3g} MB an update, {what}"
    else:
        every = f"every {options.sync_every} updates" if options.sync_every > 1 else "an update"
        means = "Adasum" if options.op == "adasum" else "local SGD"
        line = f"{sent:.3g} MB {every}, weights by {means}"
    is_later = options.sharing_at(0) != options.sharing_at(math.inf)
    return f"sent by a rank: {line}{f' after {options.warmup:g} epochs' if is_later else ''}\n"


def _is_due(count: int, every: int) -> bool:
    return every > 0 and count % every == 0


if __name__ == "__main__":
    cli.run(main)
