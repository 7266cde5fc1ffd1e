"""The twin that trains on many machines: Horovod over MPI, Gloo or NCCL."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hvd_yolo.comm import launch
from hvd_yolo.comm.single import zero_missing_gradients
from hvd_yolo.errors import InputError

# One message holds at most so many bytes: MPI counts elements in 32 bits.
_LARGEST_MESSAGE = 1 << 30


class HorovodComm:
    """A rank among hvd.size(). See Comm for what the methods promise.

    Horovod fuses tensors by the moment they arrive, and with that the order of a sum and its last
    bits change from run to run. Gradients therefore go in fixed groups that are never fused with
    one another: the same bits each time, and fewer rounds of Horovod's background thread.
    """

    name = "horovod"

    def __init__(self, promised: launch.Launch | None, on_cpu: bool, latency_bound: bool) -> None:
        self.settings = _choose_settings(on_cpu, latency_bound)
        try:
            import horovod.torch as hvd
        except ImportError as error:
            raise InputError(
                f"Horovod cannot be imported ({error}): `make setup` builds it for the torch that "
                f"is installed"
            ) from error
        hvd.init()
        self._hvd = hvd
        self._passes = 1
        self._passes_made: dict[Tensor, int] = {}
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()
        if promised and promised.size != self.size:
            raise InputError(launch.lonely_message(promised, f"Horovod sees {self.size}"))
        self.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """True on rank 0."""
        return self.rank == 0

    def distribute(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, passes: int, groups: int
    ) -> torch.optim.Optimizer:
        """hvd.DistributedOptimizer that sums, with the state of `optimizer`."""
        trained = [p for p in model.parameters() if p.requires_grad]
        self._passes = passes
        self._passes_made = dict.fromkeys(trained, 0)
        if self.size > 1:
            for p in trained:
                p.register_post_accumulate_grad_hook(self._count_pass)
        distributed = self._hvd.DistributedOptimizer(
            optimizer,
            named_parameters=model.named_parameters(),
            op=self._hvd.Sum,
            compression=_InPlace,
            backward_passes_per_step=passes,
            groups=_equal_groups(trained, groups),
        )
        distributed.load_state_dict(optimizer.state_dict())
        return distributed

    @contextmanager
    def reduced_gradients(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Waits for the sums; passes this rank did not make count as zeros."""
        if self.size > 1:
            self._make_missing_passes()
        else:
            zero_missing_gradients(optimizer)
        optimizer.synchronize()
        with optimizer.skip_synchronize():
            yield

    def sum(self, tensor: Tensor) -> Tensor:
        """hvd.allreduce with op=Sum."""
        return self._hvd.allreduce(tensor.contiguous(), op=self._hvd.Sum)

    def mean(self, tensor: Tensor) -> Tensor:
        """The sum over ranks divided by their number."""
        return self.sum(tensor) / self.size

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """hvd.allgather, taken apart again."""
        lengths = self._hvd.allgather(torch.tensor([len(tensor)])).tolist()
        joined = self._hvd.allgather(tensor.contiguous())
        return list(joined.split(lengths))

    def broadcast(self, tensor: Tensor, root: int = 0) -> Tensor:
        """hvd.broadcast, in pieces that MPI can count."""
        received = tensor.clone(memory_format=torch.contiguous_format)
        flat = received.view(-1)
        piece = _LARGEST_MESSAGE // tensor.element_size()
        for start in range(0, flat.numel(), piece):
            self._hvd.broadcast_(flat[start : start + piece], root)
        return received

    def barrier(self) -> None:
        """hvd.barrier."""
        self._hvd.barrier()

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


class _InPlace:
    """A Horovod compressor that changes nothing but the view: Horovod refuses channels_last
    gradients.

    A gradient has its parameter's strides on every rank, so its memory is the same dense run of
    numbers everywhere; that run is summed in place.
    """

    @staticmethod
    def compress(tensor: Tensor) -> tuple[Tensor, Tensor]:
        """The memory of the tensor as one dimension, and the tensor itself."""
        return tensor.as_strided((tensor.numel(),), (1,)), tensor

    @staticmethod
    def decompress(_: Tensor, original: Tensor) -> Tensor:
        """The tensor, whose memory now holds the sum."""
        return original


def _equal_groups(parameters: list[Tensor], count: int) -> list[list[Tensor]]:
    """The parameters, in the order given, in at most `count` runs of about equal bytes."""
    share = sum(p.numel() for p in parameters) / count
    groups: list[list[Tensor]] = [[]]
    filled = 0
    for p in parameters:
        if filled >= share * len(groups) and len(groups) < count:
            groups.append([])
        groups[-1].append(p)
        filled += p.numel()
    return groups


def _choose_settings(on_cpu: bool, latency_bound: bool) -> dict[str, str]:
    """Sets what Horovod and Open MPI read at start, unless the user did, and returns what is in
    force."""
    chosen = {"HOROVOD_DISABLE_GROUP_FUSION": "1"}
    if on_cpu:
        # Ranks compute on the cores that Horovod's background thread polls from. Under MPI the poll
        # can yield and stay quick; under Gloo it cannot, and is made rare. Where many small
        # collectives follow one another each poll is a wait, and must be quick in any case.
        by_gloo = os.environ.get("HOROVOD_CONTROLLER") == "gloo"
        chosen["HOROVOD_CYCLE_TIME"] = "25" if by_gloo and not latency_bound else "1"
        chosen["OMPI_MCA_mpi_yield_when_idle"] = "1"
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
    return {name: os.environ[name] for name in chosen}
