"""What the launcher promised, what this host has, and the refusals when the two do not fit.

The only place that reads the environment of horovodrun, mpirun, srun and torchrun.
"""

import math
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch

from hvd_yolo.errors import InputError


class Place(TypedDict):
    """Where a rank computes: its host, the CPUs it is bound to and the unique id of its GPU, empty
    where it has none."""

    host: str
    cpus: list[int]
    gpu: str


class Launch(NamedTuple):
    """What a launcher told this process: its rank out of size."""

    launcher: str
    rank: int
    size: int


# Launcher, and the variables in which it tells rank and size. The first that is set wins: an mpirun
# or torchrun inside a Slurm allocation inherits Slurm's step variables, horovodrun may run inside
# either.
_VARIABLES = (
    ("horovodrun", "HOROVOD_RANK", "HOROVOD_SIZE"),
    ("mpirun (Open MPI)", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpirun (MPICH, Intel MPI)", "PMI_RANK", "PMI_SIZE"),
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


def promised(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Rank and size as the launcher tells them in the environment of a process, of this one by
    itself, or None when nothing launched it."""
    for launcher, rank, size in _VARIABLES:
        if rank in environment and size in environment:
            return Launch(launcher, int(environment[rank]), int(environment[size]))
    return None


def launched_rank() -> int:
    """The rank this process was promised, 0 when nothing launched it; known before any rank has
    connected."""
    launch = promised()
    return launch.rank if launch else 0


def is_elastic() -> bool:
    """Whether ranks may come and go while the job runs: `horovodrun --host-discovery-script`."""
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def renumber(rank: int, size: int, local_rank: int, local_size: int) -> None:
    """Tells whoever asks for what was promised that an elastic job has changed it."""
    found = {"RANK": rank, "SIZE": size, "LOCAL_RANK": local_rank, "LOCAL_SIZE": local_size}
    os.environ.update({f"HOROVOD_{name}": str(value) for name, value in found.items()})


def collective_timeout(stall_timeout: float) -> timedelta:
    """How long torch.distributed lets a collective wait before it ends the process: only where
    nothing else does. The watchdog, with comm.stall_timeout, is sooner and knows which rank is
    stalled; a rank that is at work, as one that builds a cache, may let others wait for long. 30
    minutes at least, as torch has it for Gloo; a week where stall_timeout is 0."""
    seconds = max(1800.0, 2 * stall_timeout) if stall_timeout else 7 * 86400.0
    return timedelta(seconds=seconds)


def torchrun_place() -> tuple[int, int]:
    """Local rank and ranks of this host, as torchrun tells them; raises InputError where it does
    not."""
    if "LOCAL_RANK" not in os.environ or "LOCAL_WORLD_SIZE" not in os.environ:
        raise InputError(
            "RANK and WORLD_SIZE are set, but not LOCAL_RANK and LOCAL_WORLD_SIZE: start each node "
            "with `torchrun --nproc-per-node N -m hvd_yolo.train`, which sets them"
        )
    return int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])


def lonely_message(launch: Launch, found: str) -> str:
    """What to tell a user whose ranks do not see each other, and what to do about it."""
    with_mpi = "Horovod must be built with the MPI that this mpirun belongs to"
    with_gloo = "start it with `horovodrun -np N --gloo python -m hvd_yolo.train`"
    remedy = {
        "horovodrun": "start it with `horovodrun -np N python -m hvd_yolo.train` from the "
        "environment that Horovod is installed in",
        "mpirun (Open MPI)": f"{with_mpi} (`horovodrun --check-build` shows [X] MPI) and "
        f"HOROVOD_CONTROLLER must not be gloo; or {with_gloo}",
        "mpirun (MPICH, Intel MPI)": f"{with_mpi}; or {with_gloo}",
        "srun": "start it with `srun --mpi=pmix python -m hvd_yolo.train` (`srun --mpi=list` shows "
        "what there is), or with mpirun inside the allocation",
        "torchrun": f"Horovod does not join ranks that torchrun started: leave comm.backend out, "
        f"and torch.distributed does; or {with_gloo}",
    }[launch.launcher]
    return (
        f"{launch.launcher} promised {launch.size} ranks, but {found}: {launch.size} lonely "
        f"processes would each "
        f"train the whole data set. Remedy: {remedy}"
    )


def cpus() -> int:
    """CPUs this process may use: the affinity mask, cut by the cgroup's quota (a container's
    --cpus)."""
    return max(1, int(min(len(os.sched_getaffinity(0)), _quota())))


def cpus_of_rank(rank: int, places: list[Place]) -> int:
    """CPUs for one rank alone, of the places of all ranks: a CPU that several ranks of its host are
    bound to is divided among them, as is the quota."""
    own = places[rank]
    beside = [place["cpus"] for place in places if place["host"] == own["host"]]
    bound = sum(1 / sum(cpu in others for others in beside) for cpu in own["cpus"])
    return max(1, int(min(bound + 1e-6, _quota() / len(beside))))


def _quota() -> float:
    """CPUs that the cgroup lets a process have, infinite where it sets no limit."""
    quota_v2 = Path("/sys/fs/cgroup/cpu.max")
    quota_v1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period_v1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota_v2.is_file():
        quota, period = quota_v2.read_text().split()
    elif quota_v1.is_file():
        quota, period = quota_v1.read_text().strip(), period_v1.read_text().strip()
    else:
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def threads_per_rank(own_cpus: int) -> int:
    """Threads for a rank's own arithmetic: OMP_NUM_THREADS if the user set it, else one for each
    CPU that it has for itself.

    Open MPI and Gloo leave every rank with all cores, and N ranks with N threads each trample on
    one another.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return int(os.environ["OMP_NUM_THREADS"])
    return own_cpus


def loader_workers(wanted: int, own_cpus: int, device: torch.device) -> int:
    """Loader processes for a rank: `wanted`, or for -1 one less than it has CPUs, of which its own
    thread needs one.

    There is no other bound: a GPU trains a small model on more images a second than a dozen CPUs
    load, and workers that wait cost no time. (Their slots may need more page-locked memory than
    there is: see feed.) A rank that trains on the CPU loads in its own process: a worker would take
    the core the arithmetic needs.
    """
    if wanted >= 0:
        return wanted
    return 0 if device.type == "cpu" else max(0, own_cpus - 1)


def choose_device(wanted: str, local_rank: int, local_size: int, num_gpus: int) -> torch.device:
    """The device of a rank: its local rank's GPU, or the only one it can see (Slurm and mpirun may
    bind one each).

    `num_gpus` is how many this process sees. CUDA_VISIBLE_DEVICES is never written. Raises
    InputError when there are more ranks on the host than GPUs.
    """
    if wanted == "cpu" or (wanted == "auto" and num_gpus == 0):
        return torch.device("cpu")
    if num_gpus == 0:
        raise InputError(
            f"device is cuda, but torch sees no GPU on {socket.gethostname()}: `nvidia-smi` and "
            f"`python -c 'import "
            "torch; print(torch.version.cuda)'` tell whether the driver or a CPU build of torch "
            "is the cause"
        )
    if num_gpus == 1:
        return torch.device("cuda", 0)
    if local_rank >= num_gpus:
        raise InputError(
            f"{local_size} ranks on {socket.gethostname()}, but only {num_gpus} GPUs: start at "
            f"most {num_gpus} ranks "
            f"there (-H {socket.gethostname()}:{num_gpus}, slots={num_gpus} in the hostfile)"
        )
    return torch.device("cuda", local_rank)


def place(device: torch.device) -> Place:
    """Where this rank computes."""
    gpu = "" if device.type == "cpu" else str(torch.cuda.get_device_properties(device).uuid)
    return {"host": socket.gethostname(), "cpus": sorted(os.sched_getaffinity(0)), "gpu": gpu}


def refuse_shared_gpus(places: list[Place]) -> None:
    """Raises InputError when two ranks compute on one GPU."""
    owner: dict[str, int] = {}
    for rank, place in enumerate(places):
        gpu = place["gpu"]
        if gpu and gpu in owner:
            raise InputError(
                f"ranks {owner[gpu]} and {rank} both compute on GPU {gpu} of {place['host']}: "
                f"give each rank a GPU of its own; under Slurm ask for --gpus-per-node and leave "
                "--gpus-per-task and --gpu-bind out (--gpu-bind=none where the site sets it): each "
                "rank then sees all GPUs of its node, as NCCL needs for NVLink, and takes the one "
                "of its local rank"
            )
        owner[gpu] = rank
