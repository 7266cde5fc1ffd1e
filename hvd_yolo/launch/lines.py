"""The plain command lines of horovodrun, mpirun and srun."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hvd_yolo.doctor.routes import flags_for
from hvd_yolo.errors import InputError
from hvd_yolo.launch.asking import Ssh
from hvd_yolo.launch.hostfile import Slots, shown

# mpirun gives the ranks of other hosts none of the environment but what it is told to.
_HANDED_ON = (
    "PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "OMP_", "MKL_", "HOROVOD_", "HVD_YOLO_",
    "NCCL_", "GLOO_", "UCX_", "CUDA_", "TORCH_", "MALLOC_", "GLIBC_TUNABLES",
)  # fmt: skip
# Horovod's own limit for Gloo, in seconds, and what a rank adds to it: all pairs of ranks find one
# another through one server of Python, and each connects to all others.
GLOO_SECONDS, _SECONDS_PER_RANK = 30, 2
# From so many ranks mpirun connects them faster, whose ranks talk to the daemon of their host.
MANY_RANKS = 64
# A host that is off is missed after 10 seconds; mpirun alone would wait for it for ever.
_KEEP_ALIVE = "-o ServerAliveInterval=5 -o ServerAliveCountMax=2"


def horovodrun(slots: Sequence[Slots], ranks: list[str], interface: str, ssh: Ssh) -> list[str]:
    """Over Gloo, which ends a job whose host is lost, and needs no MPI on the hosts."""
    total = sum(count for _, count in slots)
    line = [program("horovodrun"), "-np", str(total), "-H", shown(slots), "--gloo"]
    line += flags_for(interface)["horovodrun"].split() if interface else []
    if "HOROVOD_GLOO_TIMEOUT_SECONDS" not in os.environ:
        seconds = gloo_seconds(total)
        line += ["--gloo-timeout-seconds", str(seconds)] if seconds > GLOO_SECONDS else []
    line += ["-p", str(ssh.port)] if ssh.port else []
    line += ["-i", ssh.identity] if ssh.identity else []
    return [*line, *ranks]


def gloo_seconds(num_ranks: int) -> int:
    """How long ranks wait for one another over Gloo; a lost host is noticed no sooner."""
    return max(GLOO_SECONDS, _SECONDS_PER_RANK * num_ranks)


def is_installed(name: str) -> bool:
    """Whether program() finds it."""
    return shutil.which(name) is not None or Path(sys.executable).with_name(name).exists()


def mpirun(
    slots: Sequence[Slots], ranks: list[str], interface: str, ssh: Ssh, np: int = 0
) -> list[str]:
    """By Open MPI 4 or 5; interface: a name or a network (CIDR). No slots: np of the tasks of the
    Slurm allocation, or all."""
    major = _open_mpi()
    line = [program("mpirun")]
    if slots:
        line += ["-np", str(sum(count for _, count in slots)), "-H", shown(slots)]
    elif np:
        line += ["-np", str(np)]
    # Ranks set their own threads; one core each, the default, would leave them no others.
    line += ["--bind-to", "none", "--map-by", "slot"]
    flags = flags_for(interface, major)
    line += flags["mpirun"].split() if interface else []
    if len(slots) > 1:
        line += ["--mca", "plm_rsh_args"] if major == 4 else ["--prtemca", "plm_ssh_args"]
        line += [" ".join([_KEEP_ALIVE, *ssh.options])]
    for name in sorted(name for name in os.environ if name.startswith(_HANDED_ON)):
        line += ["-x", name]
    if interface and "NCCL_SOCKET_IFNAME" not in os.environ and "/" not in interface:
        line += ["-x", flags["NCCL"]]
    line += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return [*line, *ranks]


def srun(np: int, ranks: list[str]) -> list[str]:
    """By PMIx, in a Slurm allocation; a rank that fails ends the others."""
    number = ["-n", str(np)] if np else []
    # Of sbatch's own, srun forgets it (since Slurm 22.05).
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    number += [f"--cpus-per-task={cpus}"] if cpus else []
    return [program("srun"), "--mpi=pmix", "--kill-on-bad-exit=1", *number, *ranks]


def is_in_slurm() -> bool:
    """Whether this process is in an allocation."""
    return "SLURM_JOB_ID" in os.environ


def srun_knows_pmix() -> bool:
    """Whether Slurm was built with it."""
    asked = subprocess.run(
        [program("srun"), "--mpi=list"], capture_output=True, text=True, check=False
    )
    return "pmix" in asked.stdout + asked.stderr


def program(name: str) -> str:
    """The name, or its full path where it is not on PATH but beside this Python; raises
    InputError where it is nowhere."""
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name):
        return name
    if beside.exists():
        return str(beside)
    remedies = {
        "horovodrun": "make setup builds Horovod; or start it by torchrun, which needs none",
        "mpirun": "apt-get install openmpi-bin, or --launcher horovodrun, which needs no MPI",
        "srun": "load Slurm's module, or leave --slurm out",
    }
    raise InputError(f"there is no {name} on PATH: {remedies[name]}")


def _open_mpi() -> int:
    """Its major version."""
    told = subprocess.run(
        [program("mpirun"), "--version"], capture_output=True, text=True, check=False
    ).stdout
    match = re.search(r"Open MPI\)? v?(\d+)\.", told)
    if not match or int(match[1]) not in (4, 5):
        raise InputError(
            f"mpirun is {told.splitlines()[0] if told else 'unknown'}, and the line for it is made "
            "for Open MPI 4 and 5: take --launcher horovodrun, or hostfiles/mpich.txt"
        )
    return int(match[1])
