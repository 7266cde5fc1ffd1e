"""The parts of benchmarks/gpu_check.py: each starts processes on the device and says what they
found, within a budget of seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import REPOSITORY
from hvd_yolo import checkpoint
from tests.cluster.test_resume import compare, lines, without_times

BIN = Path(sys.executable).parent
PRETEND_RUNNER = ["-m", "tests.pretend_cuda.run"]
# The event of the batch's copy, and the one that keeps the host from running more than a step
# ahead.
MOST_SYNCS = 2
# The largest difference of a weight after a few updates in float64, sums in another order.
MOST_DIFFERENCE = 1e-9
COMPILED = "bf16, compiled"
PRECISIONS = {
    "float32": ["--train.amp", "none"],
    "bf16": ["--train.amp", "bf16"],
    COMPILED: ["--train.amp", "bf16", "--train.compile", "true"],
}


@dataclass
class Context:
    """What the parts are told. sizes: of the measured runs, see gpu_check_rank.rates."""

    is_pretend: bool
    folder: Path
    sizes: dict[str, Any]
    peer: str = ""

    def python(self, *arguments: str) -> list[str]:
        """A command that runs Python with these arguments on the device."""
        return [sys.executable, *(PRETEND_RUNNER if self.is_pretend else []), *arguments]


@dataclass
class Outcome:
    """status: good, bad (the check failed), failed (it could not be made) or skipped; detail: one
    line; rows: what was measured."""

    status: str
    detail: str
    rows: list[dict[str, Any]] = field(default_factory=list)


class PartError(Exception):
    """A process of a part that failed, or ran out of time; the message has the end of its
    output."""


def run(command: Sequence[str], log: Path, seconds: float, **environment: str) -> None:
    """Runs a command to its end, all its output in `log`; raises PartError where it fails, or takes
    longer, and then ends it with its children."""
    job = start(command, log, **environment)
    try:
        code = job.wait(max(seconds, 1))
    except subprocess.TimeoutExpired:
        kill(job)
        raise PartError(f"out of time after {seconds:.0f} s: {tail(log)}") from None
    if code:
        raise PartError(f"exit code {code}: {tail(log)}")


def start(command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Starts a command in the repository, in a process group of its own."""
    variables: Mapping[str, str] = {
        **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY),
        **environment,
    }  # fmt: skip
    with open(log, "ab") as output:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=variables, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def kill(job: subprocess.Popen[bytes]) -> None:
    """kill -9 to the process group."""
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()


def tail(log: Path) -> str:
    """The last lines of a log, as one."""
    return " / ".join(log.read_text(errors="replace").splitlines()[-4:])[-600:]


def build_horovod(context: Context, seconds: float) -> Outcome:
    """Horovod with NCCL for the installed torch; it is built once for a venv."""
    if context.is_pretend:
        return Outcome("skipped", "the pretend device uses the Horovod of the CPU")
    log = context.folder / "build.log"
    try:
        run(["./install_horovod.sh", sys.prefix, "gpu"], log, seconds)
    except PartError as error:
        return Outcome("failed", str(error))
    return Outcome("good", log.read_text().splitlines()[-1])


def run_tests(context: Context, seconds: float) -> Outcome:
    """The tests marked gpu."""
    log = context.folder / "tests.log"
    options = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    if context.sizes["tests"]:
        options += ["-k", context.sizes["tests"]]
    try:
        run(context.python(*options), log, seconds)
    except PartError as error:
        return Outcome("bad", str(error))
    return Outcome("good", log.read_text().splitlines()[-1].strip("= "))


def count_syncs(context: Context, seconds: float) -> Outcome:
    """Host-device synchronizations of an update."""
    rows = _program(context, "syncs", seconds)
    counts = ", ".join(f"{row['model']} {row['syncs']:.3g}" for row in rows if "syncs" in row)
    missing = "".join(f"; {row['why']}" for row in rows if "why" in row)
    is_good = not missing and all(row["syncs"] <= MOST_SYNCS for row in rows)
    detail = f"host-device synchronizations of an update: {counts}{missing}"
    return Outcome("failed" if missing else "good" if is_good else "bad", detail, rows)


def measure_rates(context: Context, seconds: float) -> Outcome:
    """Images/s by model and precision, and of ultralytics where it was named."""
    ends = time.monotonic() + seconds
    rows = _program(context, "rates", seconds * (0.6 if context.peer else 0.9))
    if context.peer:
        rows += _peer_rates(context, ends)
    measured = [row for row in rows if "images_per_s" in row]
    missing = [f"{row['model']} {row['variant']}: {row['why']}" for row in rows if "why" in row]
    detail = f"{len(measured)} of {len(rows)} measured" + "".join(f"; {why}" for why in missing)
    if context.is_pretend:
        detail += "; not compiled, for the pretend device has no Triton"
    return Outcome("bad" if missing else "good", detail, rows)


