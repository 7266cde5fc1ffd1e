"""Training images a second on GPUs: hvd_yolo by horovodrun over NCCL, and the trainer of
Ultralytics beside it, in turn.

    python benchmarks/gpu.py --peer PYTHON [--data DATA.yaml] [--batch 32] [--cache ram]

For each of --models and each number of GPUs (1, 2, 4, ... and all), bf16: whole updates with the
real loader, clipping, optimizer and EMA, after a warm-up, no validation in between. PYTHON is the
interpreter of an environment with `ultralytics` in it; without --peer only hvd_yolo is measured; on
the CPU Ultralytics has one process and float32 only. Options that are not named below go to
hvd_yolo.
Without --data both read the same drawn images, written to disk as YOLO text, so many that the
timed updates lie in one epoch. Each side runs once a round, in new processes. Prints a table and
writes benchmarks/gpu.json after each of its rows. A job that fails (out of memory, say) is told on
standard error, and its cell says so.

--smoke tries the script out where there is no GPU, with tiny sizes: --device cpu and one rank.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import draw_data, write_results
from hvd_yolo import feed
from hvd_yolo.comm import agree, connect
from hvd_yolo.config import load
from hvd_yolo.data import open_dataset
from hvd_yolo.models import largest_stride
from hvd_yolo.models.losses import own_losses
from hvd_yolo.pace import make_pace
from hvd_yolo.precision import set_arithmetic
from hvd_yolo.state import new_state, share_state
from hvd_yolo.step import Step
from hvd_yolo.stopping import StopRequest

BIN = Path(sys.executable).parent
MODELS = "yolov8n,yolov8s,yolov8m,yolov8l,yolov8x"

# Started as one process, or as the ranks of torchrun, in place of the processes that the trainer
# would start itself and that know nothing of its callbacks. nbs: an update after each batch.
PEER = """
import json, os, sys, time, torch
from ultralytics.models.yolo.detect import DetectionTrainer
asked = json.loads(sys.argv[1])
on_gpu = asked["device"] == "cuda"
devices = ",".join(map(str, range(asked["gpus"]))) if on_gpu else "cpu"
total = asked["batch"] * asked["gpus"]
trainer = DetectionTrainer(overrides=dict(
    model=asked["model"] + ".yaml", data=asked["data"], imgsz=asked["imgsz"], batch=total,
    nbs=total, device=devices, amp=asked["amp"] if on_gpu else False, epochs=1000,
    optimizer="AdamW", lr0=0.001, momentum=0.9, val=False, save=False, plots=False,
    deterministic=False, pretrained=False, exist_ok=True, project=asked["folder"], name="peer",
    cache="ram" if asked["cache"] == "ram" else False,
))
done, started = 0, 0.0
def count(trainer):
    global done, started
    done += 1
    if done not in (asked["warmup"], asked["warmup"] + asked["steps"]):
        return
    if on_gpu:
        torch.cuda.synchronize()
    if done == asked["warmup"]:
        started = time.perf_counter()
        return
    seconds = time.perf_counter() - started
    if os.environ.get("RANK", "0") == "0":
        memory = torch.cuda.max_memory_reserved() if on_gpu else 0
        found = {"rate": asked["steps"] * total / seconds, "memory": memory}
        with open(os.path.join(asked["folder"], "found.json"), "w") as file:
            json.dump(found, file)
    sys.stdout.flush()
    os._exit(0)
