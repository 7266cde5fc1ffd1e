"""The programs that benchmarks/gpu_check.py starts on the device.

    python -m benchmarks.gpu_check_rank rates|syncs|shared FILE SETTINGS

SETTINGS is JSON, see each program; what is measured goes to FILE, as JSON, row by row: a program
that is ended for its time leaves the rows that it has.
"""

import itertools
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.in_memory import repeated_batches
from hvd_yolo import feed
from hvd_yolo.comm import Comm, connect
from hvd_yolo.config import CommConfig, Config, load
from hvd_yolo.data import open_dataset
from hvd_yolo.data.loader import Batch
from hvd_yolo.errors import InputError
from hvd_yolo.models import largest_stride
from hvd_yolo.models.losses import own_losses
from hvd_yolo.out_of_memory import describe, is_out_of_memory
from hvd_yolo.pace import make_pace
from hvd_yolo.precision import set_arithmetic
from hvd_yolo.state import TrainState, new_state, share_state
from hvd_yolo.step import Step
from hvd_yolo.stopping import StopRequest

# The classes of COCO; the drawn images have fewer.
NUM_CLASSES = 80
NUM_BATCHES = 2
# Updates that are counted together, and those before, in which queues fill.
NUM_COUNTED, NUM_BEFORE = 6, 3
# Calls of CUDA's runtime that return when the device is done, as torch.profiler names them.
WAITS = re.compile(r"cuda(Stream|Event|Device)Synchronize$|cuCtxSynchronize$|cudaMemcpy$")
# A copy of pageable memory waits too, whatever it is called with.
PAGEABLE = re.compile(r"Memcpy (HtoD \(Pageable -> Device\)|DtoH \(Device -> Pageable\))")
LAUNCHES = re.compile(r"cu(da)?LaunchKernel")


def configured(options: list[str]) -> Config:
    """The config of the options; torch computes as it says, as in hvd_yolo.start."""
    config = load(options)
    set_arithmetic(config.train, not (config.order.multi_scale or config.order.rect))
    return config


def prepared(
    options: list[str], comm: Comm, num_batches: int = 0
) -> tuple[Step, TrainState, Iterator[Batch]]:
    """A step, its state, and the batches of a loader, or so many that are made and copied before
    the first step."""
    config = configured(options)
    train_set = open_dataset(config.data, "train")
    state = new_state(config, NUM_CLASSES, comm.device)
    pace = make_pace(config, len(train_set), comm.size)
    share_state(state, comm)
    step = Step(config, comm, pace, StopRequest(), print, own_losses)
    step.prepare(state)
    stride = largest_stride(state.model)
    if num_batches:
        batches = repeated_batches(config, comm, train_set, pace, stride, num_batches)
    else:
        batches = feed.open_training(config, comm, train_set, pace, stride, (0, 0))
    return step, state, batches


def options_of(settings: dict[str, Any], model: str, num_batches: int, *others: str) -> list[str]:
    """Those of hvd_yolo, with an epoch of so many batches."""
    images = settings["batch"] * num_batches
    return [
        "--model", model, "--data", f"shapes:{images}", "--imgsz", str(settings["imgsz"]),
        "--batch_size", str(settings["batch"]), "--device", "cuda", *others,
    ]  # fmt: skip


def rates(settings: dict[str, Any], file: Path) -> None:
    """Images a second of whole updates by model and precision; batches are on the device before.

    settings: models, variants (name and options), batch, imgsz, warmup, steps, deadline (seconds).
    """
    began, rows = time.monotonic(), []
    comm = connect(CommConfig("single"), "cuda")
    for (name, others), model in itertools.product(settings["variants"], settings["models"]):
        row = {"model": model, "variant": name}
        rows.append(row)
        if time.monotonic() - began > settings["deadline"]:
            row["why"] = "out of time"
        else:
            row |= _rate(options_of(settings, model, NUM_BATCHES, *others), comm, settings)
        file.write_text(json.dumps(rows))


