"""What a rank knows of itself and its host without asking anybody."""

import dataclasses
import fcntl
import hashlib
import os
import platform
import re
import resource
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import hvd_yolo
from hvd_yolo.comm import Comm, gather_json, launch
from hvd_yolo.comm.engine import engine
from hvd_yolo.memory import free_on_host
from hvd_yolo.report import environment

_SHM = Path("/dev/shm")

# linux/capability.h
_CAP_IPC_LOCK = 14


@dataclass
class Facts:
    """One rank, its process and its host.

    host_id: equal for ranks on one host, also where two hosts have one name. gpu: the unique id of
    its GPU, empty on the CPU. gpu_node, cpu_nodes: NUMA nodes of the GPU (-1: unknown) and of the
    CPUs. affinity: CPUs the process is bound to; permitted: as many as it could be bound to; cpus:
    what remains under the cgroup's quota. Memory and files in bytes; limits of -1 are none.
    shm_stale: caches in memory that no process uses any more. locked_memory: -1 also for a process
    that the kernel lets lock any. rdma_present: InfiniBand and RoCE devices that the kernel has;
    rdma_devices: those that programs can open.
    """

    rank: int
    local_rank: int
    host: str
    host_id: str
    device: str
    device_name: str
    gpu: str
    gpu_node: int
    gpus_seen: int
    gpus_present: int
    cpu_nodes: list[int]
    affinity: list[int]
    permitted: int
    cpus: int
    threads: int
    workers: int
    free_memory: int
    shm_total: int
    shm_free: int
    shm_stale: list[str]
    open_files: int
    locked_memory: int
    rdma_present: list[str]
    rdma_devices: list[str]
    executable: str
    versions: dict[str, str]
    code: str
    variables: dict[str, str]
    engine: dict[str, str]


def gather_facts(comm: Comm, workers: int) -> list[Facts]:
    """Those of every rank, in the order of ranks; every rank calls it. workers: as in training."""
    own = dataclasses.asdict(_own_facts(comm, workers))
    return [Facts(**found) for found in gather_json(comm, own)]


def leaders(facts: list[Facts]) -> list[Facts]:
    """The first rank of each host."""
    first: dict[str, Facts] = {}
    for found in facts:
        first.setdefault(found.host_id, found)
    return list(first.values())


def _own_facts(comm: Comm, workers: int) -> Facts:
    is_gpu = comm.device.type == "cuda"
    gpu = launch.place(comm.device)["gpu"]
    shm = shutil.disk_usage(_SHM) if _SHM.is_dir() else None
    affinity = sorted(os.sched_getaffinity(0))
    return Facts(
        rank=comm.rank,
        local_rank=comm.local_rank,
        host=socket.gethostname(),
        host_id=_host_id(),
        device=str(comm.device),
        device_name=torch.cuda.get_device_name(comm.device) if is_gpu else platform.machine(),
        gpu=gpu,
        gpu_node=_gpu_node(gpu),
        gpus_seen=torch.cuda.device_count(),
        gpus_present=len(_present_gpus()),
        cpu_nodes=_cpu_nodes(affinity),
        affinity=affinity,
        permitted=_permitted_cpus(),
        cpus=launch.cpus(),
        threads=torch.get_num_threads(),
        workers=launch.loader_workers(workers, comm.own_cpus, comm.device),
        free_memory=free_on_host(),
        shm_total=shm.total if shm else 0,
        shm_free=shm.free if shm else 0,
        shm_stale=_stale_packs(),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        locked_memory=_locked_memory(),
        rdma_present=rdma_present(),
        rdma_devices=rdma_devices(),
        executable=sys.executable,
        versions=_versions(),
        code=source_hash(Path(hvd_yolo.__file__).parent),
        variables=environment.variables(),
        engine=engine(comm),
    )


def source_hash(folder: Path) -> str:
    """Of the names and contents of all Python files below a folder."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(folder)} {content}\n".encode())
    return total.hexdigest()[:12]


def _host_id() -> str:
    """The kernel that runs and the network it is in: containers share the one, hosts that boot from
    one image the other."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/net')} {socket.gethostname()}"


def _versions() -> dict[str, str]:
    driver = Path("/proc/driver/nvidia/version")
    found = {"python": platform.python_version(), **environment.versions()}
    found["cuda"] = torch.version.cuda or "none"
    if driver.is_file():
        found["nvidia driver"] = driver.read_text().splitlines()[0]
    return found


def _locked_memory() -> int:
    status = Path("/proc/self/status").read_text()
    capabilities = int(re.search(r"CapEff:\s*(\w+)", status)[1], 16)
    if capabilities >> _CAP_IPC_LOCK & 1:
        return -1
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]


def rdma_present(root: Path = Path("/")) -> list[str]:
    """InfiniBand and RoCE devices that the kernel has; in a container, too, where none was handed
    on. root: of the file system."""
    return sorted(entry.name for entry in (root / "sys/class/infiniband").glob("*"))


def rdma_devices(root: Path = Path("/")) -> list[str]:
    """Those of rdma_present that programs can open."""
    has_verbs = any((root / "dev/infiniband").glob("uverbs*"))
    return rdma_present(root) if has_verbs else []


def _stale_packs() -> list[str]:
    """Caches of this user that data.pack keeps in memory, without a process that holds the lock of
    their .use file."""
    found = []
    for use in sorted(_SHM.glob(f"hvd_yolo-{os.getuid()}/ram-*.use")):
        try:
            with open(use, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError):
            # In use, or just removed by its last user.
            continue
        found.append(str(use.with_suffix("")))
    return found


def _permitted_cpus() -> int:
    """How many CPUs the host or container lets the process have, whatever a launcher bound it
    to."""
    bound = os.sched_getaffinity(0)
    try:
        # The kernel leaves of them what the cpuset permits.
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        return len(os.sched_getaffinity(0))
    except OSError:
        return len(bound)
    finally:
        os.sched_setaffinity(0, bound)


def _cpu_nodes(affinity: list[int]) -> list[int]:
    """The NUMA nodes that these CPUs belong to."""
    found = []
    for folder in Path("/sys/devices/system/node").glob("node[0-9]*"):
        cpus = _cpu_list((folder / "cpulist").read_text())
        if cpus & set(affinity):
            found.append(int(folder.name.removeprefix("node")))
    return sorted(found)


def _cpu_list(text: str) -> set[int]:
    """0-3,8 as the kernel writes it."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _present_gpus() -> dict[str, str]:
    """PCI address of each NVIDIA GPU the driver has, by its unique id, whether torch sees it or
    not."""
    found = {}
    for file in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        uuid = re.search(r"GPU UUID:\s*GPU-(\S+)", file.read_text())
        if uuid:
            found[uuid[1]] = file.parent.name
    return found


def _gpu_node(gpu: str) -> int:
    address = _present_gpus().get(gpu.removeprefix("GPU-"))
    file = Path(f"/sys/bus/pci/devices/{address}/numa_node")
    return int(file.read_text()) if address and file.is_file() else -1
