"""What several tests share: the real data set, and jobs of real ranks."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DATA = REPOSITORY.parent / "shared" / "data"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def bccd() -> Path:
    """BCCD as YOLO text and COCO JSON."""
    if not (DATA / "bccd").is_dir():
        pytest.skip(f"the BCCD data set is not at {DATA}")
    return DATA / "bccd"


@pytest.fixture(scope="session")
def bccd_voc(bccd: Path) -> Path:
    """The same photographs as a Pascal VOC tree."""
    return bccd.parent / "bccd_voc"


def job_environment(**changes: str) -> dict[str, str]:
    """The environment for a job: this venv first on PATH, one thread a rank, no launcher's
    variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "HOROVOD_", "PMIX_"))}
    path = f"{BIN}:{kept['PATH']}"
    # Updates of a few milliseconds would wait for Horovod's next look for work.
    quick = {"OMP_NUM_THREADS": "1", "HOROVOD_CYCLE_TIME": "1"}
    return {**kept, "PATH": path, **quick, **changes}


def command_for(num_ranks: int, arguments: Sequence[str], launcher: str = "mpirun") -> list[str]:
    """The command line that starts `python ARGUMENTS` on so many ranks of this machine; 1 needs no
    launcher. Training draws no plots unless the arguments say so, which would take longer than
    it."""
    if "hvd_yolo.train" in arguments and "--report.plots" not in arguments:
        arguments = [*arguments, "--report.plots", "false"]
    python = [sys.executable, *arguments]
    if num_ranks == 1 and launcher != "torchrun":
        return python
    if launcher == "gloo":
        hosts = ["-np", str(num_ranks), "-H", f"localhost:{num_ranks}"]
        return [str(BIN / "horovodrun"), "--gloo", *hosts, *python]
    if launcher == "torchrun":
        options = ["--standalone", "--nproc-per-node", str(num_ranks)]
        return [str(BIN / "torchrun"), *options, *arguments]
    options = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np"]
    return ["mpirun", *options, str(num_ranks), *python]


def run_job(
    num_ranks: int,
    arguments: Sequence[str],
    launcher: str = "mpirun",
    timeout: float = 300,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Runs a job to its end; what it printed is in stdout and stderr."""
    return subprocess.run(
        command_for(num_ranks, arguments, launcher),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=REPOSITORY,
        env=job_environment(**environment),
    )


def train(
    num_ranks: int, output: Path, *options: str, launcher: str = "mpirun", **environment: str
) -> str:
    """A training job that must succeed; what it printed."""
    arguments = ["-m", "hvd_yolo.train", "--output", str(output), *options]
    done = run_job(num_ranks, arguments, launcher, **environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


needs_mpi = pytest.mark.skipif(
    shutil.which("mpirun") is None, reason="mpirun is not installed on this machine"
)