def _program(context: Context, name: str, seconds: float) -> list[dict[str, Any]]:
    """The rows that a program of gpu_check_rank leaves, though it was ended."""
    file = context.folder / f"{name}.json"
    # torch compiles nothing for the pretend device.
    variants = {
        variant: options for variant, options in PRECISIONS.items()
        if not (context.is_pretend and variant == COMPILED)
    }  # fmt: skip
    settings = {
        **context.sizes, "is_pretend": context.is_pretend, "deadline": 0.8 * seconds,
        "variants": list(variants.items()),
    }  # fmt: skip
    command = ["-m", "benchmarks.gpu_check_rank", name, str(file), json.dumps(settings)]
    try:
        run(context.python(*command), context.folder / f"{name}.log", seconds)
    except PartError as error:
        rows = json.loads(file.read_text()) if file.is_file() else []
        return [*rows, {"model": "-", "variant": name, "why": str(error)}]
    return json.loads(file.read_text())


def _peer_rates(context: Context, ends: float) -> list[dict[str, Any]]:
    from benchmarks import gpu

    sizes, rows = context.sizes, []
    with_options = {"device": "cuda", "amp": "bf16", "cache": "ram", "gpus": 1, **sizes}
    for model in sizes["models"]:
        row = {"model": model, "variant": "ultralytics, bf16"}
        rows.append(row)
        folder = context.folder / f"peer_{model}"
        folder.mkdir()
        images = sizes["batch"] * (sizes["warmup"] + sizes["steps"] + 1)
        data = gpu.draw_data(str(folder), images)
        settings = {**with_options, "model": model, "data": data, "folder": str(folder)}
        program = folder / "peer.py"
        program.write_text(gpu.PEER)
        command = [context.peer, str(program), json.dumps(settings)]
        try:
            run(command, folder / "log", ends - time.monotonic())
            found = json.loads((folder / "found.json").read_text())
            row |= {"images_per_s": found["rate"], "memory": found["memory"]}
        except (PartError, FileNotFoundError) as error:
            row["why"] = str(error)
    return rows


def check_resume(context: Context, seconds: float) -> Outcome:
    """kill -9 after some updates, the same command again: the state and the metrics of the run
    that was not disturbed, bit for bit."""
    ends = time.monotonic() + seconds
    options = [
        "-m", "hvd_yolo.train", "--device", "cuda", "--model", "yolov8n", "--data", "shapes:32",
        "--imgsz", str(context.sizes["imgsz"]), "--batch_size", "4", "--epochs", "2",
        "--train.deterministic", "true", "--checkpoint.every_updates", "2", "--report.every", "1",
        "--report.plots", "false", "--eval.every", "1",
    ]  # fmt: skip
    whole, broken = context.folder / "whole", context.folder / "broken"
    log = context.folder / "resume.log"
    try:
        run(context.python(*options, "--output", str(whole)), log, ends - time.monotonic())
        command = context.python(*options, "--output", str(broken))
        job = start(command, log)
        while not any(line.get("step", 0) >= 5 for line in lines(broken)):
            if job.poll() is not None or time.monotonic() > ends:
                kill(job) if job.poll() is None else None
                raise PartError(f"the run to be killed did not come to update 5: {tail(log)}")
            time.sleep(0.01)
        kill(job)
        run(command, log, ends - time.monotonic())
    except PartError as error:
        return Outcome("failed", str(error))
    states = [
        checkpoint.load(run_ / "checkpoints" / "last.pt")["training"] for run_ in (broken, whole)
    ]
    try:
        compare(*states)
    except AssertionError as error:
        return Outcome("bad", f"the resumed run differs in {str(error).splitlines()[0]}")
    if without_times(broken) != without_times(whole):
        return Outcome("bad", "the metrics of the resumed run differ")
    return Outcome("good", "every tensor, counter and metric is equal after kill -9 and resume")


def check_shared(context: Context, seconds: float) -> Outcome:
    """Two processes on the first GPU through Gloo, beside one process with all images."""
    ends = time.monotonic() + seconds
    settings = {"model": "yolov8n", "images": 16, "steps": 3, "imgsz": context.sizes["imgsz"]}
    weights = []
    for size in (1, 2):
        file, log = context.folder / f"shared{size}.pt", context.folder / f"shared{size}.log"
        program = ["-m", "benchmarks.gpu_check_rank", "shared", str(file), json.dumps(settings)]
        launcher = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(size)]
        command = [*launcher, "--no-python", *context.python(*program)]
        try:
            run(command, log, ends - time.monotonic(), CUDA_VISIBLE_DEVICES="0")
        except PartError as error:
            return Outcome("failed", f"{size} processes: {error}")
        weights.append(torch.load(file, weights_only=True))
    one, two = weights
    most = max(float((one[name] - two[name]).abs().max()) for name in one)
    detail = f"largest difference of a weight after 3 updates in float64: {most:.1e}"
    return Outcome("good" if most <= MOST_DIFFERENCE else "bad", detail)
