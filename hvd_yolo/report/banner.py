"""What a run says of itself before its first update."""

import math

import torch

from hvd_yolo.comm import Comm, launch
from hvd_yolo.comm.traffic import update_bytes
from hvd_yolo.config import Config
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.usable import has_objects
from hvd_yolo.pace import Pace
from hvd_yolo.precision import arithmetic
from hvd_yolo.state import TrainState


def banner(
    config: Config,
    comm: Comm,
    pace: Pace,
    state: TrainState,
    train_set: Dataset,
    val_set: Dataset | None,
) -> str:
    """Model, data, ranks with what was chosen for them, batch and rate, in a few lines."""
    loader = config.loader
    num_workers = launch.loader_workers(config.workers, comm.own_cpus, comm.device)
    staged = f", files staged in {loader.stage}" if loader.stage else ""
    num_parameters = sum(p.numel() for p in state.model.parameters())
    evaluated = f", {len(val_set)} to evaluate" if val_set else ""
    settings = " ".join(f"{name}={value}" for name, value in comm.settings.items())
    went_on = f"goes on after update {state.updates}\n" if state.updates else ""
    return (
        f"run: {config.output}\n"
        f"model: {config.model}, {num_parameters:,} parameters, {config.imgsz} pixels, "
        f"{arithmetic(config.train, comm.device)}"
        f"{', channels_last' if config.train.channels_last else ''}\n"
        f"data: {config.data}, {len(train_set)} images to train on{evaluated}, "
        f"{len(train_set.names)} classes\n"
        f"{_value_range(loader.value_range)}"
        f"ranks: {comm.size} by {comm.name} on {comm.device.type}, {torch.get_num_threads()} "
        f"threads each"
        f"{', ' + settings if settings else ''}\n"
        f"{_wire(config, comm, state)}"
        f"loader: {num_workers or 'no'} worker processes a rank, cache {loader.cache}{staged}\n"
        f"{pace.banner()}\n{_nothing_to_score(val_set)}{went_on}"
    ).rstrip()


def _value_range(value_range: float) -> str:
    """The banner's line on images of more than 8 bits, empty where there are none."""
    if not value_range:
        return ""
    return f"value range: 0 to {value_range:.10g} in all images of more than 8 bits per sample\n"


def _nothing_to_score(val_set: Dataset | None) -> str:
    """The banner's line on a validation split without objects, empty for another."""
    if val_set is None or has_objects(val_set):
        return ""
    return (
        f"warning: the val split has no object on any of its {len(val_set)} images: there is "
        "nothing to score against, AP is undefined, and no evaluation is the best: there will be "
        "no best.pt, and training is not stopped early\n"
    )


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