trainer.add_callback("on_train_batch_end", count)
trainer.train()
"""


def our_rank(asked: dict[str, Any], options: list[str]) -> None:
    """The program of a rank of ours; rank 0 writes what it found."""
    config = load(options)
    set_arithmetic(config.train, not (config.order.multi_scale or config.order.rect))
    comm = connect(config.comm, config.device)
    train_set = open_dataset(config.data, "train")
    state = new_state(config, len(train_set.names), comm.device)
    pace = make_pace(config, len(train_set), comm.size)
    share_state(state, comm)
    step = Step(config, comm, pace, StopRequest(), print, own_losses)
    step.prepare(state)
    stride = largest_stride(state.model)
    with ExitStack() as stack:
        with agree(comm):
            side = feed.largest_side(config, stride)
            train_set = feed.kept(stack, config.loader, train_set, side, comm)
        batches = feed.open_training(config, comm, train_set, pace, stride, (0, 0))
        for _ in range(asked["warmup"]):
            step.update(state, batches)
        started, images = now(comm.device), 0
        for _ in range(asked["steps"]):
            images += pace.dealing.images_of_update(state.images_seen)
            step.update(state, batches)
        rate = images / (now(comm.device) - started)
    if comm.is_main:
        is_gpu = comm.device.type == "cuda"
        memory = torch.cuda.max_memory_reserved() if is_gpu else 0
        found = {"rate": rate, "memory": memory, "settings": comm.settings}
        Path(asked["folder"], "found.json").write_text(json.dumps(found))


def now(device: torch.device) -> float:
    """Seconds, when the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def run_ours(asked: argparse.Namespace, model: str, gpus: int) -> dict[str, Any] | None:
    """What rank 0 of a new job found, None when the job failed."""
    options = [
        "--model", model, "--data", asked.data, "--imgsz", str(asked.imgsz), "--device",
        asked.device, "--batch_size", str(asked.batch), "--train.amp", asked.amp,
        "--loader.cache", asked.cache, "--comm.backend", "horovod", *asked.options,
    ]  # fmt: skip
    launcher = [str(BIN / "horovodrun"), "-np", str(gpus), "-H", f"localhost:{gpus}"]
    command = [*launcher, sys.executable, __file__, "--rank"]
    return run(command, asked, {"gpus": gpus}, options)


def run_peer(asked: argparse.Namespace, model: str, gpus: int) -> dict[str, Any] | None:
    """As run_ours, of Ultralytics."""
    python = Path(asked.peer)
    launcher = [asked.peer]
    if gpus > 1:
        torchrun = str(python.with_name("torchrun"))
        launcher = [torchrun, "--standalone", "--nproc_per_node", str(gpus)]
    settings = {
        "model": model, "data": asked.data, "imgsz": asked.imgsz, "batch": asked.batch,
        "device": asked.device, "amp": asked.amp, "cache": asked.cache, "gpus": gpus,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "peer.py")
        program.write_text(PEER)
        return run([*launcher, str(program)], asked, settings, [])


def run(
    command: list[str], asked: argparse.Namespace, settings: dict[str, Any], options: list[str]
) -> dict[str, Any] | None:
    """Runs `command SETTINGS OPTIONS`; what it wrote into found.json, None when it failed."""
    with tempfile.TemporaryDirectory() as folder:
        settings |= {"folder": folder, "warmup": asked.warmup, "steps": asked.steps}
        done = subprocess.run(
            [*command, json.dumps(settings), *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        )  # fmt: skip
        file = Path(folder, "found.json")
        if done.returncode == 0 and file.is_file():
            return json.loads(file.read_text())
    print(f"{' '.join(command)}: failed\n{done.stdout[-3000:]}", file=sys.stderr, flush=True)
    return None


def rate(rounds: list[dict[str, Any]], side: str) -> float | None:
    """Median images a second; None when the side was not asked or a job of it failed."""
    rates = [found[side]["rate"] for found in rounds if found.get(side)]
    return statistics.median(rates) if len(rates) == len(rounds) else None


def row(model: str, gpus: int, rounds: list[dict[str, Any]], single: float | None) -> str:
    """A line of the table; `single` is the rate of ours on one GPU."""
    cells = []
    for side in ("hvd_yolo", "ultralytics"):
        value = rate(rounds, side)
        failed = "failed" if side in rounds[0] else "-"
        cells.append(failed if value is None else f"{value:.1f}")
    ours = rate(rounds, "hvd_yolo")
    cells.insert(1, f"{ours / single / gpus:.0%}" if ours and single else "-")
    if ours and rate(rounds, "ultralytics"):
        pairs = [found["hvd_yolo"]["rate"] / found["ultralytics"]["rate"] for found in rounds]
        cells.append(f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})")
    else:
        cells.append("-")
    for side in ("hvd_yolo", "ultralytics"):
        bytes_taken = [found[side]["memory"] for found in rounds if found.get(side)]
        cells.append(f"{max(bytes_taken) / 1e9:.1f}" if any(bytes_taken) else "-")
    return f"| {model} | {gpus} | " + " | ".join(cells) + " |"


