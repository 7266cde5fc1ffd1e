"""Where and with what a run was started: environment.json."""

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from hvd_yolo import checkpoint
from hvd_yolo.comm import Comm, gather_json

_PACKAGES = (
    "hvd_yolo",
    "torch",
    "horovod",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "pycocotools",
)
# Variables that change how ranks talk or compute.
_PREFIXES = (
    "HOROVOD_",
    "OMPI_MCA_",
    "NCCL_",
    "GLOO_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "UCX_",
    "CUDA_",
    "TORCH_",
    "SLURM_JOB",
    "MALLOC_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
)


def describe(comm: Comm) -> dict[str, Any] | None:
    """Versions, ranks, devices and the environment that matters, on rank 0, which writes them; None
    on the others, for hundreds of ranks would ask git and the package lists on one disk. Every rank
    calls it."""
    ranks = gather_json(
        comm,
        {
            "rank": comm.rank,
            "local_rank": comm.local_rank,
            "host": socket.gethostname(),
            "device": str(comm.device),
            "device_name": torch.cuda.get_device_name(comm.device)
            if comm.device.type == "cuda"
            else platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        },
    )
    if not comm.is_main:
        return None
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": versions(),
        "git_revision": _git_revision(),
        "comm": {"backend": comm.name, "size": comm.size, "settings": comm.settings},
        "ranks": ranks,
        "environment": variables(),
    }


def append(file: Path, start: dict[str, Any], step: int) -> None:
    """Adds this start, at update `step`, to the list that environment.json is: a resumed run has
    several."""
    starts = json.loads(file.read_text()) if file.is_file() else []
    starts.append({"step": step, **start})
    checkpoint.save_text(file, json.dumps(starts, indent=1) + "\n")


def variables() -> dict[str, str]:
    """The environment variables of this process that change how ranks talk or compute."""
    return {k: v for k, v in sorted(os.environ.items()) if k.startswith(_PREFIXES)}


def versions() -> dict[str, str]:
    """The versions of the packages that a run depends on, of those that are installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_revision() -> str:
    """The commit of the checkout this package runs from, empty for an installed package."""
    folder = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip()
