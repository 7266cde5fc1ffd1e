"""Compressed gradients and local SGD: updates a second and bytes on a slow link, and what they cost
in AP.

    python benchmarks/compression.py --rate 100mbit --rounds 3
    python benchmarks/compression.py --data .../bccd/data.yaml --seeds 0,1,2

The first needs root, iproute2 and openssh-server: it makes two hosts, network namespaces joined by
a link of that rate, and trains YOLOv8n on one rank of one thread in each, all methods in turn in
each round; the median over rounds counts. Bytes are those that the kernel counts on the interface
of the first host while the updates are made. The second trains on two ranks of this machine, once
for each method and seed, and compares the AP at the end. Both print a table and write
benchmarks/compression.json. --smoke: both, one epoch or a few updates of two methods.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import write_results
from tests.cluster import hosts

METHODS = {
    "none": (),
    "fp16": ("--comm.compression", "fp16"),
    "bf16": ("--comm.compression", "bf16"),
    "PowerSGD, rank 8": ("--comm.compression", "powersgd", "--comm.powersgd_rank", "8"),
    "PowerSGD, rank 16": ("--comm.compression", "powersgd", "--comm.powersgd_rank", "16"),
    "top-k, 1 %": ("--comm.compression", "topk"),
    "local SGD, H = 4": ("--comm.sync_every", "4"),
}
TRAIN = ("-m", "hvd_yolo.train", "--model", "yolov8n")
SMOKE_METHODS = ("none", "top-k, 1 %")


def train_lines(run: Path) -> list[dict]:
    """The train lines that metrics.jsonl holds by now."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line for line in found if line["kind"] == "train"]


def on_the_link(
    lab: hosts.Hosts, asked: argparse.Namespace, method: str, run: Path
) -> dict[str, float]:
    """Updates a second, share of the time spent waiting, and bytes an update, claimed and counted,
    from the end of the first line of progress to the end of the last."""
    options = [
        *TRAIN, *METHODS[method], "--output", str(run), "--imgsz", str(asked.imgsz),
        "--global_batch", str(2 * asked.batch), "--data", asked.images, "--eval.every", "0",
        "--epochs", "1000", "--loader.cache", "ram",
        "--max_updates", str(asked.every * asked.lines), "--report.every", str(asked.every),
        "--comm.warmup", "0",
    ]  # fmt: skip
    launcher = {"gloo": hosts.horovodrun, "mpi": hosts.mpirun}[asked.launcher]
    job = lab.start("node1", launcher({"node1": 1, "node2": 1}, options))
    counted = []
    while job.poll() is None or len(counted) < len(train_lines(run)):
        if len(train_lines(run)) > len(counted):
            counted.append(lab.sent_bytes("node1"))
        time.sleep(0.02)
    if job.returncode:
        raise RuntimeError(job.stdout.read() + job.stderr.read())
    # The last line comes with the end of the run, at which more is sent.
    lines, counted = train_lines(run)[:-1], counted[:-1]
    updates = lines[-1]["step"] - lines[0]["step"]
    return {
        "updates_per_s": updates / (lines[-1]["seconds"] - lines[0]["seconds"]),
        "comm_wait": statistics.median(line["comm_wait"] for line in lines[1:]),
        "claimed": statistics.mean(line["sent_bytes"] for line in lines[1:]),
        "counted": (counted[-1] - counted[0]) / updates,
    }


