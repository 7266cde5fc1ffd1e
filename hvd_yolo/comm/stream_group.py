"""An NCCL communicator of torch's beside Horovod, for the sums of SyncBatchNorm on GPUs.

Why not Horovod's own: its background thread looks for work once per cycle, agrees with all other
ranks on what is ready, and only then starts NCCL, while the training thread waits. That costs 0.3
to 1 ms for each of two sums per layer; a model of 60 layers would spend most of a step in it. NCCL
called by torch is one kernel in the order of the stream, and the host waits for nothing.

Two communicators must not be at work at once where their order differs by rank, as NCCL's
documentation says. So HorovodComm sends no gradient before the backward pass has ended.

Without this group, sums go through Horovod: in an elastic job, where Horovod alone notices that a
rank is lost; where ranks share a GPU, which NCCL refuses; and where torch has no NCCL.
"""

import fcntl
import socket
import struct
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from hvd_yolo.comm.launch import Place

_CONNECT_TIMEOUT = timedelta(seconds=10)
# <linux/sockios.h>
_SIOCGIFADDR = 0x8915


def is_supported(is_elastic: bool) -> bool:
    """Whether torch has NCCL and the job keeps its ranks."""
    return dist.is_nccl_available() and not is_elastic


def has_own_gpus(places: Sequence[Place]) -> bool:
    """Whether every rank computes on a GPU that no other rank uses."""
    gpus = [place["gpu"] for place in places]
    return all(gpus) and len(set(gpus)) == len(gpus)


def host_store(size: int) -> tuple[dist.Store, dict[str, Any]]:
    """A store on this rank, and how the other ranks reach it."""
    store = dist.TCPStore("0.0.0.0", 0, size, is_master=True, wait_for_workers=False)
    store.set("identity", socket.gethostname())
    addresses = own_addresses()
    return store, {"addresses": addresses, "port": store.port, "identity": socket.gethostname()}


def join_store(place: dict[str, Any], size: int) -> dist.Store | None:
    """The store of rank 0, by the first address that leads to it; None where none does."""
    for address in place["addresses"]:
        try:
            store = dist.TCPStore(
                address, place["port"], size, is_master=False, timeout=_CONNECT_TIMEOUT
            )
            if store.get("identity").decode() == place["identity"]:
                return store
        except (dist.DistError, OSError, ValueError):
            continue
    return None


def open_group(store: dist.Store, rank: int, size: int, timeout: timedelta) -> Any:  # noqa: ANN401
    """The communicator, a torch.distributed backend. It is no default process group: a detector
    of another maker that asks torch.distributed must not take this for a job of torchrun's."""
    return dist.ProcessGroupNCCL(store, rank, size, timeout)


def own_addresses() -> list[str]:
    """The IPv4 addresses of this host, loopback last."""
    addresses = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                # An interface without an IPv4 address.
                continue
            addresses.append(socket.inet_ntoa(answer[20:24]))
    return sorted(addresses, key=lambda address: address.startswith("127."))
