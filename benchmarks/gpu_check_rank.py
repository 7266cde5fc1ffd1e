"""The programs that benchmarks/gpu_check.py starts on the device.

    python -m benchmarks.gpu_check_rank rates|syncs|shared FILE SETTINGS

SETTINGS is JSON, see each program; what is measured goes to FILE, as JSON, row by row: a program
that is ended for its time leaves the rows that it has.
"""

import itertools
import json
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
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
from hvd_yolo.state import TrainState, new_state, share_state
from hvd_yolo.step import Step
from hvd_yolo.stopping import StopRequest

# The classes of COCO; the drawn images have fewer.
NUM_CLASSES = 80
NUM_BATCHES = 2
# Calls of CUDA's runtime that return when the device is done, as torch.profiler names them.
WAITS = re.compile(r"cuda(Stream|Event|Device)Synchronize$|cuCtxSynchronize$|cudaMemcpy$")
# A copy of pageable memory waits too, whatever it is called with.
PAGEABLE = re.compile(r"Memcpy (HtoD \(Pageable -> Device\)|DtoH \(Device -> Pageable\))")


def prepared(options: list[str], comm: Comm) -> tuple[Step, TrainState, Iterator[Batch]]:
    """A step, its state, and batches that are made before the first step."""
    config = load(options)
    train_set = open_dataset(config.data, "train")
    state = new_state(config, NUM_CLASSES, comm.device)
    pace = make_pace(config, len(train_set), comm.size)
    share_state(state, comm)
    step = Step(config, comm, pace, StopRequest(), print, own_losses)
    step.prepare(state)
    stride = largest_stride(state.model)
    batches = repeated_batches(config, comm, train_set, pace, stride, NUM_BATCHES)
    return step, state, batches


def options_of(settings: dict[str, Any], model: str, *others: str) -> list[str]:
    """Those of hvd_yolo."""
    images = settings["batch"] * NUM_BATCHES
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
            row |= _rate(options_of(settings, model, *others), comm, settings)
        file.write_text(json.dumps(rows))


def _rate(options: list[str], comm: Comm, settings: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        step, state, batches = prepared(options, comm)
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
        if not is_out_of_memory(error):
            raise
        return {"why": describe(error)}
    seconds = time.perf_counter() - started
    return {
        "images_per_s": settings["steps"] * settings["batch"] / seconds,
        "memory": torch.cuda.max_memory_reserved(),
        "seconds_of_start": started - began,
    }


def syncs(settings: dict[str, Any], file: Path) -> None:
    """Host-device synchronizations of an update, and kernels launched; settings: as rates, and
    is_pretend."""
    comm = connect(CommConfig("single"), "cuda")
    rows = []
    for model in settings["models"]:
        step, state, batches = prepared(options_of(settings, model, "--train.amp", "bf16"), comm)
        for _ in range(settings["warmup"]):
            step.update(state, batches)
        torch.cuda.synchronize()
        count = _pretend_count if settings["is_pretend"] else _profiled_count
        counts = [count(step, state, batches) for _ in range(settings["steps"])]
        # Of some updates, for one may clean up after others.
        middle = statistics.median_low([sum(one.values()) for one in counts])
        by_name = next(one for one in counts if sum(one.values()) == middle)
        rows.append({"model": model, "syncs": middle, "by_name": dict(by_name)})
        file.write_text(json.dumps(rows))


def _profiled_count(step: Step, state: TrainState, batches: Iterator[Batch]) -> Counter[str]:
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        step.update(state, batches)
        # Without a wait for the device, which would count.
    names = [event.name for event in profile.events()]
    return Counter(name for name in names if WAITS.search(name) or PAGEABLE.search(name))


def _pretend_count(step: Step, state: TrainState, batches: Iterator[Batch]) -> Counter[str]:
    from tests.pretend_cuda.counts import counted_syncs

    with counted_syncs() as counts:
        step.update(state, batches)
    return Counter({str(place): number for place, number in counts.items()})


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
    return load([
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