def measure_link(asked: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """All rounds of all methods."""
    found: dict[str, list[dict[str, float]]] = {method: [] for method in asked.methods}
    with tempfile.TemporaryDirectory() as folder, hosts.made(2, Path(folder) / "lab") as lab:
        lab.rate(asked.rate)
        for number in range(asked.rounds):
            for i, method in enumerate(asked.methods):
                run = Path(folder) / f"run{number}_{i}"
                found[method].append(on_the_link(lab, asked, method, run))
    print(
        f"YOLOv8n, {asked.imgsz} px, {asked.batch} images a rank, two hosts, {asked.rate}, "
        f"{asked.launcher}"
    )
    print("| | updates/s | of none | of fp16 | comm wait | MB an update | on the interface |")
    print("|---|---|---|---|---|---|---|")
    middle = {
        method: {key: statistics.median(one[key] for one in all_) for key in all_[0]}
        for method, all_ in found.items()
    }
    for method, one in middle.items():
        speed = one["updates_per_s"]
        fp16 = middle.get("fp16", {"updates_per_s": math.nan})
        beside = [speed / other["updates_per_s"] for other in (middle["none"], fp16)]
        print(
            f"| {method} | {speed:.2f} | {beside[0]:.2f} | {beside[1]:.2f} | "
            f"{one['comm_wait']:.0%} | {one['claimed'] / 1e6:.3f} | {one['counted'] / 1e6:.3f} "
            f"({one['counted'] / one['claimed'] - 1:+.1%}) |"
        )
    return found


def average_precision(asked: argparse.Namespace, method: str, seed: str, folder: Path) -> float:
    """AP on the val split after a run on two ranks of this machine."""
    run = folder / f"{list(METHODS).index(method)}_{seed}"
    options = [
        *TRAIN, *METHODS[method], "--output", str(run), "--data", asked.data, "--imgsz",
        str(asked.imgsz), "--global_batch", "16", "--epochs", str(asked.epochs), "--seed", seed,
        "--eval.every", str(asked.epochs),
    ]  # fmt: skip
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, sys.executable, *options], check=True, capture_output=True, env=environment
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(line["AP"] for line in reversed(lines) if line["kind"] == "eval")


def measure_accuracy(asked: argparse.Namespace) -> dict[str, list[float]]:
    """AP by method and seed."""
    seeds = asked.seeds.split(",")
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in asked.methods:
            found[method] = [average_precision(asked, method, s, Path(folder)) for s in seeds]
    print(
        f"AP after {asked.epochs} epochs of {asked.data}, {asked.imgsz} px, 16 images an update, "
        "2 ranks"
    )
    print("| | " + " | ".join(f"seed {s}" for s in seeds) + " | mean | against none |")
    print("|---" * (len(seeds) + 3) + "|")
    for method, values in found.items():
        mean = statistics.mean(values)
        cells = " | ".join(f"{value:.3f}" for value in values)
        print(f"| {method} | {cells} | {mean:.3f} | {mean - statistics.mean(found['none']):+.3f} |")
    return found


def main() -> None:
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", default="100mbit", help="of the link, as tc writes it")
    parser.add_argument("--rounds", type=int, default=3)
    # So few that a core takes for them about as long as a GPU for a usual batch.
    parser.add_argument("--batch", type=int, default=2, help="images a rank and update")
    parser.add_argument("--launcher", choices=("gloo", "mpi"), default="gloo")
    # More than the updates take, for at the end of an epoch ranks send what they had kept.
    parser.add_argument("--images", default="shapes:600", help="data set for the link")
    parser.add_argument("--every", type=int, default=8, help="updates between two readings")
    parser.add_argument("--lines", type=int, default=5, help="readings")
    parser.add_argument("--data", default="", help="data set for AP; none: measure the link")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    asked.methods = list(METHODS)
    if asked.smoke:
        asked.methods, asked.seeds, asked.epochs, asked.imgsz = list(SMOKE_METHODS), "0", 1, 64
        asked.rounds, asked.every, asked.lines, asked.images = 1, 2, 3, "shapes:64"
    if not asked.data and hosts.missing():
        raise SystemExit(hosts.missing())
    file = Path(__file__).with_suffix(".json")
    content = json.loads(file.read_text()) if file.is_file() and not asked.smoke else {}
    if not asked.data:
        content["link"] = {**vars(asked), "found": measure_link(asked)}
    asked.data = asked.data or ("shapes:32" if asked.smoke else "")
    if asked.data:
        content["accuracy"] = {**vars(asked), "found": measure_accuracy(asked)}
    content.pop("commit", None)
    write_results(__file__, content, asked.smoke)


if __name__ == "__main__":
    main()
