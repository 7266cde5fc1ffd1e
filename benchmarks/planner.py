"""Images a second that hvd_yolo.plan predicts from one rank's run and a measured link, beside those
of real runs on 2, 3 and 4 hosts of this machine, at 100 Mbit/s and 1 Gbit/s.

    python benchmarks/planner.py [--launcher gloo|mpi] [--paced]

--paced takes a model that sleeps in place of computing (paced_detector.py), as the host's cores do
when an accelerator computes: then two cores are enough for four ranks, and another job on this
machine disturbs little. Without it a YOLO computes, and the hosts share the cores.

Root and iproute2 are needed, see tests/cluster/netlab.sh. The planner is told that the hosts share
this machine's cores (--cores, --cores_shared_by). The one rank is measured while as many runs as
there are cores go on beside it, so that it has what memory bandwidth a rank among others has; the
link as the doctor does, on two hosts, at each rate and once without a limit, where the
cores are the limit: that tells what a byte costs them. Over MPI the ranks poll while they wait,
which takes cores that the planner believes free where more ranks than cores share them. Takes about
6 minutes on idle cores, prints a table and writes benchmarks/planner.json. --smoke: two hosts, one
rate, a few updates of a model that sleeps.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from subprocess import Popen

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import write_results
from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from hvd_yolo.doctor.allreduce import measure
from tests.cluster import hosts

RATES = ("100mbit", "1gbit")


def measure_link(file: str, seconds: float) -> None:
    """The program of each rank, one a host: rank 0 writes what the doctor would."""
    comm = connect(CommConfig(), "cpu")
    link = measure(comm, comm.size, seconds)
    if comm.is_main:
        content = {"link": asdict(link), "settings": comm.settings}
        Path(file).write_text(json.dumps(content, indent=1) + "\n")


class Bench:
    """Hosts, and what is run on them."""

    def __init__(self, lab: hosts.Hosts, folder: Path, asked: argparse.Namespace) -> None:
        self._lab = lab
        self._folder = folder
        self._asked = asked
        self._environment = {"PYTHONPATH": str(hosts.REPOSITORY)}

    def link(self, name: str, cpu: float | None) -> Path:
        """The file of a link measured on two hosts; cpu: core-seconds a byte, if known."""
        file = self._folder / f"link_{name}.json"
        options = ["--link", str(file), "--link_seconds", str(self._asked.link_seconds)]
        self._ranks(2, [__file__, *options])
        content = json.loads(file.read_text())
        if cpu is not None:
            content["link"]["cpu_seconds_per_byte"] = cpu
            file.write_text(json.dumps(content))
        return file

    def alone(self) -> Path:
        """The folder of a run on one rank, measured beside as many as there are cores."""
        outputs = [self._folder / f"alone{i}" for i in range(os.cpu_count() or 1)]
        started = [
            self._lab.start("node1", [sys.executable, *self._training(output)], **self._environment)
            for output in outputs
        ]
        for process in started:
            self._wait(process)
        return outputs[0]

    def together(self, size: int, name: str) -> float:
        """Images a second of a real run on so many hosts."""
        output = self._folder / f"run_{name}_{size}"
        self._ranks(size, self._training(output))
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        kept = [line for line in lines if line["kind"] == "train"][self._asked.warmup :]
        seconds = sum(line["images"] / line["images_per_s"] for line in kept)
        return sum(line["images"] for line in kept) / seconds

    def plan(self, run: Path, link: Path) -> dict[int, float]:
        """Images a second that the planner says for each size."""
        file = self._folder / "plan.json"
        options = ["--run", run, "--link", link, "--json", file, "--compression", "none",
                   "--ranks", self._asked.sizes]  # fmt: skip
        if self._asked.paced:
            # A core beside the one that sleeps moves the bytes.
            options += ["--cores", 2]
        else:
            options += [
                "--cores",
                os.cpu_count(),
                "--cores_shared_by",
                self._asked.sizes.split(",")[-1],
            ]
        command = [sys.executable, "-m", "hvd_yolo.plan", *map(str, options)]
        print(self._wait(self._lab.start("node1", command, **self._environment)), flush=True)
        found = json.loads(file.read_text())["predictions"]
        return {row["size"]: row["images_per_s"] for row in found}

    def _training(self, output: Path) -> list[str]:
        options = {
            "output": output, "data": "shapes:4096", "model": self._asked.model,
            "imgsz": self._asked.imgsz, "batch_size": self._asked.batch_size,
            "max_updates": self._asked.updates, "device": "cpu", "eval.every": 0,
            "report.every": 1, "augment.mosaic": 0,
        }  # fmt: skip
        return ["-m", "hvd_yolo.train", *(f"--{key}={value}" for key, value in options.items())]

    def _ranks(self, size: int, arguments: list[str]) -> None:
        ranks = {f"node{i + 1}": 1 for i in range(size)}
        if self._asked.launcher == "mpi":
            options = ("-x", "PYTHONPATH", "--mca", "btl_tcp_if_include", "eth0")
            command = hosts.mpirun(ranks, arguments, *options)
        else:
            command = hosts.horovodrun(ranks, arguments)
        self._wait(self._lab.start("node1", command, **self._environment))

    def _wait(self, process: "Popen[str]") -> str:
        out, err = process.communicate(timeout=600)
        if process.returncode:
            raise SystemExit(out[-3000:] + err[-3000:])
        return out


def cpu_seconds(link: Path) -> float:
    """Core-seconds that a byte sent costs, from a link without a limit between two ranks with a
    core each."""
    bandwidth = json.loads(link.read_text())["link"]["bandwidth"]
    if bandwidth is None:
        raise SystemExit("the link without a limit could not be measured: --link_seconds 60")
    return 1 / bandwidth


def main() -> None:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launcher", choices=("gloo", "mpi"), default="gloo")
    parser.add_argument("--paced", action="store_true", help="a model that sleeps")
    parser.add_argument("--model", default="yolov8n")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--updates", type=int, default=16)
    parser.add_argument("--rates", default=",".join(RATES))
    parser.add_argument("--sizes", default="2,3,4", help="hosts, ascending")
    # Memory is still being taken, caches are cold.
    parser.add_argument("--warmup", type=int, default=4, help="train lines left out at the start")
    parser.add_argument("--link", default="", help=argparse.SUPPRESS)
    parser.add_argument("--link_seconds", type=float, default=20.0, help="for each link measured")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    if asked.smoke:
        asked.paced, asked.sizes, asked.rates, asked.warmup = True, "2", "1gbit", 1
        asked.updates, asked.batch_size, asked.link_seconds = 4, 2, 5.0
    sizes = [int(size) for size in asked.sizes.split(",")]
    if asked.link:
        measure_link(asked.link, asked.link_seconds)
        return
    if asked.paced:
        asked.model, asked.imgsz = "benchmarks.paced_detector:build", 32
    if hosts.missing():
        raise SystemExit(hosts.missing())
    results = []
    with tempfile.TemporaryDirectory() as folder, hosts.made(max(sizes), Path(folder)) as lab:
        bench = Bench(lab, Path(folder), asked)
        cpu = cpu_seconds(bench.link("unlimited", None))
        run = bench.alone()
        for rate in asked.rates.split(","):
            lab.rate(rate)
            predicted = bench.plan(run, bench.link(rate, cpu))
            for size in sizes:
                measured = bench.together(size, rate)
                results.append((rate, size, predicted[size], measured))
                print(*results[-1], flush=True)
    print("| link | ranks | predicted images/s | measured | error |\n|---|---|---|---|---|")
    for rate, size, predicted, measured in results:
        error = predicted / measured - 1
        print(f"| {rate} | {size} | {predicted:.1f} | {measured:.1f} | {error:+.1%} |")
    write_results(__file__, {**vars(asked), "results": results}, asked.smoke)


if __name__ == "__main__":
    main()
