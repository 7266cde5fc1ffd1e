"""The twin over torch.distributed, under torchrun: Gloo on the CPU, NCCL on GPUs, no Horovod."""

import atexit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hvd_yolo.comm import launch, traffic
from hvd_yolo.comm.buckets import Wait
from hvd_yolo.comm.compression import make_reducer
from hvd_yolo.config import CommConfig, Sharing
from hvd_yolo.errors import InputError, OptionError


class TorchComm:
    """A rank of a torch.distributed job. See Comm for what the methods promise."""

    name = "torch"
    # torchrun starts all ranks anew, from the last checkpoint.
    is_elastic = False
    has_news = False

    def __init__(
        self,
        promised: launch.Launch | None,
        on_cpu: bool,
        latency_bound: bool,
        options: CommConfig,
    ) -> None:
        if promised and promised.launcher != "torchrun":
            raise OptionError(
                f"comm.backend is torch, but {promised.launcher} started this: start it with "
                "`torchrun --nproc-per-node N -m hvd_yolo.train`, or leave comm.backend out"
            )
        if promised is None:
            raise OptionError(
                "comm.backend is torch, but nothing launched this: start it with `torchrun "
                "--nproc-per-node N -m hvd_yolo.train`"
            )
        if options.hierarchical or options.timeline:
            raise OptionError("comm.hierarchical and comm.timeline are Horovod's; leave them out")
        if options.op == "adasum":
            raise OptionError("comm.op adasum: torch.distributed has none; use Horovod over MPI")
        self.local_rank, self.local_size = launch.torchrun_place()
        engine = "gloo" if on_cpu else "cpu:gloo,cuda:nccl"
        timeout = launch.collective_timeout(options.stall_timeout)
        self.settings = {
            "torch.distributed": engine,
            "torch.distributed.timeout": f"{timeout.total_seconds():g}",
        }
        # Two groups of NCCL must not be at work at once where their order differs by rank, as that
        # of gradients and SyncBatchNorm may.
        self._is_eager = on_cpu or not latency_bound
        dist.init_process_group(engine, timeout=timeout)
        atexit.register(self._end)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = torch.device("cpu")
        self.own_cpus = 1
        self._engine = _Engine(self.size, adds_bfloat16=not on_cpu)

    def _end(self) -> None:
        """Gloo's threads end with the last reference to their group. Those that live into the end
        of the interpreter, with a tensor of the last sum in hand, abort the process. Where a sum is
        still under way, at the end of a rank that failed, they would be waited for in vain."""
        if not self._engine.num_under_way:
            self._engine.group = None
        dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """True on rank 0."""
        return self.rank == 0

    @property
    def sent_bytes(self) -> int:
        """What the engine has counted."""
        return self._engine.sent_bytes

    def distribute(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        passes: int,
        options: CommConfig,
        kept: Mapping[str, Tensor],
    ) -> torch.optim.Optimizer:
        """The optimizer itself; hooks on the parameters send their gradients."""
        self._reducer = make_reducer(self._engine, model, passes, options, kept)
        self._reducer.is_eager = self._is_eager
        return optimizer

    def share_gradients(self, sharing: Sharing) -> None:
        """Passed on to the reducer."""
        self._reducer.sharing = sharing

    @contextmanager
    def reduced_gradients(
        self, optimizer: torch.optim.Optimizer, beside: Callable[[], Tensor]
    ) -> Iterator[Tensor]:
        """Waits for the sums."""
        yield self._reducer.finish(beside)

    def rescale_unsent(self, factor: Tensor) -> None:
        """Passed on to the reducer."""
        self._reducer.rescale(factor)

    def settle_compression(self) -> dict[str, Tensor]:
        """Of all buckets."""
        return self._reducer.settle()

    def adasum(self, tensors: Sequence[Tensor]) -> None:
        """Refused: Horovod alone has it."""
        raise InputError("torch.distributed has no Adasum; use Horovod over MPI")

    def sum(self, tensor: Tensor) -> Tensor:
        """dist.all_reduce."""
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    def stream_sum(self, tensor: Tensor) -> Tensor:
        """dist.all_reduce, in place."""
        dist.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """The sum over ranks divided by their number."""
        return self.sum(tensor) / self.size

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """dist.all_gather of parts padded to the longest."""
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(tensor)
        lengths = self.sum(lengths).tolist()
        padded = tensor.new_zeros((max(lengths), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        if padded.numel():
            dist.all_gather(parts, padded)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def exchange(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """dist.all_to_all_single with split sizes, of bytes: Gloo does not know every type."""
        lengths = torch.zeros(self.size, self.size, dtype=torch.int64)
        lengths[self.rank] = torch.tensor([len(part) for part in parts])
        lengths = self.sum(lengths)
        joined = torch.cat(list(parts))
        received = joined.new_empty((int(lengths[:, self.rank].sum()), *joined.shape[1:]))
        row_bytes = joined[:1].new_empty((1, *joined.shape[1:])).nbytes
        given, taken = lengths[self.rank].tolist(), lengths[:, self.rank].tolist()
        dist.all_to_all_single(
            received.view(torch.uint8).view(-1), joined.view(torch.uint8).view(-1),
            [row_bytes * n for n in taken], [row_bytes * n for n in given],
        )  # fmt: skip
        return list(received.split(taken))

    def broadcast(self, tensor: Tensor, root: int = 0) -> Tensor:
        """dist.broadcast."""
        received = tensor.clone(memory_format=torch.contiguous_format)
        if received.numel():
            dist.broadcast(received, root)
        return received

    def barrier(self) -> None:
        """A sum on the CPU, which waits for nothing on a GPU."""
        self.sum(torch.zeros(1))


class _Engine:
    """Collectives in a process group of their own: those of SyncBatchNorm come in between, on each
    rank at another place."""

    def __init__(self, size: int, adds_bfloat16: bool) -> None:
        self.size = size
        self.adds_bfloat16 = adds_bfloat16
        self.sent_bytes = 0
        self.num_under_way = 0
        self.group = dist.new_group()

    def start_sum(self, tensor: Tensor, name: str) -> Wait:
        """dist.all_reduce."""
        self.sent_bytes += round(traffic.sum_bytes(tensor.nbytes, self.size))
        work = dist.all_reduce(tensor, group=self.group, async_op=True)
        return self._begun(work, tensor)

    def start_gather(self, tensor: Tensor, name: str) -> Wait:
        """dist.all_gather_into_tensor, of bytes: Gloo does not know every type."""
        self.sent_bytes += round(traffic.gather_bytes(tensor.nbytes, self.size))
        joined = tensor.new_empty(self.size * len(tensor))
        work = dist.all_gather_into_tensor(
            joined.view(torch.uint8), tensor.view(torch.uint8), group=self.group, async_op=True
        )
        return self._begun(work, joined.view(self.size, -1))

    def start_exchange(self, tensor: Tensor, name: str) -> Wait:
        """dist.all_to_all_single, of bytes."""
        self.sent_bytes += round(traffic.exchange_bytes(tensor.nbytes, self.size))
        parts = torch.empty_like(tensor)
        work = dist.all_to_all_single(
            parts.view(torch.uint8), tensor.view(torch.uint8), group=self.group, async_op=True
        )
        return self._begun(work, parts.view(self.size, -1))

    def _begun(self, work: dist.Work, result: Tensor) -> Wait:
        self.num_under_way += 1
        return partial(self._finished, work, result)

    def _finished(self, work: dist.Work, result: Tensor) -> Tensor:
        work.wait()
        self.num_under_way -= 1
        return result