def _rate(options: list[str], comm: Comm, settings: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        step, state, batches = prepared(options, comm, NUM_BATCHES)
        for _ in range(settings["warmup"]):
            step.update(state, batches)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(settings["steps"]):
            step.update(state, batches)
        torch.cuda.synchronize()
    except InputError as error:
        return {"why": str(error)}
    except (RuntimeError, MemoryError) as error:
        # One that does not compile leaves the others their rows.
        is_full = is_out_of_memory(error)
        return {"why": describe(error) if is_full else str(error).partition("\n")[0]}
    seconds = time.perf_counter() - started
    return {
        "images_per_s": settings["steps"] * settings["batch"] / seconds,
        "memory": torch.cuda.max_memory_reserved(),
        "seconds_of_start": started - began,
    }


def syncs(settings: dict[str, Any], file: Path) -> None:
    """Host-device synchronizations and launches of an update that ends no epoch, with the batches
    of a loader; settings: as rates, and is_pretend."""
    comm = connect(CommConfig("single"), "cuda")
    count = _pretend_counts if settings["is_pretend"] else _profiled_counts
    rows = []
    for model in settings["models"]:
        num_batches = NUM_BEFORE + NUM_COUNTED + 1
        others = ("--train.amp", "bf16", "--workers", "0")
        options = options_of(settings, model, num_batches, *others)
        step, state, batches = prepared(options, comm)
        for _ in range(NUM_BEFORE):
            step.update(state, batches)
        waits, launches = count(step, state, batches)
        by_name = {name: number / NUM_COUNTED for name, number in waits.items()}
        rows.append({
            "model": model, "syncs": sum(by_name.values()), "by_name": by_name,
            "launches": launches / NUM_COUNTED,
        })  # fmt: skip
        file.write_text(json.dumps(rows))


def waits_of(names: Iterable[str]) -> Counter[str]:
    """Of the names of events of the profiler, those of host-device synchronizations.

    A blocking copy of pageable memory is a copy and a wait for its stream: it counts once.
    """
    names = list(names)
    waits = Counter(name for name in names if WAITS.search(name))
    num_pageable = sum(bool(PAGEABLE.search(name)) for name in names)
    if num_pageable > waits["cudaStreamSynchronize"]:
        waits["copy of pageable memory"] = num_pageable - waits["cudaStreamSynchronize"]
    return +waits


def _profiled_counts(
    step: Step, state: TrainState, batches: Iterator[Batch]
) -> tuple[Counter[str], int]:
    """Host-device synchronizations of NUM_COUNTED updates by name, and kernels launched."""
    # The profiler itself waits for the device at its end.
    own = waits_of(_profiled_names(step, state, batches, 0))
    names = _profiled_names(step, state, batches, NUM_COUNTED)
    return waits_of(names) - own, sum(bool(LAUNCHES.match(name)) for name in names)


def _profiled_names(
    step: Step, state: TrainState, batches: Iterator[Batch], num_updates: int
) -> list[str]:
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(num_updates):
            step.update(state, batches)
    return [event.name for event in profile.events()]


def _pretend_counts(
    step: Step, state: TrainState, batches: Iterator[Batch]
) -> tuple[Counter[str], int]:
    from tests.pretend_cuda.counts import counted_launches, counted_syncs

    with counted_syncs() as waits, counted_launches() as launches:
        for _ in range(NUM_COUNTED):
            step.update(state, batches)
    return waits, launches.total()


def shared(settings: dict[str, Any], file: Path) -> None:
    """Updates of ranks that share one GPU, through Gloo, and of one rank with all images: the
    largest difference of a weight; settings: model, imgsz, steps.

    torchrun starts it, with both ranks or one of them.
    """
    comm = connect(CommConfig("torch"), "cuda", latency_bound=True, may_share_gpus=True)
    config = _exact(settings)
    state = new_state(config, NUM_CLASSES, comm.device)
    pace = make_pace(config, settings["images"], comm.size)
    share_state(state, comm)
    step = Step(config, comm, pace, StopRequest(), print, own_losses)
    step.prepare(state)
    train_set = open_dataset(config.data, "train")
    stride = largest_stride(state.model)
    batches = feed.open_training(config, comm, train_set, pace, stride, (0, 0))
    for _ in range(settings["steps"]):
        step.update(state, batches)
    torch.cuda.synchronize()
    if comm.is_main:
        weights = {name: p.detach().cpu() for name, p in state.model.named_parameters()}
        torch.save(weights, file)
    comm.barrier()


def _exact(settings: dict[str, Any]) -> Config:
    """Float64 and SyncBatchNorm, with which the number of ranks changes rounding alone."""
    return configured([
        "--model", settings["model"], "--data", f"shapes:{settings['images']}", "--imgsz",
        str(settings["imgsz"]), "--global_batch", "4", "--train.dtype", "float64", "--train.amp",
        "none", "--train.sync_bn", "true", "--optim.name", "sgd", "--device", "cuda", "--workers",
        "0",
    ])  # fmt: skip


def main() -> None:
    """Runs the program that is named."""
    name, file, settings = sys.argv[1:]
    programs = {"rates": rates, "syncs": syncs, "shared": shared}
    programs[name](json.loads(settings), Path(file))


if __name__ == "__main__":
    main()
