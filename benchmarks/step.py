"""Seconds of a YOLOv8n training step on the CPU: hvd_yolo as it sets itself up, with each part of
that switched off, and Ultralytics beside it, in turn.

    python benchmarks/step.py --peer PYTHON

PYTHON is the interpreter of an environment with `ultralytics` in it; without --peer only hvd_yolo
is measured. Each variant runs in a process of its own, for the allocator is set for a process, and
all of them once a round; the median over rounds counts. The step of hvd_yolo is a whole update:
forward, loss, backward, clipping, AdamW and EMA; that of Ultralytics its model, its loss and AdamW,
without clipping and EMA. Prints a table and writes benchmarks/step.json.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from hvd_yolo import config
from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from hvd_yolo.pace import make_pace
from hvd_yolo.precision import choose_amp, has_bf16
from hvd_yolo.state import new_state
from hvd_yolo.step import Step
from hvd_yolo.stopping import StopRequest

# Both programs take pixels, images, threads and steps, and print the seconds of each step.
FOLDER = str(Path(__file__).parent)
OURS = f"import sys; sys.path.insert(0, {FOLDER!r}); import step; step.our_steps()"
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


class MadeBatch:
    """A batch as the loader gives it, with eight objects in each of `count` images."""

    unreadable = ()

    def __init__(self, count: int, size: int) -> None:
        sides = torch.rand(count, 8, 2) * 0.4 + 0.05
        centres = torch.rand(count, 8, 2) * 0.4 + 0.3
        self.boxes = torch.cat((centres - sides / 2, centres + sides / 2), 2) * size
        self.images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def to_model(self, _: torch.device, dtype: torch.dtype) -> tuple[Tensor, list[dict]]:
        """See hvd_yolo.data.loader.Batch."""
        labels = torch.arange(8)
        targets = [{"boxes": boxes, "labels": labels} for boxes in self.boxes]
        return self.images.permute(0, 3, 1, 2).to(dtype) / 255, targets


def our_steps() -> None:
    """The program of a process of ours; options of hvd_yolo follow the four numbers."""
    size, count, threads, steps = map(int, sys.argv[1:5])
    options = config.load(["--imgsz", str(size), "--batch_size", str(count), *sys.argv[5:]])
    comm = connect(CommConfig("single"), "cpu")
    torch.set_num_threads(threads)
    options.train.amp = choose_amp(options.train.amp, "float32", options.model, comm.device)
    layout = "channels_last" if options.train.channels_last else "contiguous"
    print("CHOSE", options.train.amp, layout, *comm.settings, flush=True)
    state = new_state(options, 80, comm.device)
    step = Step(options, comm, make_pace(options, 10**6, 1), StopRequest(), print)
    step.prepare(state)
    batches = itertools.repeat(MadeBatch(count, size))
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
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--steps", type=int, default=8, help="of each process, two of them left out"
    )
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    numbers = [asked.imgsz, asked.batch, asked.threads, asked.steps]

    jobs = {name: (sys.executable, OURS, numbers, *variant) for name, variant in VARIANTS.items()}
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
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
