"""What many ranks cost at start and in an evaluation: real ranks on this machine, each phase timed
and its bytes counted, and the accounting for 512 ranks.

    python benchmarks/many_ranks.py [--ranks 32,48] [--launcher both] [--images 960]

Every rank is a training of a tiny detector (benchmarks/many_ranks_rank.py) on drawn images with
YOLO text labels, three updates and one evaluation, started by horovodrun over Gloo and by mpirun.
Seconds are those of many ranks on few cores: read them as a sum of work, not as a time to expect.
Bytes and counts do not depend on that. Prints the tables and writes benchmarks/many_ranks.json.
--smoke: 4 ranks.
"""

import argparse
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

from startup import make_data

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TARGET = 512
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
    return {
        "launcher": launcher, "ranks": num_ranks, "images": num_images,
        "seconds": time.perf_counter() - began,
        "phases": [_phase(name, ranks) for name in ranks[0]["rows"]],
        "label_files": sum(rank["label_files"] for rank in ranks),
        "sockets": {
            when: [ranks[0]["sockets"][when], max(r["sockets"][when] for r in ranks[1:])]
            for when in ("connected", "training")
        },
        "gradient_bytes": ranks[0]["gradient_bytes"],
    }  # fmt: skip


def _phase(name: str, ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of all ranks: the seconds of the median and of the slowest, bytes of rank 0."""
    rows = [rank["rows"][name] for rank in ranks if name in rank["rows"]]
    seconds = [row["seconds"] for row in rows]
    return {
        "phase": name, "median": statistics.median(seconds), "most": max(seconds),
        "calls": rows[0]["calls"], "bytes": rows[0]["bytes"],
    }  # fmt: skip


def scaled_bytes(phase: dict[str, Any], num_ranks: int) -> float:
    """What a rank receives in this phase where there are TARGET ranks: of each in a gather, and of
    one in all others. An evaluation gathers as many rows from all ranks, however many there are."""
    is_gather = phase["phase"].endswith("(gather)") and not phase["phase"].startswith("evaluate")
    return phase["bytes"] * (TARGET / num_ranks if is_gather else 1)


def show(job: dict[str, Any]) -> None:
    """The table of one job."""
    num_ranks, labels = job["ranks"], job["label_files"]
    print(f"\n{job['launcher']}, {num_ranks} ranks: ended well after {job['seconds']:.0f} s")
    print(f"| phase | calls | s, median | s, most | received by a rank | at {TARGET} ranks |")
    print("|---|---|---|---|---|---|")
    for phase in job["phases"]:
        print(
            f"| {phase['phase']} | {phase['calls']} | {phase['median']:.2f} | {phase['most']:.2f} "
            f"| {phase['bytes']:,} | {scaled_bytes(phase, num_ranks):,.0f} |"
        )
    first, others = job["sockets"]["training"]
    joined, _ = job["sockets"]["connected"]
    print(
        f"label files opened on this node: {labels:,} ({labels / num_ranks:,.1f} a rank; "
        f"{job['images']:,} images, each split reads them)"
    )
    print(f"sockets of rank 0: {joined} when connected, {first} in training; of others {others}")
    print(f"gradients sent by a rank: {job['gradient_bytes'] / NUM_UPDATES:,.0f} bytes an update")


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
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True,
        check=False,
    ).stdout.strip()  # fmt: skip
    name = "many_ranks.smoke.json" if asked.smoke else "many_ranks.json"
    content = {"commit": commit, "cores": os.cpu_count(), "jobs": jobs}
    Path(__file__).with_name(name).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
