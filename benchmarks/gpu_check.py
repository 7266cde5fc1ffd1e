"""Checks and measures hvd_yolo on this machine's GPU, in less than 8 minutes; no network is needed.

    make gpu-check [WHEELS=FOLDER] [PEER=PYTHON]     # prepares .venv-gpu and starts this
    python -m benchmarks.gpu_check [--peer PYTHON] [--parts build,syncs,...]
    PRETEND=1 make gpu-check                         # tries it out on the pretend device, tiny

PYTHON is the interpreter of an environment with `ultralytics` in it. The parts:

- build: Horovod with NCCL for the installed torch, unless it is there;
- tests: those marked `gpu`;
- syncs: host-device synchronizations of an update, by torch.profiler;
- resume: `kill -9` and the same command again, bitwise, with train.deterministic;
- shared: two processes on one GPU through Gloo, beside one process, in float64;
- rates: images/s of YOLOv8 n to x in float32, bf16, and compiled, beside `ultralytics`.

Each has a budget of seconds, and one that fails or runs out of time leaves the others what they
have. Writes benchmarks/gpu_check.json and the part of benchmarks/gpu.md between its two marks; on
the pretend device benchmarks/gpu_check.pretend.json and .md. Exit code 0: every part is good; 1:
one is not. --smoke: one part, on the pretend device.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu_check_parts import (
    Context,
    Outcome,
    build_horovod,
    check_resume,
    check_shared,
    count_syncs,
    measure_rates,
    run_tests,
)
from benchmarks.gpu_check_report import write_report
from benchmarks.results import REPOSITORY, write_results
from hvd_yolo.errors import InputError

MODELS = ("yolov8n", "yolov8s", "yolov8m", "yolov8l", "yolov8x")
REAL = {"models": MODELS, "imgsz": 640, "batch": 16, "warmup": 5, "steps": 20, "tests": ""}
TINY = {"models": MODELS[:1], "imgsz": 64, "batch": 2, "warmup": 1, "steps": 2, "tests": ""}


class Part(NamedTuple):
    """A part and the seconds that it may take."""

    check: Callable[[Context, float], Outcome]
    seconds: float


# What matters most comes first; the last takes what is left.
PARTS = {
    "build": Part(build_horovod, 240),
    "syncs": Part(count_syncs, 60),
    "resume": Part(check_resume, 75),
    "shared": Part(check_shared, 60),
    "tests": Part(run_tests, 150),
    "rates": Part(measure_rates, 240),
}
SMOKE_PARTS = "syncs"
# What a part may raise over a file that a process left incomplete, or did not leave.
UNFORESEEN = (OSError, ValueError, RuntimeError, LookupError, InputError)
# The pretend device computes on the CPU.
PRETEND_FACTOR = 5
FOLDER = Path(__file__).parent


def look_for_device(context: Context) -> str:
    """The name of the device; refuses a machine without one."""
    program = "import torch; assert torch.cuda.is_available(); print(torch.cuda.get_device_name(0))"
    done = subprocess.run(
        context.python("-c", program), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.splitlines() or [""])[-1]
        refuse(
            f"torch sees no GPU ({reason}); run `make gpu-check` on a machine with one, or try it "
            "out with PRETEND=1 make gpu-check"
        )
    return done.stdout.splitlines()[-1]


def refuse(message: str) -> NoReturn:
    """Ends the script as every command of hvd_yolo refuses."""
    print(f"gpu_check: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", default="", help="a Python with ultralytics")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma separated")
    parser.add_argument("--budget", type=float, default=420, help="seconds for all; pretended: x 5")
    parser.add_argument("--batch", type=int, default=0, help="images; 0: 16, and 2 if pretended")
    parser.add_argument("--pretend", action="store_true", help="on tests/pretend_cuda, tiny")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    if asked.smoke:
        asked.pretend, asked.parts = True, SMOKE_PARTS
    unknown = set(asked.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--parts {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    return asked


def run_parts(asked: argparse.Namespace, context: Context, device: str) -> dict[str, Outcome]:
    """All parts that were asked for, one after the other; the report is written after each."""
    factor = PRETEND_FACTOR if asked.pretend else 1
    ends = time.monotonic() + asked.budget * factor
    outcomes: dict[str, Outcome] = {}
    seconds: dict[str, float] = {}
    for name in (name for name in PARTS if name in asked.parts.split(",")):
        started = time.monotonic()
        allowed = min(PARTS[name].seconds * factor, ends - started)
        if allowed < 1:
            outcomes[name] = Outcome("failed", "no time was left")
        else:
            try:
                outcomes[name] = PARTS[name].check(context, allowed)
            except UNFORESEEN as error:
                outcomes[name] = Outcome("failed", f"{type(error).__name__}: {error}")
        seconds[name] = time.monotonic() - started
        found = outcomes[name]
        print(f"{name}: {found.status}, {seconds[name]:.0f} s: {found.detail}", flush=True)
        if not asked.smoke:
            write_report(FOLDER, outcomes, seconds, context.sizes, device, asked.pretend)
    return outcomes


def main() -> int:
    """The parts, the report and the exit code."""
    asked = parse()
    sizes = dict(TINY if asked.pretend else REAL)
    sizes["batch"] = asked.batch or sizes["batch"]
    with tempfile.TemporaryDirectory(prefix="gpu_check-") as folder:
        context = Context(asked.pretend, Path(folder), sizes, asked.peer)
        device = look_for_device(context)
        print(f"device: {device}{' (PRETENDED)' if asked.pretend else ''}", flush=True)
        outcomes = run_parts(asked, context, device)
    is_good = all(found.status in ("good", "skipped") for found in outcomes.values())
    if asked.smoke:
        parts = {name: vars(found) for name, found in outcomes.items()}
        write_results(__file__, {"parts": parts}, is_smoke=True)
    print("gpu_check: " + ("every part is good" if is_good else "NOT every part is good"))
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
