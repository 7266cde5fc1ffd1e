"""What loggers cost a run: `python benchmarks/loggers.py [--updates 300] [--output FILE.json]`.

The same lines, one an update, are told without and with every logger, in turn, while the main
thread computes as in training. Prints seconds of the main thread a line, and of the CPU of all
threads (what loggers take from a machine without an idle core).
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from hvd_yolo.config import Config, ReportConfig, flatten
from hvd_yolo.report import Report
from hvd_yolo.tally import Window

RANK = {
    "host": "node1", "updates": 1, "data_wait": 0.5, "comm_wait": 0.2, "memory": 1 << 30,
    "gpu_memory": 0, "phase": "an update", "is_waiting": False, "age": 0.0, "silence": 0.0,
}  # fmt: skip


def measure(folder: Path, options: ReportConfig, updates: int) -> dict[str, float]:
    """Seconds of telling a line in the main thread, and of the CPU, with these loggers."""
    config = flatten(Config(report=options))
    image = torch.randn(256, 256)
    with Report(folder, True, True, 0, updates, "", options, config) as report:
        report.watch(lambda: [{"rank": rank, **RANK} for rank in range(16)])
        # The loggers are there: this measures no start.
        time.sleep(20)
        in_main, cpu = 0.0, time.process_time() - time.thread_time()
        for step in range(1, updates + 1):
            ended = time.perf_counter() + 0.05
            while time.perf_counter() < ended:
                image @ image
            window = Window({"box": 1.0, "cls": 2.0, "dfl": 0.5}, 16, 4e6, 0.01, 0.01)
            began = time.perf_counter()
            report.train(step / 100, step, 0.01, 1.0, window)
            in_main += time.perf_counter() - began
        # What is left to write counts too.
        time.sleep(3)
        cpu = time.process_time() - time.thread_time() - cpu
    return {"main thread": in_main / updates, "CPU of other threads": cpu / updates}


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--output", default="")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["WANDB_MODE"] = "offline"
    found = {"without": [], "with all": []}
    for _ in range(2):
        for name, rows in found.items():
            with tempfile.TemporaryDirectory() as made:
                folder = Path(made)
                options = ReportConfig(csv=False)
                if name == "with all":
                    options = ReportConfig(
                        sqlite=f"{folder}/runs.db", tensorboard=True, wandb="detectors",
                        mlflow=f"sqlite:///{folder}/mlflow.db", openmetrics=f"{folder}/run.prom",
                    )  # fmt: skip
                rows.append(measure(folder, options, asked.updates))
    table = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    for name, row in table.items():
        print(name, ", ".join(f"{key} {1e3 * value:.3f} ms a line" for key, value in row.items()))
    if asked.output:
        Path(asked.output).write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
