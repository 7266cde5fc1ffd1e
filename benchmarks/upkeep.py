"""What it costs that nothing is lost: the watchdog, commits and checkpoints, beside a run without.

    python benchmarks/upkeep.py [--pairs 4] [--updates 200] [--data shapes:4000] [--imgsz 320]

Pairs of the same training, a YOLOv8n on two elastic ranks of this machine, in turn: one without
watchdog and commit, and with a checkpoint at the end of an epoch alone, as each run has; one with
the watchdog, a commit every 50 updates (the default) and a checkpoint every 50. Prints for each
pair the ratios of updates a second, from the tenth update to the last, of seconds and of CPU
seconds; their medians; and writes benchmarks/upkeep.json. --smoke: one pair of a few updates.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.pairs import Cost, cost_of, in_turn
from benchmarks.results import write_results
from tests.conftest import BIN, REPOSITORY, job_environment

WITHOUT = ("--comm.stall_timeout", "0", "--comm.commit_every", "1000000000")
WITH = ("--comm.commit_every", "50", "--checkpoint.every_updates", "50")


def run(asked: argparse.Namespace, folder: Path, options: Sequence[str]) -> Cost:
    """One training."""
    hosts = folder.parent / "hosts"
    hosts.write_text("localhost:2\n")
    line = [
        str(BIN / "horovodrun"), "-np", "2", "--min-np", "2", "--max-np", "2",
        "--network-interface", "lo", "--host-discovery-script",
        str(REPOSITORY / "hostfiles" / "discover_hosts.sh"),
        sys.executable, "-m", "hvd_yolo.train", "--output", str(folder), "--data", asked.data,
        "--imgsz", str(asked.imgsz), "--global_batch", "16", "--eval.every", "0",
        "--epochs", "1000", "--max_updates", str(asked.updates), "--report.every",
        str(asked.every), *options,
    ]  # fmt: skip
    environment = job_environment(HVD_YOLO_HOSTS=str(hosts))
    environment.pop("HOROVOD_CYCLE_TIME")
    return cost_of(line, folder, environment)


def main() -> None:
    """All pairs, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--data", default="shapes:4000")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--every", type=int, default=10, help="updates between two lines")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    if asked.smoke:
        asked.pairs, asked.updates, asked.every = 1, 4, 2
        asked.data, asked.imgsz = "shapes:32", 64
    with tempfile.TemporaryDirectory() as root:
        pairs = in_turn(partial(run, asked), WITHOUT, WITH, Path(root), asked.pairs)
    write_results(__file__, {**vars(asked), "pairs": pairs}, asked.smoke)


if __name__ == "__main__":
    main()
