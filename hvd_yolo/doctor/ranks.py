"""Which rank computes where: hosts, GPUs and NUMA nodes."""

from collections import defaultdict
from collections.abc import Iterator

from hvd_yolo.doctor.facts import Facts, leaders
from hvd_yolo.doctor.findings import Finding, on


def judge(facts: list[Facts], device: str) -> list[Finding]:
    """What is wrong with where the ranks are. device: the one asked for (auto, cpu or cuda)."""
    return [
        *_one_name_for_two_hosts(facts),
        *_uneven(facts),
        *_one_host_as_two(facts),
        *shared_gpus(facts),
        *(_unused_gpus(facts) if device != "cpu" else ()),
        *_without_nccl(facts),
        *_without_rdma(facts),
        *_far_gpus(facts),
    ]


def shared_gpus(facts: list[Facts]) -> Iterator[Finding]:
    """Ranks that compute on one and the same GPU."""
    owners: dict[str, list[Facts]] = defaultdict(list)
    for found in facts:
        if found.gpu:
            owners[found.gpu].append(found)
    for gpu, ranks in owners.items():
        if len(ranks) > 1:
            yield on(
                ranks, "error", "gpu-shared",
                f"{len(ranks)} ranks compute on GPU {gpu} of {ranks[0].host}",
                "give each rank a GPU of its own: at most as many ranks a host as it has GPUs; "
                "under Slurm --gpus-per-node, without --gpus-per-task and --gpu-bind",
            )  # fmt: skip


def _one_name_for_two_hosts(facts: list[Facts]) -> Iterator[Finding]:
    by_name: dict[str, list[Facts]] = defaultdict(list)
    for leader in leaders(facts):
        by_name[leader.host].append(leader)
    for name, hosts in by_name.items():
        if len(hosts) > 1:
            yield on(
                hosts, "error", "hostname-shared",
                f"{len(hosts)} different hosts are all called {name}",
                "give each a name of its own (hostnamectl set-hostname NAME; docker run "
                "--hostname NAME): launchers tell hosts apart by their names",
            )  # fmt: skip


def _uneven(facts: list[Facts]) -> Iterator[Finding]:
    counts = {
        leader.rank: sum(found.host_id == leader.host_id for found in facts)
        for leader in leaders(facts)
    }
    most = max(counts.values())
    fewer = [found for found in facts if counts.get(found.rank, most) < most]
    if fewer:
        told = ", ".join(f"{found.host} {counts[found.rank]}" for found in fewer)
        yield on(
            fewer, "warning", "hosts-uneven",
            f"hosts with fewer ranks than the others' {most}: {told}",
            f"give every host the same number of slots (-H HOST:{most}, slots={most}) and the job "
            "-np hosts x slots; an uneven job is right, but hierarchical reduction and the share "
            "of the links are not",
        )  # fmt: skip


def _one_host_as_two(facts: list[Facts]) -> Iterator[Finding]:
    places: dict[tuple[str, int], list[Facts]] = defaultdict(list)
    for found in facts:
        places[found.host_id, found.local_rank].append(found)
    twice = [ranks for ranks in places.values() if len(ranks) > 1]
    if twice:
        yield on(
            (found for ranks in twice for found in ranks), "warning", "host-split",
            f"the launcher counts {twice[0][0].host} as several hosts: {len(twice[0])} ranks there "
            f"have local rank {twice[0][0].local_rank}",
            "name each host once in -H or the hostfile (not localhost beside its name or address): "
            "threads and GPUs are dealt by local rank",
        )  # fmt: skip


def _unused_gpus(facts: list[Facts]) -> Iterator[Finding]:
    blind = [
        found
        for found in leaders(facts)
        if found.gpus_present and not found.gpus_seen and not found.gpu
        # Empty or -1: no GPU was asked for.
        if found.variables.get("CUDA_VISIBLE_DEVICES") not in ("", "-1")
    ]
    if blind:
        yield on(
            blind, "warning", "gpu-unseen",
            f"the driver has {blind[0].gpus_present} GPUs, but torch sees none",
            "python -c 'import torch; print(torch.version.cuda)': None is a CPU build (make setup "
            "GPU=1); else see CUDA_VISIBLE_DEVICES and, in a container, --gpus all",
        )  # fmt: skip


def _without_nccl(facts: list[Facts]) -> Iterator[Finding]:
    on_gpu = [found for found in facts if found.gpu]
    if len(on_gpu) > 1 and "nccl" not in on_gpu[0].engine["gpu"]:
        yield on(
            on_gpu, "warning", "nccl-missing",
            f"gradients on GPUs are summed by {on_gpu[0].engine['gpu']}: this Horovod has no NCCL",
            "make setup GPU=1 builds it with NCCL (horovodrun --check-build shows it)",
        )  # fmt: skip


def _without_rdma(facts: list[Facts]) -> Iterator[Finding]:
    """Several hosts with GPUs, of which some have no InfiniBand or RoCE device for NCCL: all ranks
    then wait for TCP."""
    hosts = [found for found in leaders(facts) if found.gpu]
    if len(hosts) < 2:
        return
    hidden = [found for found in hosts if found.rdma_present and not found.rdma_devices]
    if hidden:
        yield on(
            hidden, "warning", "network-no-rdma",
            f"{', '.join(hidden[0].rdma_present)} cannot be opened (/dev/infiniband is missing): "
            "NCCL goes over TCP",
            "hand it to the container: docker run --device /dev/infiniband --ulimit memlock=-1 "
            "--cap-add IPC_LOCK; Kubernetes: the RDMA device plugin's resource (rdma/hca: 1)",
        )  # fmt: skip
    without = [found for found in hosts if not found.rdma_present]
    if without:
        yield on(
            without, "warning", "network-no-rdma",
            "no InfiniBand or RoCE device on hosts with GPUs: NCCL goes over TCP, which the ranks "
            "of GPUs wait for",
            "if the hosts have such an adapter, load its driver (lspci; ibv_devices; "
            "/sys/class/infiniband); else `python -m hvd_yolo.plan` tells what the link costs, and "
            "--comm.compression what it saves",
        )  # fmt: skip


def _far_gpus(facts: list[Facts]) -> Iterator[Finding]:
    far = [f for f in facts if f.gpu_node >= 0 and f.cpu_nodes and f.gpu_node not in f.cpu_nodes]
    if far:
        yield on(
            far, "warning", "numa-far",
            f"bound to CPUs of another NUMA node than their GPU's (rank {far[0].rank}: CPUs of "
            f"{far[0].cpu_nodes}, GPU on {far[0].gpu_node})",
            "mpirun --bind-to none, or bind each rank to the node that `nvidia-smi topo -m` names",
        )  # fmt: skip
