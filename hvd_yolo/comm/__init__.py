"""How ranks talk: the Comm protocol, its twins, and connect(). Nothing else in hvd_yolo speaks
Horovod, MPI or torch.distributed.

Every method that moves data is a collective: all ranks reach it, equally often and in one order, or
all of them wait.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hvd_yolo.comm import allocator, launch, stream_group
from hvd_yolo.comm.single import SingleComm
from hvd_yolo.config import CommConfig, Sharing
from hvd_yolo.errors import InputError

if TYPE_CHECKING:
    from hvd_yolo.comm.horovod import HorovodComm

__all__ = [
    "Comm", "agree", "average", "broadcast_bytes", "connect", "gather_json", "launch",
    "send_to_main",
]  # fmt: skip


class Comm(Protocol):
    """One rank's view of the job. `size` ranks, this one is `rank`; `local_rank` of `local_size` on
    its host.

    `device` is where this rank computes, `own_cpus` how many CPUs it has for itself; `settings` is
    what connect() chose for the engine and the process, for the run's records; `sent_bytes` counts
    what this rank has sent of gradients, by
    the arithmetic of comm/traffic.py; `is_elastic`: ranks may come and go, see comm/elastic.py.
    """

    name: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    own_cpus: int
    settings: dict[str, str]
    sent_bytes: int
    is_elastic: bool

    @property
    def is_main(self) -> bool:
        """True on rank 0, the one that prints and writes files. Never put a collective behind
        it."""
        ...

    @property
    def has_news(self) -> bool:
        """Whether this rank has heard that hosts have come or go; it alone, so far."""
        ...

    def distribute(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        passes: int,
        options: CommConfig,
        kept: Mapping[str, Tensor],
    ) -> torch.optim.Optimizer:
        """The optimizer whose gradients are sums over all ranks, with the state of the one given,
        which it replaces.

        Every rank gives the same model and the same number of `passes`: the backward passes between
        two updates. The gradients go in fixed groups, compressed as `options` say; `kept` is what
        settle_compression() returned before, or empty.
        """
        ...

    def share_gradients(self, sharing: Sharing) -> None:
        """What becomes of the gradients of the backward passes that follow: each rank keeps its
        "own", as between the rounds of local SGD, or they are summed, "whole" or "compressed" as
        distribute() was told, which is so at first."""
        ...

    def reduced_gradients(
        self, optimizer: torch.optim.Optimizer, beside: Callable[[], Tensor]
    ) -> AbstractContextManager[Tensor]:
        """Inside, each p.grad is the sum over ranks and passes, and `optimizer.step()` does not
        reduce again; gives the elementwise sum over ranks of `beside()`, which travels with the
        gradients. Where each rank keeps its own, it keeps both.

        `beside` is called when all else of the update is on its way. Every rank enters once per
        update, also one that had no image and made no backward pass. Unscale, clip and step inside.
        """
        ...

    def rescale_unsent(self, factor: Tensor) -> None:
        """Multiplies what lossy compression keeps for later by a number that is equal on all
        ranks: the unit of a gradient changes with the divisor of the losses and their scale."""
        ...

    def settle_compression(self) -> dict[str, Tensor]:
        """Makes what lossy compression keeps for later the same on all ranks, and returns it."""
        ...

    def adasum(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its Adasum over ranks (Maleki et al. 2021): the sum of what is
        orthogonal, the mean of what is parallel. Raises InputError where there is none."""
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """The elementwise sum over ranks; every rank gives the same shape and a floating or integer
        dtype."""
        ...

    def stream_sum(self, tensor: Tensor) -> Tensor:
        """The elementwise sum over ranks for SyncBatchNorm, also in the memory of `tensor`: on a
        GPU with NCCL in the order of the stream, so that the host does not wait."""
        ...

    def mean(self, tensor: Tensor) -> Tensor:
        """The elementwise mean over ranks; every rank gives the same shape and a floating dtype."""
        ...

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, in the order of ranks, on every rank; first dimensions may differ,
        also be 0."""
        ...

    def exchange(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """What every rank has for this one, in the order of ranks; parts: what this rank has for
        each, alike but for their first dimensions, which may be 0."""
        ...

    def broadcast(self, tensor: Tensor, root: int = 0) -> Tensor:
        """The tensor of rank `root`; the others give one of the same shape and dtype."""
        ...

    def barrier(self) -> None:
        """Returns when every rank has called it."""
        ...


def connect(
    options: CommConfig,
    device: str = "auto",
    latency_bound: bool = False,
    may_share_gpus: bool = False,
) -> Comm:
    """Joins the job that the launcher started, or a job of one.

    options.backend auto: torch under torchrun, Horovod if another launcher promised ranks, else one
    process without either. latency_bound: many small collectives wait one after the other
    (SyncBatchNorm). may_share_gpus: two ranks on one GPU are no error. Raises InputError when the
    ranks that came are not those that were promised, or there is not a GPU for each.
    """
    promised = launch.promised()
    backend = options.backend
    if backend == "auto":
        by_torchrun = promised is not None and promised.launcher == "torchrun"
        backend = "torch" if by_torchrun else "horovod" if promised else "single"
    on_cpu = device == "cpu" or torch.cuda.device_count() == 0
    comm: Comm
    if backend == "single":
        if promised and promised.size > 1:
            raise InputError(launch.lonely_message(promised, "comm.backend is single"))
        comm = SingleComm()
    elif backend == "torch":
        from hvd_yolo.comm.torch_distributed import TorchComm

        # NCCL refuses two ranks on one GPU.
        is_shared = may_share_gpus and promised is not None and promised.launcher == "torchrun"
        by_gloo = on_cpu or (is_shared and torch.cuda.device_count() < launch.torchrun_place()[1])
        comm = TorchComm(promised, by_gloo, latency_bound, options)
    else:
        from hvd_yolo.comm.horovod import HorovodComm

        comm = HorovodComm(promised, on_cpu, latency_bound, options)
    with agree(comm):
        num_gpus = torch.cuda.device_count()
        comm.device = launch.choose_device(device, comm.local_rank, comm.local_size, num_gpus)
    if comm.device.type == "cuda":
        torch.cuda.set_device(comm.device)
    else:
        comm.settings |= allocator.keep_freed_memory()
    places = gather_json(comm, launch.place(comm.device))
    if not may_share_gpus:
        launch.refuse_shared_gpus(places)
    if latency_bound and comm.name == "horovod":
        _open_stream_group(comm, places)
    comm.own_cpus = launch.cpus_of_rank(comm.rank, places)
    torch.set_num_threads(launch.threads_per_rank(comm.own_cpus))
    return comm


def _open_stream_group(comm: "HorovodComm", places: Sequence[launch.Place]) -> None:
    """Gives SyncBatchNorm NCCL of its own where all ranks can have it."""
    if comm.size == 1 or not stream_group.has_own_gpus(places):
        return
    has_nccl = stream_group.is_supported(comm.is_elastic)
    store, place = stream_group.host_store(comm.size) if comm.is_main and has_nccl else (None, None)
    place = gather_json(comm, place)[0]
    if has_nccl and place and not comm.is_main:
        store = stream_group.join_store(place, comm.size)
    if all(gather_json(comm, store is not None)):
        comm.open_stream_group(store)


def average(tensors: Sequence[Tensor], comm: Comm) -> None:
    """Replaces each tensor, all of one dtype, by its mean over ranks: one collective."""
    if comm.size == 1 or not tensors:
        return
    mean = comm.mean(torch.cat([tensor.flatten() for tensor in tensors]))
    for tensor, part in zip(tensors, mean.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


def send_to_main(comm: Comm, tensor: Tensor) -> list[Tensor]:
    """Every rank's tensor, in the order of ranks, on rank 0, and empty ones elsewhere; first
    dimensions may differ."""
    return comm.exchange([tensor, *[tensor[:0]] * (comm.size - 1)])


def broadcast_bytes(comm: Comm, content: bytes | None, root: int = 0) -> bytes:
    """The bytes of rank `root` on every rank; what the others give is not looked at."""
    length = len(content) if comm.rank == root and content is not None else 0
    length = int(comm.broadcast(torch.tensor([length]), root))
    if comm.rank == root:
        buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    else:
        buffer = torch.empty(length, dtype=torch.uint8)
    return comm.broadcast(buffer, root).numpy().tobytes()


def gather_json(comm: Comm, value: Any) -> list[Any]:  # noqa: ANN401 (whatever json can hold)
    """Every rank's value (anything JSON holds), in the order of ranks, on every rank."""
    encoded = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8).copy()
    return [json.loads(part.numpy().tobytes()) for part in comm.gather(torch.from_numpy(encoded))]


@contextmanager
def agree(comm: Comm) -> Iterator[None]:
    """Inside, an InputError on any rank becomes the same InputError on all of them.

    Every rank enters and leaves; so a file that one host alone cannot see ends the whole job with
    one message, where it would otherwise leave the other ranks waiting. The inside must hold no
    collective.
    """
    error = None
    try:
        yield
    except InputError as caught:
        error = caught
    messages = gather_json(comm, str(error) if error else None)
    faults = [(rank, text) for rank, text in enumerate(messages) if text is not None]
    if faults:
        rank, text = faults[0]
        everywhere = len(faults) == comm.size
        raise InputError(text if everywhere else f"on rank {rank}: {text}") from error


def log(comm: Comm) -> logging.Logger:
    """The logger of this rank, named so that a line tells where it comes from."""
    return logging.getLogger(f"hvd_yolo.rank{comm.rank}" if comm.size > 1 else "hvd_yolo")
