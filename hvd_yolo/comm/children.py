"""Jobs that ranks of a job start: a training on some of them, wired as horovodrun wires over Gloo.

The ranks above are agents. They have met through whatever launcher there is; their children know
nothing of it.
"""

import os
from collections.abc import Sequence

import torch

from hvd_yolo.comm import Comm, launch
from hvd_yolo.comm.launch import Place
from hvd_yolo.errors import InputError

# What launchers tell a rank. What users set by themselves, as HOROVOD_CYCLE_TIME, stays.
_TOLD = (
    "OMPI_", "PMIX_", "PMI_", "PMI2_", "PRTE_", "TORCHELASTIC_", "ROLE_", "GROUP_",
    "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_", "HOROVOD_CROSS_", "HOROVOD_HOSTNAME",
    "HOROVOD_CONTROLLER", "HOROVOD_CPU_OPERATIONS", "HOROVOD_GLOO_RENDEZVOUS_", "HOROVOD_ELASTIC",
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS",
)  # fmt: skip
_INTERFACE = "HOROVOD_GLOO_IFACE"
_GPUS = "CUDA_VISIBLE_DEVICES"


def own_environment() -> dict[str, str]:
    """The environment of this process without what its launcher told it; to be taken before
    connect(), which adds to it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_TOLD)}


def gpu_of(comm: Comm, environment: dict[str, str]) -> dict[str, str]:
    """What makes an agent's child see the agent's own GPU alone; nothing where it sees one only, or
    none. Raises InputError when there is not a GPU for each agent."""
    num_gpus = torch.cuda.device_count()
    if num_gpus <= 1:
        return {}
    device = launch.choose_device("auto", comm.local_rank, comm.local_size, num_gpus)
    listed = environment.get(_GPUS, ",".join(map(str, range(num_gpus)))).split(",")
    return {_GPUS: listed[device.index].strip()}


def cpus_of(rank: int, places: Sequence[Place], own_cpus: int) -> set[int]:
    """The CPUs of an agent's child, for a training divides what it sees among its own ranks, and
    others train beside it: at most `own_cpus` of those the agents of its host share; all where they
    are too few to divide."""
    own = places[rank]
    beside = [r for r, place in enumerate(places) if place == own]
    cpus, count, index = own["cpus"], len(beside), beside.index(rank)
    if len(cpus) < count:
        return set(cpus)
    share = cpus[index * len(cpus) // count : (index + 1) * len(cpus) // count]
    return set(share[:own_cpus])


def leave(comm: Comm) -> None:
    """No collective follows: ends Horovod's thread that looks for them, and would take time from
    the children. Every rank calls it."""
    if comm.name == "horovod":
        import horovod.torch as hvd

        hvd.shutdown()


def check_gloo() -> None:
    """Raises InputError where a training on several ranks cannot be wired."""
    try:
        import horovod.torch as hvd
    except ImportError as error:
        raise InputError(
            f"--ranks_per_trial above 1 needs Horovod, which cannot be imported ({error}): "
            "`make setup` builds it"
        ) from error
    if not hvd.gloo_built():
        raise InputError(
            "--ranks_per_trial above 1 needs a Horovod with Gloo (HOROVOD_WITH_GLOO=1 make setup)"
        )


class Meeting:
    """Where the ranks of one child job after the other meet: Horovod's rendezvous server, a thread
    of this process."""

    def __init__(self) -> None:
        from horovod.runner.http.http_server import RendezvousServer

        self._server = RendezvousServer()
        self._port = self._server.start()

    def expect(self, hosts: Sequence[str]) -> list[dict[str, str]]:
        """Forgets the job before. The environment of each rank of the next one, whose ranks are on
        these hosts, but for what meet_at() says."""
        from horovod.runner.common.util.hosts import SlotInfo
        from horovod.runner.gloo_run import create_slot_env_vars

        on = {host: [r for r, h in enumerate(hosts) if h == host] for host in hosts}
        slots = []
        for rank, host in enumerate(hosts):
            local_rank = on[host].index(rank)
            across = [other for other, ranks in on.items() if len(ranks) > local_rank]
            slots.append(
                SlotInfo(
                    hostname=host, rank=rank, local_rank=local_rank,
                    cross_rank=across.index(host), size=len(hosts), local_size=len(on[host]),
                    cross_size=len(across),
                )
            )  # fmt: skip
        self._server.init(slots)
        port = {"HOROVOD_GLOO_RENDEZVOUS_PORT": str(self._port)}
        engine = {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo"}
        return [{**create_slot_env_vars(slot), **engine, **port} for slot in slots]


def meet_at(address: str, interface: str, environment: dict[str, str]) -> dict[str, str]:
    """By which address a rank reaches the Meeting, and through which interface the other ranks;
    what the agent's own launcher or user said of interfaces stays."""
    through = environment.get(_INTERFACE, interface)
    interfaces = {_INTERFACE: through} if through else {}
    return {"HOROVOD_GLOO_RENDEZVOUS_ADDR": address, **interfaces}
