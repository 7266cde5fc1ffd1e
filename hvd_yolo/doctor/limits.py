"""What the hosts let the ranks have: CPUs, memory, shared memory, open files, locked memory."""

from collections.abc import Iterator

from hvd_yolo.doctor.facts import Facts, leaders
from hvd_yolo.doctor.findings import Finding, on

_MB, _GB = 10**6, 10**9

# 16 images of 640 x 640 pixels as bytes: what one worker hands over at a time.
_BATCH_BYTES = 16 * 3 * 640 * 640

# What Docker gives a container that asks for nothing; enough for no loader with workers.
_DOCKERS_SHM = 64 << 20

# A rank on the CPU that trains yolov8n at 640 pixels takes more, one on a GPU about as much.
_RANK_BYTES = 2 * _GB

# The soft limit that systemd and Debian give every process.
_OPEN_FILES = 1024

# Buffers of NCCL and UCX for some peers take less.
_LOCKED_BYTES = _GB


def judge(facts: list[Facts], prefetch: int) -> list[Finding]:
    """What is too little. prefetch: batches each loader process reads ahead."""
    findings: list[Finding] = []
    for leader in leaders(facts):
        ranks = [found for found in facts if found.host_id == leader.host_id]
        findings += [*_cpus(ranks), *_shared_memory(ranks, prefetch), *_memory(ranks)]
    return [*findings, *_binding(facts), *_files(facts), *_locked_memory(facts)]


def _cpus(ranks: list[Facts]) -> Iterator[Finding]:
    """The ranks of one host against its CPUs."""
    bound = len({cpu for found in ranks for cpu in found.affinity})
    capacity = min([bound, *(f.cpus for f in ranks if f.cpus < len(f.affinity))])
    threads = sum(found.threads for found in ranks)
    workers = sum(found.workers for found in ranks)
    part = max(1, capacity // len(ranks))
    if threads > capacity:
        yield on(
            ranks, "warning", "cpu-oversubscribed",
            f"{len(ranks)} ranks with {threads} threads in all on {capacity} CPUs",
            f"at most {capacity} ranks on the host, with OMP_NUM_THREADS={part} or unset; if the "
            "CPUs are fewer than expected, see mpirun --bind-to none, taskset, docker --cpus, "
            "Slurm --cpus-per-task",
        )  # fmt: skip
    elif threads + workers > 2 * capacity:
        yield on(
            ranks, "warning", "workers-many",
            f"{threads} threads and {workers} loader processes in all on {capacity} CPUs",
            f"--workers {max(0, part - 1)}, or leave it out",
        )  # fmt: skip


def _binding(facts: list[Facts]) -> Iterator[Finding]:
    bound = []
    for found in facts:
        local = sum(other.host_id == found.host_id for other in facts)
        # Whoever binds ranks with care leaves each at least half its part.
        if 2 * len(found.affinity) < found.permitted // local:
            bound.append(found)
    if bound:
        first = bound[0]
        yield on(
            bound, "warning", "cpu-bound",
            f"bound to {len(first.affinity)} of the {first.permitted} CPUs that rank "
            f"{first.rank}'s host would let it use: threads and loader processes share them",
            "mpirun --bind-to none (its default binds each rank to one core), or "
            "--map-by slot:PE=N with N cores a rank; srun --cpu-bind=none or --cpus-per-task=N",
        )  # fmt: skip


def _memory(ranks: list[Facts]) -> Iterator[Finding]:
    each = min(found.free_memory for found in ranks) // len(ranks)
    if each < _RANK_BYTES:
        yield on(
            ranks, "warning", "memory-low",
            f"{each / _GB:.1f} GB free for each of {len(ranks)} ranks, of what the host and its "
            "cgroups allow",
            "fewer ranks on the host, a larger limit (docker run --memory, Slurm --mem), or a "
            "smaller batch_size",
        )  # fmt: skip


def _shared_memory(ranks: list[Facts], prefetch: int) -> Iterator[Finding]:
    leader = ranks[0]
    need = sum(found.workers for found in ranks) * (prefetch + 1) * _BATCH_BYTES
    remedy = "mount -o remount,size=8g /dev/shm; docker run --shm-size 8g; Kubernetes: an emptyDir "
    remedy += "with medium Memory on /dev/shm"
    size = f"/dev/shm has {leader.shm_free / _MB:.0f} MB free of {leader.shm_total / _MB:.0f} MB"
    if leader.shm_free < _BATCH_BYTES:
        what = f"{size}, less than one batch: ranks or loader processes die of a bus error"
        yield on([leader], "error", "shm-small", what, remedy)
    elif leader.shm_free < need or (need > 0 and leader.shm_total <= _DOCKERS_SHM):
        what = f"{size}; the loader processes of the host may take {need / _MB:.0f} MB"
        yield on([leader], "warning", "shm-small", what, f"{remedy}; or fewer --workers")
    stale = sorted({pack for found in ranks for pack in found.shm_stale})
    if stale:
        yield on(
            [leader], "warning", "shm-stale",
            f"a cache in memory that a dead run left behind: {', '.join(stale)}",
            "the next run with --loader.cache ram removes it; or remove it with its .use file",
        )  # fmt: skip


def _files(facts: list[Facts]) -> Iterator[Finding]:
    # Gloo keeps two connections to each other rank, a worker one.
    workers = max(found.workers for found in facts)
    need = max(_OPEN_FILES, 256 + 4 * len(facts) + 2 * workers)
    few = [found for found in facts if 0 <= found.open_files < need]
    if few:
        yield on(
            few, "warning", "open-files-low",
            f"a process may open {few[0].open_files} files, {need} may be needed",
            "ulimit -n 65536 before the launch; for ranks started by ssh, `* soft nofile 65536` in "
            "/etc/security/limits.conf of the host",
        )  # fmt: skip


def _locked_memory(facts: list[Facts]) -> Iterator[Finding]:
    bounded = [f for f in facts if f.rdma_devices and 0 <= f.locked_memory < _LOCKED_BYTES]
    if bounded:
        first = bounded[0]
        yield on(
            bounded, "warning", "memlock-low",
            f"{', '.join(first.rdma_devices)} needs locked memory, of which a process may have "
            f"{first.locked_memory / _MB:.0f} MB",
            "`* soft memlock unlimited` and the same with hard in /etc/security/limits.conf; "
            "docker run --ulimit memlock=-1; for Slurm LimitMEMLOCK=infinity of slurmd",
        )  # fmt: skip
