"""Training jobs on GPUs, and how far two runs are apart."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from hvd_yolo import checkpoint
from tests.conftest import BIN, REPOSITORY, job_environment

QUIET = ("--eval.every", "0", "--report.every", "1000", "--report.plots", "false")

# Plain SGD passes rounding errors on as they are; see tests/cluster/test_world_size.py.
FLOAT64 = (
    "--data", "shapes:16", "--imgsz", "64", "--train.dtype", "float64", "--global_batch", "5",
    "--max_updates", "4", "--optim.name", "sgd", "--optim.warmup_epochs", "1",
    "--train.sync_bn", "true", *QUIET,
)  # fmt: skip


def command(python: list[str], num_ranks: int, launcher: str, *arguments: str) -> list[str]:
    """The command line of a job; launcher: none, gloo, mpirun or torchrun."""
    ranks = str(num_ranks)
    if launcher == "none":
        return [*python, *arguments]
    if launcher == "torchrun":
        start = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", ranks]
        return [*start, *python[1:], *arguments]
    if launcher == "gloo":
        start = [str(BIN / "horovodrun"), "--gloo", "-np", ranks, "-H", f"localhost:{ranks}"]
    else:
        start = [
            "mpirun",
            "--allow-run-as-root",
            "--oversubscribe",
            "--bind-to",
            "none",
            "-np",
            ranks,
        ]
    return [*start, *python, *arguments]


def run(
    python: list[str], num_ranks: int, launcher: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a job in the root of the repository."""
    # The tests' own devices are one.
    changes = {"PRETEND_CUDA_DEVICES": str(num_ranks), **environment}
    return subprocess.run(
        command(python, num_ranks, launcher, *arguments),
        capture_output=True, text=True, timeout=300, check=False, cwd=REPOSITORY,
        env={**job_environment(**changes), "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def training_state(folder: Path) -> dict:
    """What last.pt of a run holds, on the CPU."""
    return checkpoint.load(folder / "checkpoints" / "last.pt")["training"]


def largest_difference(a: dict, b: dict) -> float:
    """Over weights, EMA and statistics."""
    differences = [
        float((a[part][name].cpu() - b[part][name].cpu()).abs().max())
        for part in ("model", "ema")
        for name, value in a[part].items()
        if value.is_floating_point()
    ]
    return max(differences)


def is_equal(a: object, b: object) -> bool:
    """Bitwise, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a.cpu(), b.cpu())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_equal(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(is_equal, a, b))
    return a == b
