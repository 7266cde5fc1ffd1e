"""What many ranks cost at start and in an evaluation: real ranks on this machine, each phase timed
and its bytes counted, and the accounting for 512 ranks.

    python benchmarks/many_ranks.py [--ranks 32,48] [--launcher both] [--images 960]

Every rank is a training of a tiny detector (benchmarks/many_ranks_rank.py) on drawn images with
YOLO text labels, three updates and one evaluation, started by horovodrun over Gloo and by mpirun.
Seconds are those of many ranks on few cores: read them as a sum of work, not as a time to expect.
Bytes and counts do not depend on that. The accounting assumes 512 ranks on hosts of 8. Prints the
tables and writes benchmarks/many_ranks.json. --smoke: 4 ranks.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import REPOSITORY, write_results
from benchmarks.startup import NUM_CLASSES, make_data
from hvd_yolo.config import load
from hvd_yolo.state import new_state
from hvd_yolo.watchdog.tree import relays_of

BIN = Path(sys.executable).parent
TARGET = 512
RANKS_PER_HOST = 8
CPU = torch.device("cpu")
NUM_UPDATES = 3
MOST_SECONDS = 1800


def command_of(launcher: str, num_ranks: int) -> list[str]:
    """What starts so many ranks here."""
    if launcher == "gloo":
        seconds = str(max(30, 4 * num_ranks))
        hosts = ["-np", str(num_ranks), "-H", f"localhost:{num_ranks}"]
        return [str(BIN / "horovodrun"), "--gloo", "--gloo-timeout-seconds", seconds, *hosts]
    options = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np"]
    return ["mpirun", *options, str(num_ranks)]


def run(launcher: str, num_ranks: int, data: Path, num_images: int, folder: Path) -> dict[str, Any]:
    """The records of one job, which must end well."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    program = [sys.executable, "-m", "benchmarks.many_ranks_rank", str(folder)]
    options = {
        "data": data, "model": "benchmarks.many_ranks_rank:build", "imgsz": 64, "batch_size": 1,
        "max_updates": NUM_UPDATES, "output": folder / "run", "report.plots": "false",
        "augment.mosaic": 0, "workers": 0, "comm.stall_timeout": 600,
    }  # fmt: skip
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY), "MANY_RANKS_STARTED": str(time.time()),
    }  # fmt: skip
    began = time.perf_counter()
    done = subprocess.run(
        [*command_of(launcher, num_ranks), *program, *words], cwd=REPOSITORY, env=environment,
        capture_output=True, text=True, timeout=MOST_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{launcher}, {num_ranks} ranks: code {done.returncode}\n{done.stderr[-3000:]}")
    ranks = [json.loads((folder / f"rank{r}.json").read_text()) for r in range(num_ranks)]
    sockets = ranks[0]["sockets"]
    return {
        "launcher": launcher, "ranks": num_ranks, "images": num_images,
        "seconds": time.perf_counter() - began,
        "phases": [_phase(name, ranks) for name in ranks[0]["rows"]],
        # One of the new sockets is that at which others may call.
        "watchdog_lines": sockets["training"] - sockets["connected"] - 1,
        "label_files": sum(rank["label_files"] for rank in ranks),
        "sockets": {
            when: [ranks[0]["sockets"][when], max(r["sockets"][when] for r in ranks[1:])]
            for when in ("connected", "training")
        },
        "gradient_bytes": ranks[0]["gradient_bytes"],
    }  # fmt: skip


def _phase(name: str, ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of all ranks: the seconds of the median and of the slowest, bytes of rank 0 and of
    the other that receives most."""
    rows = [rank["rows"][name] for rank in ranks if name in rank["rows"]]
    seconds = [row["seconds"] for row in rows]
    return {
        "phase": name, "median": statistics.median(seconds), "most": max(seconds),
        "calls": rows[0]["calls"], "bytes": rows[0]["bytes"],
        "bytes_elsewhere": max((row["bytes"] for row in rows[1:]), default=0),
    }  # fmt: skip


def is_evaluation(phase: dict[str, Any]) -> bool:
    """Whether it is one of the evaluation."""
    return phase["phase"].startswith("evaluate")


def is_gather(phase: dict[str, Any]) -> bool:
    """Whether each rank adds to what all receive; an evaluation gathers as many rows, however many
    ranks there are."""
    return phase["phase"].endswith("(gather)") and not is_evaluation(phase)


def scaled_bytes(phase: dict[str, Any], num_ranks: int) -> float:
    """What rank 0 receives in this phase where there are TARGET ranks: of each in a gather, and of
    one in all others."""
    return phase["bytes"] * (TARGET / num_ranks if is_gather(phase) else 1)


def scaled_bytes_elsewhere(phase: dict[str, Any], num_ranks: int) -> float:
    """As scaled_bytes, of the other rank that receives most: rows of the classes that it scores,
    which are dealt evenly."""
    if phase["phase"].endswith("(exchange)"):
        now, then = -(-NUM_CLASSES // num_ranks), -(-NUM_CLASSES // TARGET)
        return phase["bytes_elsewhere"] * then / now
    return phase["bytes_elsewhere"] * (TARGET / num_ranks if is_gather(phase) else 1)


def num_lines(num_ranks: int) -> tuple[int, int]:
    """Connections of the watchdog at rank 0 and at the relay of another host, as
    hvd_yolo.watchdog.tree has them."""
    relays = relays_of([str(rank // RANKS_PER_HOST) for rank in range(num_ranks)])
    return relays[1:].count(0), relays.count(RANKS_PER_HOST) + 1


def accounting(job: dict[str, Any]) -> list[tuple[str, float | None, float, str]]:
    """What was counted in a job on one host, what it is with TARGET ranks on hosts of
    RANKS_PER_HOST, and why."""
    phases, num_ranks, opens = job["phases"], job["ranks"], job["label_files"]
    num_hosts = -(-TARGET // RANKS_PER_HOST)
    at_main, at_relay = num_lines(TARGET)
    evaluation = [phase for phase in phases if is_evaluation(phase)]
    state = sum(p["bytes"] for p in phases if p["phase"].startswith("state.share_state"))
    gathered = [phase for phase in phases if is_gather(phase)]
    return [
        ("label files opened on a host", opens, opens, "one process a host reads"),
        ("label files opened on all hosts", opens, opens * num_hosts, f"x {num_hosts} hosts"),
        (
            "watchdog connections of rank 0", job["watchdog_lines"], at_main,
            f"{RANKS_PER_HOST - 1} ranks of its host, {num_hosts - 1} relays",
        ),
        (
            "watchdog connections of a relay", None, at_relay,
            f"{RANKS_PER_HOST - 1} ranks of its host, rank 0",
        ),
        (
            "bytes of an evaluation, rank 0", sum(p["bytes"] for p in evaluation),
            sum(scaled_bytes(p, num_ranks) for p in evaluation), "all rows of the data set",
        ),
        (
            "bytes of an evaluation, another rank", sum(p["bytes_elsewhere"] for p in evaluation),
            sum(scaled_bytes_elsewhere(p, num_ranks) for p in evaluation),
            f"rows of {-(-NUM_CLASSES // TARGET)} class of {NUM_CLASSES}, ids and counts of all",
        ),
        ("bytes of share_state", state, state, "one state, whatever the number of ranks"),
        (
            "bytes of all gathers but evaluation's", sum(p["bytes"] for p in gathered),
            sum(scaled_bytes(p, num_ranks) for p in gathered), f"x {TARGET} / {num_ranks}",
        ),
    ]  # fmt: skip


def state_bytes(model: str) -> int:
    """What share_state sends for a model before its first update."""
    state = new_state(load(["--model", model, "--data", "shapes:1"]), NUM_CLASSES, CPU)
    buffer = io.BytesIO()
    torch.save(state.state_dict(), buffer)
    return buffer.getbuffer().nbytes


def show(job: dict[str, Any]) -> None:
    """The table of one job."""
    num_ranks = job["ranks"]
    print(f"\n{job['launcher']}, {num_ranks} ranks: ended well after {job['seconds']:.0f} s")
    print(f"| phase | calls | s, median | s, most | received by rank 0 | at {TARGET} ranks |")
    print("|---|---|---|---|---|---|")
    for phase in job["phases"]:
        print(
            f"| {phase['phase']} | {phase['calls']} | {phase['median']:.2f} | {phase['most']:.2f} "
            f"| {phase['bytes']:,} | {scaled_bytes(phase, num_ranks):,.0f} |"
        )
    first, others = job["sockets"]["training"]
    joined, _ = job["sockets"]["connected"]
    print(f"sockets of rank 0: {joined} when connected, {first} in training; of others {others}")
    print(f"gradients sent by a rank: {job['gradient_bytes'] / NUM_UPDATES:,.0f} bytes an update")
    print(
        f"\n| {job['images']:,} images in each of two splits | {num_ranks} ranks, one host ", end=""
    )
    print(f"| {TARGET} ranks, {RANKS_PER_HOST} a host | |\n|---|---|---|---|")
    for name, counted, scaled, why in accounting(job):
        here = "-" if counted is None else f"{counted:,}"
        print(f"| {name} | {here} | {scaled:,.0f} | {why} |")


def main() -> None:
    """Runs what was asked for, and prints and keeps the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", default="32,48")
    parser.add_argument("--launcher", choices=("gloo", "mpi", "both"), default="both")
    parser.add_argument("--images", type=int, default=960)
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    if asked.smoke:
        asked.ranks, asked.images = "4", 32
    launchers = ("gloo", "mpi") if asked.launcher == "both" else (asked.launcher,)
    if shutil.which("mpirun") is None:
        launchers = tuple(name for name in launchers if name == "gloo")
    jobs = []
    with tempfile.TemporaryDirectory() as temporary:
        data = make_data(Path(temporary, "data"), asked.images)["yolo"]
        with data.open("a") as names:
            names.write("val: images/train\n")
        for num_ranks in map(int, asked.ranks.split(",")):
            for launcher in launchers:
                folder = Path(temporary, "job")
                jobs.append(run(launcher, num_ranks, data, asked.images, folder))
                show(jobs[-1])
    pairs = TARGET * (TARGET - 1) // 2
    print(f"\nGloo connects all pairs of ranks: {pairs:,} at {TARGET} ranks, three meshes at most")
    large = state_bytes("yolov8n")
    print(f"share_state of yolov8n before its first update: {large:,} bytes to each rank")
    content = {
        "cores": os.cpu_count(), "jobs": jobs, "share_state_bytes_of_yolov8n": large,
        "accounting": [accounting(job) for job in jobs],
    }  # fmt: skip
    write_results(__file__, content, asked.smoke)


if __name__ == "__main__":
    main()
