"""What loggers and plots cost a run.

    python benchmarks/loggers.py [--lines 300] [--pairs 3] [--epochs 4] [--data shapes:800]

First the same lines, one an update, told without and with every logger, in turn, while the main
thread computes as in training: seconds of the main thread a line, and of the CPU of all threads
(what loggers take from a machine without an idle core). Then pairs of whole trainings, a YOLOv8n at
320 pixels on two ranks over MPI, in turn: one without loggers and plots, one with all of them.
Prints for each pair the ratios of updates a second, from the first line to the last, of seconds and
of CPU seconds, start and plots included; their medians; and writes benchmarks/loggers.json.
--smoke: two lines, and one pair of short trainings.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.pairs import Cost, cost_of, in_turn
from benchmarks.results import write_results
from hvd_yolo.config import Config, ReportConfig, flatten
from hvd_yolo.report import Report
from hvd_yolo.tally import Window
from tests.conftest import command_for, job_environment

RANK = {
    "host": "node1", "updates": 1, "data_wait": 0.5, "comm_wait": 0.2, "memory": 1 << 30,
    "gpu_memory": 0, "phase": "an update", "is_waiting": False, "age": 0.0, "silence": 0.0,
}  # fmt: skip


def measure(
    folder: Path, options: ReportConfig, num_lines: int, settling: float
) -> dict[str, float]:
    """Seconds of telling a line in the main thread, and of the CPU, with these loggers.

    settling: seconds to wait before the first line, until the loggers have started.
    """
    config = flatten(Config(report=options))
    image = torch.randn(256, 256)
    with (
        redirect_stdout(io.StringIO()),
        Report(folder, True, True, 0, num_lines, "", options, config) as report,
    ):
        report.watch(lambda: [{"rank": rank, **RANK} for rank in range(16)])
        time.sleep(settling)
        in_main, cpu = 0.0, time.process_time() - time.thread_time()
        for step in range(1, num_lines + 1):
            ended = time.perf_counter() + 0.05
            while time.perf_counter() < ended:
                image @ image
            window = Window({"box": 1.0, "cls": 2.0, "dfl": 0.5}, 16, 4e6, 0.01, 0.01, 1)
            began = time.perf_counter()
            report.train(step / 100, step, 0.01, 1.0, window)
            in_main += time.perf_counter() - began
        # What is left to write counts too.
        time.sleep(settling / 6)
        cpu = time.process_time() - time.thread_time() - cpu
    return {"main thread": in_main / num_lines, "CPU of other threads": cpu / num_lines}


def told(num_lines: int, num_runs: int, settling: float) -> dict[str, dict[str, float]]:
    """What `measure` finds without and with all loggers, the median of so many runs each."""
    found = {"without": [], "with all": []}
    for _ in range(num_runs):
        for name, rows in found.items():
            with tempfile.TemporaryDirectory() as made:
                folder = Path(made)
                options = ReportConfig(csv=False, plots=False)
                if name == "with all":
                    options = ReportConfig(
                        sqlite=f"{folder}/runs.db", tensorboard=True, wandb="detectors",
                        mlflow=f"sqlite:///{folder}/mlflow.db", openmetrics=f"{folder}/run.prom",
                        plots=False,
                    )  # fmt: skip
                rows.append(measure(folder, options, num_lines, settling))
    table = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    for name, row in table.items():
        print(name, ", ".join(f"{key} {1e3 * value:.3f} ms a line" for key, value in row.items()))
    return table


def train(asked: argparse.Namespace, folder: Path, options: Sequence[str]) -> Cost:
    """A whole training."""
    line = [
        "-m", "hvd_yolo.train", "--output", str(folder), "--data", asked.data, "--imgsz",
        str(asked.imgsz), "--global_batch", "16", "--epochs", str(asked.epochs),
        "--report.every", str(asked.every), *options,
    ]  # fmt: skip
    environment = job_environment(WANDB_MODE="offline")
    environment.pop("HOROVOD_CYCLE_TIME")
    return cost_of(command_for(2, line), folder, environment)


def trained(asked: argparse.Namespace) -> list[dict[str, dict[str, float]]]:
    """Pairs of whole trainings."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        without = ("--report.csv", "false", "--report.plots", "false")
        with_all = (
            "--report.plots", "true", "--report.tensorboard", "true",
            "--report.wandb", "detectors", "--report.sqlite", f"{root}/runs.db",
            "--report.mlflow", f"sqlite:///{root}/mlflow.db",
            "--report.openmetrics", f"{root}/run.prom",
        )  # fmt: skip
        return in_turn(partial(train, asked), without, with_all, root, asked.pairs)


def main() -> None:
    """Prints and writes both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--data", default="shapes:800")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--every", type=int, default=10, help="updates between two lines")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    runs, settling = 2, 20.0
    if asked.smoke:
        asked.every = 1
        asked.lines, asked.pairs, asked.epochs, runs, settling = 2, 1, 2, 1, 0.5
        asked.data, asked.imgsz = "shapes:32", 64
    torch.set_num_threads(1)
    os.environ["WANDB_MODE"] = "offline"
    content = {**vars(asked), "a line": told(asked.lines, runs, settling)}
    write_results(__file__, {**content, "runs": trained(asked)}, asked.smoke)


if __name__ == "__main__":
    main()
