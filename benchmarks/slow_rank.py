"""A clean run in which one rank is twice as slow as the other: the watchdog must say nothing.

    python benchmarks/slow_rank.py [--minutes 20] [--stall_timeout 10] [--data shapes:400]

Trains a YOLOv8n on two ranks over MPI, with an evaluation and a checkpoint each epoch; the process
of rank 1 is stopped for half of each second. Prints how many updates and evaluations were made and
what metrics.jsonl tells of alarms; exit code 1 when there was any. --smoke: a few seconds.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import write_results
from tests.cluster.test_resume import lines, start
from tests.cluster.test_stopping import STOPPED, ranks_of

_HALF = 0.5


def main() -> None:
    """The run, and what was told of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--stall_timeout", type=float, default=10)
    parser.add_argument("--data", default="shapes:400")
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    end = ["--max_hours", f"{asked.minutes / 60:g}"]
    if asked.smoke:
        asked.data, asked.imgsz, asked.stall_timeout = "shapes:32", 64, 60
        end = ["--max_updates", "6", "--report.every", "1"]
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "run"
        job = start(
            folder, 2, "--data", asked.data, "--imgsz", str(asked.imgsz), "--epochs", "1000000",
            "--global_batch", "16", "--comm.stall_timeout", f"{asked.stall_timeout:g}", *end,
        )  # fmt: skip
        while job.poll() is None:
            try:
                slow = ranks_of(job)[1:2]
                for number in (signal.SIGSTOP, signal.SIGCONT):
                    for rank in slow:
                        rank.send_signal(number)
                    time.sleep(_HALF)
            except psutil.NoSuchProcess:
                continue
        found = lines(folder)
    updates = max(line["step"] for line in found if line["kind"] == "train")
    evaluations = sum(line["kind"] == "eval" for line in found)
    alarms = [line for line in found if line["kind"] == "event" and line["event"] != "stopped"]
    print(f"{asked.minutes:g} minutes, exit code {job.returncode}: {updates} updates,")
    print(f"{evaluations} evaluations, {len(alarms)} alarms {alarms}")
    counts = {"updates": updates, "evaluations": evaluations, "alarms": alarms}
    write_results(__file__, {**vars(asked), **counts}, asked.smoke)
    expected = 0 if asked.smoke else STOPPED
    sys.exit(0 if job.returncode == expected and not alarms else 1)


if __name__ == "__main__":
    main()
