"""Training: start reading here. fit() is the whole story, in the order it happens.

horovodrun -np 16 -H node1:8,node2:8 python -m hvd_yolo.train --data coco.yaml --model yolov8s
"""

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from hvd_yolo import checkpoint, cli, feed
from hvd_yolo.autobatch import find_batch_size
from hvd_yolo.comm import Comm, agree, broadcast_bytes, connect, gather_json, launch
from hvd_yolo.config import Config, flatten, from_yaml, load, parse_train, to_yaml
from hvd_yolo.data import different_names, open_dataset
from hvd_yolo.data.dataset import Dataset, object_sizes
from hvd_yolo.errors import InputError, Stopped
from hvd_yolo.models import YOLO, largest_stride
from hvd_yolo.models.anchors import fit_anchors, has_anchors
from hvd_yolo.models.trial import try_detector
from hvd_yolo.pace import make_pace
from hvd_yolo.precision import choose_amp
from hvd_yolo.processes import end_with_launcher
from hvd_yolo.report import Report, environment, slow_data_remedy
from hvd_yolo.report.banner import banner
from hvd_yolo.saving import Checkpoints
from hvd_yolo.state import TrainState, new_state, share_state
from hvd_yolo.step import Step
from hvd_yolo.stopping import ALL_SAVED, StopRequest
from hvd_yolo.watchdog import watched
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
    stop: StopRequest,
) -> TrainState:
    """Trains `state` to the end of its run; every rank calls it with the same config and data,
    inside stop.deferred().

    The state of rank 0 counts, whatever the others bring. Rank 0 writes last.pt, best.pt and the
    epochs to keep into `folder`. Raises Stopped on all ranks, with all saved, when any of them was
    asked to stop.
    """
    pace = make_pace(config, len(train_set), comm.size)
    share_state(state, comm)
    step = Step(config, comm, pace, stop, report.event)
    step.prepare(state)

    order = feed.make_order(config, comm, train_set, pace, largest_stride(state.model))
    start = (state.epoch, state.images_seen)
    batches = feed.open_training(config, comm, train_set, order, pace, start)
    validate = feed.open_validation(config, comm, val_set) if val_set else None
    checkpoints = Checkpoints(folder, config, train_set, comm, report, stop)

    report.resumed_at(state.updates)
    while True:
        if state.is_evaluation_due and validate:
            # A rank that is stopped in the evaluation is the end of rank 0, which may still write.
            checkpoints.settle()
            with stop.at_once():
                found = validate(state.ema.module)
            report.evaluation(_epochs(state, train_set), state.updates, found)
            state.is_evaluation_due = False
            is_best = found.metrics["AP"] > state.best
            state.best = max(found.metrics["AP"], state.best)
            checkpoints.save(state, is_best)
        if pace.is_over(state.epoch, state.updates):
            checkpoints.settle()
            return state

        rate = step.update(state, batches)

        is_last = pace.is_over(state.epoch, state.updates)
        has_ended_epoch = state.images_seen == 0
        if is_last or _is_due(state.updates, config.report.every):
            window, epochs = step.tally.close_window(state), _epochs(state, train_set)
            report.train(epochs, state.updates, rate, float(step.grad_norm), window)
        is_epoch_due = has_ended_epoch and _is_due(state.epoch, config.eval.every)
        state.is_evaluation_due = validate is not None and (is_last or is_epoch_due)
        is_save_due = step.is_save_asked or _is_due(state.updates, config.checkpoint.every_updates)
        if is_last or has_ended_epoch or is_save_due or step.is_stop_asked:
            step.settle(state)
            checkpoints.save(state)
        if step.is_stop_asked:
            checkpoints.settle()
            _stop(stop, comm, report, state.updates)


def _stop(stop: StopRequest, comm: Comm, report: Report, updates: int) -> NoReturn:
    """Raises Stopped on all ranks, which have saved."""
    reasons = enumerate(gather_json(comm, stop.reason))
    rank, reason = next((rank, reason) for rank, reason in reasons if reason)
    report.event(updates, "stopped", f"{reason} on rank {rank}")
    raise Stopped(f"stopped by {reason} on rank {rank} after update {updates}{ALL_SAVED}")


def main(argv: Sequence[str]) -> None:
    """`python -m hvd_yolo.train`: every rank runs this."""
    with StopRequest() as stop:
        end_with_launcher(stop)
        _run(argv, stop)


def _run(argv: Sequence[str], stop: StopRequest) -> None:
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
    report.say(banner(config, comm, pace, state, train_set, val_set))
    side = feed.largest_side(config, largest_stride(state.model))
    with ExitStack() as stack:
        with agree(comm):
            train_set = feed.kept(stack, config.loader, train_set, side, comm)
            val_set = val_set and feed.kept(stack, config.loader, val_set, config.imgsz, comm)
        tell = partial(_tell, report, state)
        comm = stack.enter_context(watched(comm, config.comm.stall_timeout, tell))
        stop.max_hours = config.max_hours
        with stop.deferred():
            files = folder / "checkpoints"
            fit(state, config, comm, train_set, val_set, report, files, stop)
    best = f"; best AP {state.best:.4f} in {folder}/checkpoints/best.pt" if val_set else ""
    report.say(f"done: {state.updates} updates{best}")
    report.close()


def _tell(report: Report, state: TrainState, fault: str, message: str) -> None:
    report.event(state.updates, fault, message)


def _settle(config: Config, comm: Comm) -> tuple[Config, bool]:
    """The config of rank 0 with its output folder and precision, and whether a checkpoint is there
    to go on from; on all ranks."""
    if comm.is_main and not config.output:
        config.output = str(cli.next_free("exp"))
    train = config.train
    train.amp = choose_amp(train.amp, train.dtype, config.model, comm.device)
    is_resumed = bool(config.resume) and checkpoint.is_there(_last(config))
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
        content = checkpoint.load_newest(_last(config))
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


def _epochs(state: TrainState, train_set: Dataset) -> float:
    """Passes over the data so far."""
    return state.epoch + state.images_seen / len(train_set)


def _is_due(count: int, every: int) -> bool:
    return every > 0 and count % every == 0


if __name__ == "__main__":
    cli.run(main)
