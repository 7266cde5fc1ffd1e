"""Horovod's and torch.distributed's CPU collectives on the pretend device's memory."""

import functools
import importlib.abc
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from tests.pretend_cuda.extension import extension


def install() -> None:
    """NCCL of torch.distributed becomes Gloo; Horovod's CUDA functions become its CPU functions
    when it is imported."""
    import torch.distributed as dist

    original = dist.init_process_group

    @functools.wraps(original)
    def init_process_group(backend: str | None = None, *args: Any, **options: Any) -> None:
        if backend:
            backend = backend.replace("nccl", "gloo")
        # Gloo binds no process to a device.
        options.pop("device_id", None)
        original(backend, *args, **options)

    dist.init_process_group = init_process_group
    # PRETEND_CUDA_NCCL=0: a torch without NCCL.
    dist.is_nccl_available = lambda: os.environ.get("PRETEND_CUDA_NCCL") != "0"
    dist.ProcessGroupNCCL = _GroupOverGloo
    sys.meta_path.insert(0, _HorovodFinder())


class _GroupOverGloo:
    """The part of torch.distributed.ProcessGroupNCCL that sums."""

    def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
        import torch.distributed as dist

        self._group = dist.ProcessGroupGloo(store, rank, size, timeout)

    def allreduce(self, tensors: list[Any]) -> Any:
        """Begun when it returns; wait() of the result waits for it."""
        as_cpu = extension().as_cpu
        return self._group.allreduce([as_cpu(tensor) for tensor in tensors])


class _HorovodFinder(importlib.abc.MetaPathFinder):
    """Wraps the library that horovod.torch.mpi_ops calls, once it is imported."""

    NAME = "horovod.torch.mpi_ops"

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            module.mpi_lib = _HorovodLibrary(module.mpi_lib)

        spec.loader.exec_module = exec_module
        return spec


class _HorovodLibrary:
    """Horovod's CPU library for tensors of the pretend device; whatever has no tensor is its."""

    def __init__(self, library: Any) -> None:
        self._library = library
        # By handle: the device's tensors and the CPU's on the same memory, alive until waited for.
        self._arguments: dict[int, list[tuple[Any, Any]]] = {}

    def horovod_torch_wait_and_clear(self, handle: int) -> None:
        """Outputs whose size Horovod found out (a gather) are resized here."""
        self._library.horovod_torch_wait_and_clear(handle)
        as_cpu = extension().as_cpu
        for own, cpu in self._arguments.pop(handle, []):
            if own.shape != cpu.shape:
                own.resize_(cpu.shape)
                as_cpu(own).copy_(cpu)

    def __getattr__(self, name: str) -> Any:
        if "torch_cuda_" not in name:
            return getattr(self._library, name)
        function = getattr(self._library, name.replace("torch_cuda_", "torch_"))

        def call(*arguments: Any) -> int:
            pairs: list[tuple[Any, Any]] = []
            handle = function(*(_on_cpu(argument, pairs) for argument in arguments))
            self._arguments[handle] = pairs
            return handle

        return call


def _on_cpu(argument: Any, pairs: list[tuple[Any, Any]]) -> Any:
    import torch

    if isinstance(argument, (list, tuple)):
        return type(argument)(_on_cpu(inner, pairs) for inner in argument)
    if isinstance(argument, torch.Tensor) and argument.is_cuda:
        pairs.append((argument, extension().as_cpu(argument)))
        return pairs[-1][1]
    return argument
