"""What two or more ranks on this machine give: hvd_yolo over Horovod, beside independent processes
(the limit) and torch's DistributedDataParallel, in turn; and where the time of a step goes.

    python benchmarks/scaling.py [--ranks 2] [--rounds 7] [--data DATA.yaml] [--key value ...]

It starts everything itself: plain processes, mpirun, horovodrun --gloo and torchrun. Each variant
runs once a round, in new processes, and every round begins with another variant; medians over
rounds count, and for a ratio the median of the rounds' ratios. DDP has our model, loss, precision,
layout, malloc, clipping, optimizer and EMA, Gloo, and the best of what it offers:
gradient_as_bucket_view, static_graph, no broadcast of buffers, the best of several bucket sizes.
Options that are not named below go to hvd_yolo, as --comm.groups 2 or --optim.name sgd.

Without --data the images are drawn before the first step, so that "data" is only what the step does
with a batch; with it they come from the real loader. The split of a step is that of the round with
the median rate, the mean over its steps and ranks. Prints Markdown tables and writes
benchmarks/scaling.json after each round. Exit code 1: the phases were less than 97 % of a step.
--smoke: one round of one step of tiny images, whose phases are not checked.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import write_results
from hvd_yolo.config import CommConfig

RANK = str(Path(__file__).with_name("scaling_rank.py"))
BIN = Path(sys.executable).parent
LAUNCHERS = {
    "mpirun": "mpirun --allow-run-as-root --oversubscribe --bind-to none -np {ranks}",
    "gloo": f"{BIN}/horovodrun --gloo -np {{ranks}} -H localhost:{{ranks}}",
    "torchrun": f"{BIN}/torchrun --standalone --nproc_per_node {{ranks}}",
}
# Of a launcher that this script was itself started under, and must not hand on.
FOREIGN = ("OMPI_", "PMIX_", "HOROVOD_", "MALLOC_")
BUCKETS_MB = (1, 4, 25)
HEADINGS = {
    "data": "data", "forward": "forward", "loss": "loss", "backward": "backward",
    "communication": "exposed communication", "optimizer": "optimizer", "other": "EMA, other",
}  # fmt: skip
LEAST_SHARE = 0.97


@dataclass(frozen=True)
class Variant:
    """How ranks are started, and what they run."""

    launcher: str
    side: str = "ours"
    backend: str = "single"
    bucket_mb: int = 0


def variants() -> dict[str, Variant]:
    """All of them, by the name in the table."""
    found = {
        "1 rank": Variant("one"),
        "independent": Variant("all"),
        "Horovod MPI": Variant("mpirun", backend="horovod"),
        "Horovod Gloo": Variant("gloo", backend="horovod"),
    }
    if "torch" in get_args(get_type_hints(CommConfig)["backend"]):
        found["torch twin"] = Variant("torchrun", backend="torch")
    for size in BUCKETS_MB:
        found[f"DDP {size} MB"] = Variant("torchrun", "ddp", bucket_mb=size)
    return found


def run(
    variant: Variant, asked: argparse.Namespace, options: list[str], environment: dict[str, str]
) -> list[dict[str, Any]]:
    """What each rank of a new job found, see scaling_rank.main; every process of it must
    succeed."""
    ranks = 1 if variant.launcher == "one" else asked.ranks
    is_alone = variant.launcher in ("one", "all")
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "side": variant.side, "folder": folder, "bucket_mb": variant.bucket_mb,
            "alone": ranks if is_alone else 0, "in_memory": not asked.data,
            "warmup": asked.warmup, "steps": asked.steps,
        }  # fmt: skip
        launcher = [] if is_alone else LAUNCHERS[variant.launcher].format(ranks=ranks).split()
        if variant.launcher != "torchrun":
            launcher.append(sys.executable)
        backend = ["--comm.backend", variant.backend]
        command = [*launcher, RANK, json.dumps(settings), *options, *backend]
        log = Path(folder, "log")
        with open(log, "wb") as out:
            jobs = [
                subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
                for _ in range(ranks if is_alone else 1)
            ]
            if not all_succeed(jobs):
                raise SystemExit(f"{' '.join(command)}\n{log.read_text()}\nfailed, see above")
        found = [json.loads(file.read_text()) for file in sorted(Path(folder).glob("rank*.json"))]
    if variant.side == "ddp" and len({rank["weights"] for rank in found}) > 1:
        raise SystemExit(f"{' '.join(command)}: the ranks came to different weights")
    return found


def all_succeed(jobs: list[subprocess.Popen[bytes]]) -> bool:
    """Waits for the processes; where one fails the others, which may wait for it, are ended."""
    while any(job.poll() is None for job in jobs):
        if any(job.poll() for job in jobs):
            for job in jobs:
                job.terminate()
        time.sleep(0.1)
    return not any(job.returncode for job in jobs)


def summed(found: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Images a second of all ranks; milliseconds of a step and of its phases, means over ranks."""
    scale = 1000 / steps / len(found)
    phases = {name: scale * sum(rank["phases"][name] for rank in found) for name in HEADINGS}
    return {
        "rate": sum(rank["images"] / rank["seconds"] for rank in found),
        "step": scale * sum(rank["seconds"] for rank in found),
        "phases": phases,
        "amp": found[0]["amp"],
        "settings": found[0]["settings"],
    }


