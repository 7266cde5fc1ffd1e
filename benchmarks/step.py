"""Seconds of a YOLOv8n training step on the CPU: hvd_yolo as it sets itself up, with each part of
that switched off, and Ultralytics beside it, in turn.

    python benchmarks/step.py --peer PYTHON
    python benchmarks/step.py --before CHECKOUT

PYTHON is the interpreter of an environment with `ultralytics` in it, CHECKOUT another checkout of
the project, as `git worktree` makes them, which runs as it sets itself up; without either only this
one is measured. Each variant runs in a process of its own, for the allocator is set for a process,
and all of them once a round; the median over rounds counts. The step of hvd_yolo is a whole update:
forward, loss, backward, clipping, AdamW and EMA; that of Ultralytics its model, its loss and AdamW,
without clipping and EMA. Prints a table and writes benchmarks/step.json. --smoke: two variants of
three steps with tiny images.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.in_memory import repeated_batches
from benchmarks.results import REPOSITORY, commit, write_results
from hvd_yolo import config
from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.models import largest_stride
from hvd_yolo.models.losses import own_losses
from hvd_yolo.pace import make_pace
from hvd_yolo.precision import choose_amp, has_bf16
from hvd_yolo.state import new_state
from hvd_yolo.step import Step
from hvd_yolo.stopping import StopRequest

# Both programs take pixels, images, threads and steps, and print the seconds of each step.
# The package is that of the checkout, the program this file.
OURS = """
import sys; sys.path.insert(0, {checkout!r})
import hvd_yolo; sys.path.insert(0, {folder!r})
import step; step.our_steps()
"""
PEER = """
import sys, time, torch
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
size, count, threads, steps = map(int, sys.argv[1:5])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = DetectionModel("yolov8n.yaml", nc=80, verbose=False).train()
model.args = get_cfg()
optimizer = torch.optim.AdamW(model.parameters(), 0.001)
sides = torch.rand(8 * count, 2) * 0.4 + 0.05
batch = {
    "img": torch.rand(count, 3, size, size),
    "cls": torch.randint(0, 80, (8 * count, 1)).float(),
    "bboxes": torch.cat((torch.rand(8 * count, 2) * 0.4 + 0.3, sides), 1),
    "batch_idx": torch.arange(count).repeat_interleave(8).float(),
}
for _ in range(steps):
    started = time.monotonic()
    optimizer.zero_grad()
    model(batch)[0].sum().backward()
    optimizer.step()
    print("SECONDS", time.monotonic() - started, flush=True)
"""

# Made before the first step.
NUM_BATCHES = 4
# A variable of malloc's, at its default: it changes nothing, and hvd_yolo leaves malloc alone.
MALLOC_UNSET = {"MALLOC_PERTURB_": "0"}
HAS_BF16 = has_bf16(Path("/proc/cpuinfo").read_text())
FLOAT32, CONTIGUOUS = ("--train.amp", "none"), ("--train.channels_last", "false")
VARIANTS = {
    "hvd_yolo": ((), {}),
    "without the allocator": ((), MALLOC_UNSET),
    "without channels_last": (CONTIGUOUS, {}),
    **({"without bf16": (FLOAT32, {})} if HAS_BF16 else {}),
    "without any of them": ((*FLOAT32, *CONTIGUOUS), MALLOC_UNSET),
}


def our_steps() -> None:
    """The program of a process of ours; options of hvd_yolo follow the four numbers."""
    size, count, threads, steps = map(int, sys.argv[1:5])
    sizes = ["--imgsz", str(size), "--batch_size", str(count)]
    options = config.load(["--data", f"shapes:{NUM_BATCHES * count}", *sizes, *sys.argv[5:]])
    comm = connect(CommConfig("single"), "cpu")
    torch.set_num_threads(threads)
    options.train.amp = choose_amp(options.train.amp, "float32", options.model, comm.device)
    layout = "channels_last" if options.train.channels_last else "contiguous"
    print("CHOSE", options.train.amp, layout, *comm.settings, flush=True)
    state = new_state(options, 80, comm.device)
    train_set = open_dataset(options.data, "train")
    pace = make_pace(options, len(train_set), 1)
    step = Step(options, comm, pace, StopRequest(), print, own_losses)
    step.prepare(state)
    stride = largest_stride(state.model)
    batches = repeated_batches(options, comm, train_set, pace, stride, NUM_BATCHES)
    for _ in range(steps):
        started = time.monotonic()
        step.update(state, batches)
        print("SECONDS", time.monotonic() - started, flush=True)


def measure(
    python: str,
    program: str,
    numbers: list[int],
    options: tuple[str, ...],
    environment: dict[str, str],
) -> tuple[float, str]:
    """Median seconds of a step of a new process, its first two left out, and what it chose."""
    done = subprocess.run(
        [python, "-c", program, *map(str, numbers), *options],
        check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line]
    seconds = [float(value) for key, value in lines if key == "SECONDS"]
    chosen = " ".join(value for key, value in lines if key == "CHOSE")
    return statistics.median(seconds[2:]), chosen


def main() -> None:
    """Runs what was asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default="")
    parser.add_argument("--before", default="", help="another checkout of the project")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--steps", type=int, default=8, help="of each process, two of them left out"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    variants = VARIANTS
    if asked.smoke:
        asked.imgsz, asked.batch, asked.threads, asked.steps, asked.rounds = 64, 2, 1, 3, 1
        variants = {name: VARIANTS[name] for name in ("hvd_yolo", "without any of them")}
    numbers = [asked.imgsz, asked.batch, asked.threads, asked.steps]

    folder = str(Path(__file__).parent)
    program = OURS.format(checkout=str(REPOSITORY), folder=folder)
    jobs = {name: (sys.executable, program, numbers, *rest) for name, rest in variants.items()}
    if asked.before:
        checkout = Path(asked.before).resolve()
        program = OURS.format(checkout=str(checkout), folder=folder)
        name = f"hvd_yolo at {commit(checkout)}"
        jobs = {name: (sys.executable, program, numbers, (), {}), **jobs}
    if asked.peer:
        jobs = {"Ultralytics": (asked.peer, PEER, numbers, (), {}), **jobs}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    chosen = {}
    for _, name in itertools.product(range(asked.rounds), jobs):
        taken, chosen[name] = measure(*jobs[name])
        seconds[name].append(taken)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians))
    title = f"{asked.imgsz} px, batch {asked.batch}, {asked.threads} threads"
    print(f"| {title} | seconds a step | images/s | {first} over it | set |")
    print("|---|---|---|---|---|")
    for name, value in medians.items():
        rate, ratio = asked.batch / value, medians[first] / value
        print(f"| {name} | {value:.2f} | {rate:.1f} | {ratio:.2f} | {chosen[name]} |")
    content = {**vars(asked), "peer": bool(asked.peer), "chosen": chosen, "seconds": seconds}
    write_results(__file__, content, asked.smoke)


if __name__ == "__main__":
    main()
