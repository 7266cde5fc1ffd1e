"""The twin that trains on many machines: Horovod over MPI, Gloo or NCCL."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hvd_yolo.comm import elastic, launch, stream_group, traffic
from hvd_yolo.comm.buckets import Reducer, Wait, equal_runs, in_memory_order, start_beside
from hvd_yolo.comm.compression import make_reducer
from hvd_yolo.comm.horovod_settings import choose_settings
from hvd_yolo.comm.single import zero_missing_gradients
from hvd_yolo.comm.views import InHalf, InPlace
from hvd_yolo.config import CommConfig, Sharing
from hvd_yolo.errors import InputError, OptionError

# One message holds at most so many bytes: MPI counts elements in 32 bits.
_LARGEST_MESSAGE = 1 << 30


class HorovodComm:
    """A rank among hvd.size(). See Comm for what the methods promise.

    Horovod fuses tensors by the moment they arrive, and with that the order of a sum and its last
    bits change from run to run. Gradients therefore go in fixed groups that are never fused with
    one another: the same bits each time, and fewer rounds of Horovod's background thread.

    Plain sums, in float32 or float16, are hvd.DistributedOptimizer's. What it cannot do goes
    through a Reducer: compressions that are not one sum, and updates without any.
    """

    name = "horovod"

    def __init__(
        self,
        promised: launch.Launch | None,
        on_cpu: bool,
        latency_bound: bool,
        options: CommConfig,
    ) -> None:
        try:
            import horovod.torch as hvd
        except ImportError as error:
            raise InputError(
                f"Horovod cannot be imported ({error}): `make setup` builds it for the torch that "
                f"is installed"
            ) from error
        has_nccl = not on_cpu and bool(hvd.nccl_built())
        self.settings = choose_settings(on_cpu, has_nccl, latency_bound, options)
        elastic.begin(hvd)
        if options.hierarchical and (on_cpu or not (hvd.nccl_built() and hvd.mpi_enabled())):
            raise OptionError(
                "comm.hierarchical: Horovod sums within a host first with NCCL under mpirun alone; "
                "on the CPU, over Gloo, or in a build without NCCL (`make setup GPU=1` has it), "
                "leave it out"
            )
        self._hvd = hvd
        self._engine = _Engine(hvd)
        self._reducer: Reducer | None = None
        self._stream_group: Any = None
        self._timeout = launch.collective_timeout(options.stall_timeout)
        self._optimizer_bytes = 0
        self._passes = 1
        self._passes_made: dict[Tensor, int] = {}
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()
        self.is_elastic = launch.is_elastic()
        if promised and promised.size != self.size and not self.is_elastic:
            raise InputError(launch.lonely_message(promised, f"Horovod sees {self.size}"))
        if options.op == "adasum":
            self._check_adasum()
        self.device = torch.device("cpu")
        self.own_cpus = 1

    @property
    def is_main(self) -> bool:
        """True on rank 0."""
        return self.rank == 0

    @property
    def has_news(self) -> bool:
        """What the launcher has told."""
        return elastic.NEWS.have_come

    @property
    def sent_bytes(self) -> int:
        """What the engine has counted, hvd.DistributedOptimizer's sums among it."""
        return self._engine.sent_bytes

    def distribute(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        passes: int,
        options: CommConfig,
        kept: Mapping[str, Tensor],
    ) -> torch.optim.Optimizer:
        """hvd.DistributedOptimizer that sums, with the state of `optimizer`; or `optimizer` itself,
        for what that cannot do."""
        is_a_sum = options.compression in ("none", "fp16") and options.shares_every_update
        self._reducer = None
        is_beside_nccl = self._stream_group is not None
        if self.size > 1 and (is_beside_nccl or not is_a_sum):
            self._reducer = make_reducer(self._engine, model, passes, options, kept)
            # See stream_group: one communicator of NCCL at a time.
            self._reducer.is_eager = not is_beside_nccl
            return optimizer
        trained = [p for p in model.parameters() if p.requires_grad]
        self._passes = passes
        self._passes_made = dict.fromkeys(trained, 0)
        if self.size > 1:
            for p in trained:
                p.register_post_accumulate_grad_hook(self._count_pass)
        num_bytes = sum(p.nbytes for p in trained)
        if options.compression == "fp16":
            num_bytes = 2 * sum(p.numel() for p in trained)
        self._optimizer_bytes = round(traffic.sum_bytes(num_bytes, self.size))
        distributed = self._hvd.DistributedOptimizer(
            optimizer,
            named_parameters=model.named_parameters(),
            op=self._hvd.Sum,
            compression=InHalf if options.compression == "fp16" else InPlace,
            backward_passes_per_step=passes,
            groups=equal_runs(trained, [p.numel() for p in trained], options.groups),
        )
        distributed.load_state_dict(optimizer.state_dict())
        return distributed

    def share_gradients(self, sharing: Sharing) -> None:
        """Passed on to the reducer; hvd.DistributedOptimizer always shares."""
        if self._reducer is not None:
            self._reducer.sharing = sharing

    @contextmanager
    def reduced_gradients(
        self, optimizer: torch.optim.Optimizer, beside: Callable[[], Tensor]
    ) -> Iterator[Tensor]:
        """Waits for the sums; passes this rank did not make count as zeros."""
        if self._reducer is not None:
            yield self._reducer.finish(beside)
            return
        if self.size > 1:
            self._make_missing_passes()
            self._engine.sent_bytes += self._optimizer_bytes
            wait = start_beside(self._engine, beside())
        else:
            zero_missing_gradients(optimizer)
            wait = beside
        optimizer.synchronize()
        total = wait()
        with optimizer.skip_synchronize():
            yield total

    def rescale_unsent(self, factor: Tensor) -> None:
        """Passed on to the reducer; plain sums keep nothing."""
        if self._reducer is not None:
            self._reducer.rescale(factor)

    def settle_compression(self) -> dict[str, Tensor]:
        """Of all buckets; plain sums keep nothing."""
        return {} if self._reducer is None else self._reducer.settle()

    def adasum(self, tensors: Sequence[Tensor]) -> None:
        """hvd.grouped_allreduce with op=Adasum, of copies on the CPU: between the GPUs of a host
        Horovod would average. One group, for what is fused by timing has no fixed order."""
        copies = [in_memory_order(x).cpu() for x in tensors]
        self._hvd.grouped_allreduce_(copies, name="adasum", op=self._hvd.Adasum)
        for x, copy in zip(tensors, copies, strict=True):
            in_memory_order(x).copy_(copy)

    def sum(self, tensor: Tensor) -> Tensor:
        """hvd.allreduce with op=Sum."""
        return self._hvd.allreduce(tensor.contiguous(), name=_name("sum", tensor), op=self._hvd.Sum)

    def open_stream_group(self, store: dist.Store) -> None:
        """Sums of SyncBatchNorm go through NCCL of torch's from here on. Every rank calls it."""
        self._stream_group = stream_group.open_group(store, self.rank, self.size, self._timeout)
        self.settings["train.sync_bn"] = "torch's NCCL"

    def stream_sum(self, tensor: Tensor) -> Tensor:
        """The stream's own group where there is one, else sum()."""
        if self._stream_group is None:
            return self.sum(tensor)
        self._stream_group.allreduce([tensor]).wait()
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """The sum over ranks divided by their number."""
        return self.sum(tensor) / self.size

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """hvd.allgather, taken apart again."""
        lengths = self._hvd.allgather(torch.tensor([len(tensor)]), name="lengths")
        joined = self._hvd.allgather(tensor.contiguous(), name=_name("gather", tensor[:0]))
        return list(joined.split(lengths.tolist()))

    def exchange(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """hvd.alltoall with splits."""
        splits = torch.tensor([len(part) for part in parts], dtype=torch.int32)
        name = _name("exchange", parts[0][:0])
        joined, lengths = self._hvd.alltoall(torch.cat(list(parts)), splits, name=name)
        return list(joined.split(lengths.tolist()))

    def broadcast(self, tensor: Tensor, root: int = 0) -> Tensor:
        """hvd.broadcast, in pieces that MPI can count."""
        received = tensor.clone(memory_format=torch.contiguous_format)
        flat = received.view(-1)
        piece = _LARGEST_MESSAGE // tensor.element_size()
        for start in range(0, flat.numel(), piece):
            part = flat[start : start + piece]
            self._hvd.broadcast_(part, root, name=_name(f"broadcast from {root}", part))
        return received

    def barrier(self) -> None:
        """hvd.barrier."""
        self._hvd.barrier()

    def _check_adasum(self) -> None:
        if not self._hvd.mpi_enabled():
            raise OptionError(
                "comm.op adasum: Horovod has Adasum over MPI alone; start with mpirun or "
                "`horovodrun --mpi`"
            )
        if self.size & (self.size - 1):
            raise OptionError(
                f"comm.op adasum: Horovod adds up pairs of pairs, so the {self.size} ranks must be "
                "a power of two"
            )

    def _count_pass(self, p: Tensor) -> None:
        self._passes_made[p] += 1

    def _make_missing_passes(self) -> None:
        """Back-propagates zeros into every parameter that a pass did not reach.

        A group is sent when each of its gradients has appeared once per pass. A rank with fewer
        micro-batches than the others, with none at all, or with a branch its images did not use,
        would never send it.
        """
        while behind := [p for p, made in self._passes_made.items() if made < self._passes]:
            torch.autograd.backward(behind, [torch.zeros_like(p) for p in behind])
        self._passes_made = dict.fromkeys(self._passes_made, 0)


class _Engine:
    """Horovod's collectives by name. A sum is a group of its own, for groups are not fused."""

    adds_bfloat16 = False

    def __init__(self, hvd: ModuleType) -> None:
        self._hvd = hvd
        self.size = hvd.size()
        self.sent_bytes = 0

    def start_sum(self, tensor: Tensor, name: str) -> Wait:
        """hvd.grouped_allreduce_async_ of one tensor."""
        self.sent_bytes += round(traffic.sum_bytes(tensor.nbytes, self.size))
        handle = self._hvd.grouped_allreduce_async_([tensor], name=name, op=self._hvd.Sum)
        return lambda: self._hvd.synchronize(handle)[0]

    def start_gather(self, tensor: Tensor, name: str) -> Wait:
        """hvd.allgather_async."""
        self.sent_bytes += round(traffic.gather_bytes(tensor.nbytes, self.size))
        handle = self._hvd.allgather_async(tensor, name=name)
        return lambda: self._hvd.synchronize(handle).view(self.size, -1)

    def start_exchange(self, tensor: Tensor, name: str) -> Wait:
        """hvd.alltoall_async."""
        self.sent_bytes += round(traffic.exchange_bytes(tensor.nbytes, self.size))
        handle = self._hvd.alltoall_async(tensor, name=name)
        return lambda: self._hvd.synchronize(handle)[0].view(self.size, -1)


def _name(what: str, tensor: Tensor) -> str:
    """The same for collectives that are alike, of which each ends before the next one begins.

    Horovod agrees faster on what it has seen. Those without a name it would count from the start of
    the process, so that ranks which came later would speak of others.
    """
    return f"{what}: {list(tensor.shape)} {tensor.dtype}"