def refuse(message: str) -> NoReturn:
    """Ends the script as every command of hvd_yolo refuses."""
    print(f"benchmarks/gpu.py: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def check_gpus(asked: argparse.Namespace) -> list[int]:
    """How many GPUs, or on the CPU ranks, each job takes; refuses what this machine has not."""
    if asked.device == "cpu":
        return [int(count) for count in (asked.gpus or "1,2").split(",")]
    there = torch.cuda.device_count()
    if not there:
        refuse(
            "torch sees no GPU on this machine; run it on a GPU server set up with `make setup "
            "GPU=1`, or try the script out with --smoke"
        )
    powers = [2**i for i in range(there.bit_length()) if 2**i < there]
    counts = [int(count) for count in asked.gpus.split(",")] if asked.gpus else [*powers, there]
    if max(counts) > there:
        refuse(f"--gpus asks for {max(counts)}, torch sees {there} GPUs on this machine")
    built = subprocess.run(
        [str(BIN / "horovodrun"), "--check-build"], capture_output=True, text=True, check=True
    ).stdout
    if max(counts) > 1 and "[X] NCCL" not in built:
        refuse("this Horovod is built without NCCL: `make setup GPU=1` builds it with")
    return counts


def parse() -> argparse.Namespace:
    """What was asked for; `options` are those for hvd_yolo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", default="")
    parser.add_argument("--models", default=MODELS, help="comma separated")
    parser.add_argument("--gpus", default="", help="comma separated; else 1, 2, 4, ... and all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--data", default="", help="a data.yaml that both read")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=32, help="images a GPU")
    parser.add_argument("--amp", choices=("bf16", "fp16"), default="bf16")
    parser.add_argument("--cache", choices=("none", "ram"), default="none", help="on both sides")
    parser.add_argument("--warmup", type=int, default=10, help="updates before the timed ones")
    parser.add_argument("--steps", type=int, default=50, help="timed updates")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true")
    asked, asked.options = parser.parse_known_args()
    if asked.smoke:
        asked.device, asked.models, asked.gpus, asked.imgsz = "cpu", "yolov8n", "1", 64
        asked.batch, asked.warmup, asked.steps, asked.rounds = 2, 1, 2, 1
    return asked


def main() -> None:
    """Runs what was asked for and prints the table."""
    if sys.argv[1:2] == ["--rank"]:
        return our_rank(json.loads(sys.argv[2]), sys.argv[3:])
    asked = parse()
    counts = check_gpus(asked)
    with tempfile.TemporaryDirectory() as folder:
        needed = asked.batch * max(counts) * (asked.warmup + asked.steps + 1)
        asked.data = os.path.abspath(asked.data) if asked.data else draw_data(folder, needed)
        print(
            f"{asked.imgsz} px, {asked.batch} images a GPU, {asked.amp}, cache {asked.cache}\n\n"
            "| model | GPUs | hvd_yolo img/s | of so many single GPUs | ultralytics img/s | "
            "ratio, median of pairs | GB hvd_yolo | GB ultralytics |\n" + "|---" * 8 + "|"
        )
        results = []
        for model in asked.models.split(","):
            single = None
            for gpus in counts:
                rounds = []
                for _ in range(asked.rounds):
                    found = {"hvd_yolo": run_ours(asked, model, gpus)}
                    if asked.peer and not (asked.device == "cpu" and gpus > 1):
                        found["ultralytics"] = run_peer(asked, model, gpus)
                    rounds.append(found)
                single = rate(rounds, "hvd_yolo") if gpus == 1 else single
                print(row(model, gpus, rounds, single), flush=True)
                results.append({"model": model, "gpus": gpus, "rounds": rounds})
                content = {**vars(asked), "peer": bool(asked.peer), "results": results}
                write_results(__file__, content, asked.smoke)
    return None


if __name__ == "__main__":
    main()
