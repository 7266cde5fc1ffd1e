"""Runs under the supervisor, of which ranks or launchers are killed at random moments: how many end
as if nothing had happened.

    python benchmarks/chaos.py [--runs 50] [--seed 0] [--launchers mpi,gloo]

Each run trains a YOLOv8n on two ranks for 24 updates, evaluations included, with a checkpoint every
other update. In each, one to three blows fall, each at a random moment of a run's length after the
one before: kill -9 of a rank, of all ranks or of the launcher, SIGTERM to a rank or the launcher.
A run that was stopped on request is started again. It is equal when every tensor and counter of its
last checkpoint is that of the undisturbed run and so are its metrics, and clean when none of its
processes is alive 15 seconds after its end. Prints a table and writes benchmarks/chaos.json.
--smoke: one short run over Gloo.
"""

import argparse
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import write_results
from hvd_yolo import checkpoint
from tests.cluster.test_resume import compare, lines, without_times
from tests.cluster.test_stopping import STOPPED, ranks_of
from tests.cluster.test_supervise import supervised
from tests.conftest import REPOSITORY, job_environment, train

OPTIONS = (
    "--data", "shapes:72", "--imgsz", "64", "--epochs", "3", "--global_batch", "9",
    "--train.sync_bn", "true", "--optim.warmup_epochs", "1", "--report.every", "1",
    "--checkpoint.every_updates", "2",
)  # fmt: skip
BLOWS = ("kill a rank", "kill all ranks", "kill the launcher", "stop a rank", "stop the launcher")


def strike(job: subprocess.Popen, blow: str, rng: random.Random) -> None:
    """One blow, to whatever there is of the job by now."""
    ranks = ranks_of(job)
    launchers = psutil.Process(job.pid).children()
    targets = {
        "kill a rank": (ranks and [rng.choice(ranks)], signal.SIGKILL),
        "kill all ranks": (ranks, signal.SIGKILL),
        "kill the launcher": (launchers, signal.SIGKILL),
        "stop a rank": (ranks and [rng.choice(ranks)], signal.SIGTERM),
        "stop the launcher": (launchers, signal.SIGTERM),
    }
    processes, number = targets[blow]
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def disturbed(
    folder: Path, options: Sequence[str], launcher: str, length: float, rng: random.Random
) -> dict:
    """A run to its end, and what was done to it."""
    blows = [rng.choice(BLOWS) for _ in range(rng.randint(1, 3))]
    todo, family, starts = list(blows), set(), 0
    log = (folder.parent / f"{folder.name}.log").open("ab")
    while True:
        starts += 1
        job = subprocess.Popen(
            supervised(folder, *options, launcher=launcher, flags=("--backoff", "0.2")),
            cwd=REPOSITORY, env=job_environment(), stdout=log, stderr=log,
        )  # fmt: skip
        falls = time.monotonic() + rng.uniform(0, length)
        while job.poll() is None:
            try:
                family |= set(psutil.Process(job.pid).children(recursive=True))
                if todo and time.monotonic() > falls:
                    strike(job, todo.pop(0), rng)
                    falls = time.monotonic() + rng.uniform(0, length)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
        if job.wait() != STOPPED or starts > 20:
            break
    _, alive = psutil.wait_procs(list(family), timeout=15)
    fell = blows[: len(blows) - len(todo)]
    return {"launcher": launcher, "blows": fell, "code": job.returncode, "left": len(alive)}


def is_equal(folder: Path, undisturbed: Path) -> bool:
    """Whether nothing can be told from the run's files."""
    try:
        found, expected = (
            checkpoint.load(run / "checkpoints" / "last.pt")["training"]
            for run in (folder, undisturbed)
        )
        compare(found, expected)
    except AssertionError:
        return False
    return without_times(folder) == without_times(undisturbed)


def main() -> None:
    """All runs, and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--launchers", default="mpi,gloo")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    options = OPTIONS
    if asked.smoke:
        asked.runs, asked.launchers = 1, "gloo"
        options = (*OPTIONS, "--data", "shapes:18", "--epochs", "2", "--max_updates", "4")
    rng = random.Random(asked.seed)
    names = {"mpi": "mpirun", "gloo": "gloo"}
    launchers = [names[name] for name in asked.launchers.split(",")]
    results = []
    with tempfile.TemporaryDirectory() as root:
        undisturbed = Path(root) / "undisturbed"
        started = time.monotonic()
        train(2, undisturbed, *options)
        length = time.monotonic() - started
        for number in range(asked.runs):
            folder = Path(root) / f"run{number}"
            launcher = launchers[number % len(launchers)]
            found = disturbed(folder, options, launcher, length, rng)
            found["equal"] = found["code"] == 0 and is_equal(folder, undisturbed)
            found["updates"] = max((line.get("step", 0) for line in lines(folder)), default=0)
            results.append(found)
            print(number, found, flush=True)
            if not found["equal"]:
                print((Path(root) / f"run{number}.log").read_text()[-3000:], flush=True)
    print("| blow | fell | in runs that ended equal | processes left |\n|---|---|---|---|")
    for blow in BLOWS:
        hit = [one for one in results if blow in one["blows"]]
        fell = sum(one["blows"].count(blow) for one in hit)
        left = sum(one["left"] for one in hit)
        print(f"| {blow} | {fell} | {sum(one['equal'] for one in hit)} of {len(hit)} | {left} |")
    equal = sum(one["equal"] for one in results)
    mean = statistics.mean(len(one["blows"]) for one in results)
    print(f"{equal} of {len(results)} runs equal, {mean:.1f} blows a run")
    write_results(__file__, {**vars(asked), "results": results}, asked.smoke)


if __name__ == "__main__":
    main()