def median_ratio(rounds: list[dict[str, Any]], a: str, b: str) -> str:
    """The median over rounds of rate a / rate b, with the smallest and the largest."""
    ratios = [found[a]["rate"] / found[b]["rate"] for found in rounds]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def median_rate(rounds: list[dict[str, Any]], name: str) -> float:
    """Images a second."""
    return statistics.median(found[name]["rate"] for found in rounds)


def print_rates(rounds: list[dict[str, Any]], ranks: int) -> None:
    """The table of rates, and the ratios to the best DDP."""
    names = list(rounds[0])
    print(f"| | img/s | over {ranks} independent processes | settings |\n|---|---|---|---|")
    for name in names:
        beside = median_ratio(rounds, name, "independent")
        chosen = " ".join(f"{k}={v}" for k, v in rounds[0][name]["settings"].items())
        print(f"| {name} | {median_rate(rounds, name):.1f} | {beside} | {chosen} |")
    peers = [name for name in names if name.startswith("DDP")]
    if not peers:
        return
    best = max(peers, key=lambda name: median_rate(rounds, name))
    print(f"\n| over the best DDP ({best}) | median of {len(rounds)} pairs |\n|---|---|")
    for name in names:
        if name.startswith(("Horovod", "torch")):
            print(f"| {name} | {median_ratio(rounds, name, best)} |")


def print_split(rounds: list[dict[str, Any]]) -> bool:
    """The table of phases; whether they are the whole of every step."""
    headings = " | ".join(HEADINGS.values())
    print(f"\n| ms | step | {headings} | sum |\n|---|---|" + "---|" * (len(HEADINGS) + 1))
    shares = []
    for name in rounds[0]:
        by_rate = sorted((found[name] for found in rounds), key=lambda found: found["rate"])
        middle = by_rate[(len(by_rate) - 1) // 2]
        cells = " | ".join(f"{value:.1f}" for value in middle["phases"].values())
        share = sum(middle["phases"].values()) / middle["step"]
        shares.append(share)
        print(f"| {name} | {middle['step']:.1f} | {cells} | {share:.1%} |")
    is_whole = LEAST_SHARE <= min(shares) <= max(shares) <= 2 - LEAST_SHARE
    verdict = "holds" if is_whole else "DOES NOT HOLD"
    print(f"\nphases sum to at least {LEAST_SHARE:.0%} of each step: {verdict}")
    return is_whole


def parse() -> tuple[argparse.Namespace, list[str]]:
    """What was asked for, and the options for hvd_yolo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="yolov8n")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8, help="images a rank")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--amp", default="auto", help="train.amp")
    parser.add_argument("--data", default="", help="for the real loader; else drawn in memory")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each process")
    parser.add_argument("--warmup", type=int, default=4, help="steps before them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="beginnings of variants, comma separated")
    parser.add_argument("--smoke", action="store_true")
    asked, others = parser.parse_known_args()
    if asked.smoke:
        asked.only, asked.imgsz, asked.batch = "Horovod Gloo,DDP 25", 64, 2
        asked.steps, asked.warmup, asked.rounds = 1, 1, 1
    options = [
        "--model", asked.model, "--imgsz", str(asked.imgsz), "--batch_size", str(asked.batch),
        "--train.amp", asked.amp, "--data", asked.data or "shapes", *others,
    ]  # fmt: skip
    return asked, options


def main() -> int:
    """Runs what was asked for and prints the tables."""
    asked, options = parse()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    environment |= {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": str(asked.threads)}
    wanted = ("1 rank", "independent", *filter(None, asked.only.split(",")))
    jobs = [
        (name, variant)
        for name, variant in variants().items()
        if not asked.only or name.startswith(wanted)
    ]
    rounds: list[dict[str, Any]] = []
    for i in range(asked.rounds):
        started = time.monotonic()
        first = i % len(jobs)
        found = {
            name: summed(run(variant, asked, options, environment), asked.steps)
            for name, variant in (*jobs[first:], *jobs[:first])
        }
        rounds.append({name: found[name] for name, _ in jobs})
        content = {**vars(asked), "options": options, "rounds": rounds}
        write_results(__file__, content, asked.smoke)
        seconds = time.monotonic() - started
        print(f"round {i + 1} of {asked.rounds}: {seconds:.0f} s", file=sys.stderr, flush=True)

    source = asked.data or "drawn images in memory"
    print(
        f"{asked.model}, {asked.imgsz} px, {asked.batch} images a rank, {asked.ranks} ranks of "
        f"{asked.threads} threads, {rounds[0]['1 rank']['amp']}, {source}\n"
    )
    print_rates(rounds, asked.ranks)
    return 0 if print_split(rounds) or asked.smoke else 1


if __name__ == "__main__":
    sys.exit(main())
