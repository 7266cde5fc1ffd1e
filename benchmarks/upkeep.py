"""What it costs that nothing is lost: the watchdog, commits and checkpoints, beside a run without.

    python benchmarks/upkeep.py [--pairs 4] [--updates 200] [--data shapes:4000] [--imgsz 320]

Pairs of the same training, a YOLOv8n on two elastic ranks of this machine, in turn: one without
watchdog and commit, and with a checkpoint at the end of an epoch alone, as each run has; one with
the watchdog, a commit every 50 updates (the default) and a checkpoint every 50. Prints for each
pair the ratio of updates a second, from the tenth update to the last, and of CPU seconds; their
medians; and writes benchmarks/upkeep.json.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.cluster.test_resume import lines
from tests.conftest import BIN, REPOSITORY, job_environment

WITHOUT = ("--comm.stall_timeout", "0", "--comm.commit_every", "1000000000")
WITH = ("--comm.commit_every", "50", "--checkpoint.every_updates", "50")


def run(folder: Path, options: tuple[str, ...], asked: argparse.Namespace) -> tuple[float, float]:
    """Updates a second, and CPU seconds in all."""
    hosts = folder.parent / "hosts"
    hosts.write_text("localhost:2\n")
    line = [
        str(BIN / "horovodrun"), "-np", "2", "--min-np", "2", "--max-np", "2",
        "--network-interface", "lo", "--host-discovery-script",
        str(REPOSITORY / "hostfiles" / "discover_hosts.sh"),
        sys.executable, "-m", "hvd_yolo.train", "--output", str(folder), "--data", asked.data,
        "--imgsz", str(asked.imgsz), "--global_batch", "16", "--eval.every", "0",
        "--epochs", "1000", "--max_updates", str(asked.updates), "--report.every", "10", *options,
    ]  # fmt: skip
    environment = job_environment(HVD_YOLO_HOSTS=str(hosts))
    environment.pop("HOROVOD_CYCLE_TIME")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(line, check=True, env=environment, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = [line["seconds"] for line in lines(folder) if line["kind"] == "train"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (asked.updates - 10) / (seconds[-1] - seconds[0]), cpu


def main() -> None:
    """All pairs, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--data", default="shapes:4000")
    parser.add_argument("--imgsz", type=int, default=320)
    asked = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory() as root:
        for number in range(asked.pairs):
            arms = {"without": WITHOUT, "with": WITH}
            # The first of a pair may find the machine otherwise than the second.
            order = sorted(arms, reverse=number % 2 == 0)
            found = {name: run(Path(root) / f"{number}{name}", arms[name], asked) for name in order}
            rate = found["with"][0] / found["without"][0]
            cpu = found["with"][1] / found["without"][1]
            pairs.append({**found, "rate": rate, "cpu": cpu})
            print(f"pair {number}: updates/s x {rate:.3f}, CPU seconds x {cpu:.3f}", flush=True)
    rate = statistics.median(pair["rate"] for pair in pairs)
    cpu = statistics.median(pair["cpu"] for pair in pairs)
    print(f"median of {len(pairs)} pairs on {os.cpu_count()} cores: updates/s x {rate:.3f},")
    print(f"CPU seconds x {cpu:.3f}")
    file = Path(__file__).with_suffix(".json")
    file.write_text(json.dumps({**vars(asked), "pairs": pairs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
