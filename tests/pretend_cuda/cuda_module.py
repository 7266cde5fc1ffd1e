"""Replaces what torch.cuda and torch._C do not have in a CPU build."""

import contextlib
import os
import types
import uuid
from collections.abc import Iterator
from typing import Any

from tests.pretend_cuda import counts
from tests.pretend_cuda.extension import extension

GIB = 1 << 30


def number_of_devices() -> int:
    """PRETEND_CUDA_DEVICES, by default 1."""
    return int(os.environ.get("PRETEND_CUDA_DEVICES", "1"))


def capability() -> tuple[int, int]:
    """PRETEND_CUDA_CAPABILITY, by default 9.0."""
    major, minor = os.environ.get("PRETEND_CUDA_CAPABILITY", "9.0").split(".")
    return int(major), int(minor)


def set_limits() -> None:
    """PRETEND_CUDA_MEMORY bytes of each device, PRETEND_CUDA_PINNED page-locked bytes."""
    ext = extension()
    ext.set_num_devices(number_of_devices())
    for i in range(number_of_devices()):
        ext.set_memory_limit(i, int(os.environ.get("PRETEND_CUDA_MEMORY", 8 * GIB)))
    if "PRETEND_CUDA_PINNED" in os.environ:
        ext.set_pinned_limit(int(os.environ["PRETEND_CUDA_PINNED"]))


def install() -> None:
    """Makes torch.cuda that of the pretend device."""
    import torch

    ext = extension()
    if not ext.has_hooks():
        raise ImportError("torch asked for CUDA before the pretend device was loaded")
    set_limits()
    number = number_of_devices()
    functions = _functions(torch, ext, number)
    for name, value in functions.items():
        setattr(torch.cuda, name, value)
    for module in (torch.cuda.random, torch.cuda.memory, torch.cuda.streams, torch.cuda.graphs):
        for name in set(functions) & set(vars(module)):
            setattr(module, name, functions[name])
    torch.version.cuda = "13.0"
    torch._C._cuda_getDeviceCount = lambda: number
    torch._C._cuda_getCurrentRawStream = ext.current_stream
    torch._C._cuda_emptyCache = ext.empty_cache
    _replace_storage(torch)


def _functions(torch: Any, ext: Any, number: int) -> dict[str, Any]:
    """By name in torch.cuda."""
    index = _index_of(torch, ext)
    return {
        "is_available": lambda: number > 0,
        "device_count": lambda: number,
        "init": lambda: None,
        "is_initialized": lambda: True,
        "is_current_stream_capturing": lambda: False,
        "_initialized": True,
        "_is_compiled": lambda: True,
        "_lazy_init": lambda: None,
        "_lazy_call": lambda call, **_: call(),
        "_is_in_bad_fork": lambda: False,
        "ipc_collect": lambda: None,
        **_device_functions(ext, index),
        **_stream_functions(torch, ext, index),
        **_memory_functions(ext, index),
        **_random_functions(torch, ext, index, number),
        **_runtime_functions(ext),
    }


def _index_of(torch: Any, ext: Any) -> Any:
    def index(device: Any = None) -> int:
        """An index from None, a number, a name, or a torch.device."""
        if device is None:
            return ext.current_device()
        if isinstance(device, int):
            return device if device >= 0 else ext.current_device()
        device = torch.device(device)
        if device.type != "cuda":
            raise ValueError(f"Expected a cuda device, but got: {device}")
        return ext.current_device() if device.index is None else device.index

    return index


def _device_functions(ext: Any, index: Any) -> dict[str, Any]:
    def properties(device: Any = None) -> types.SimpleNamespace:
        major, minor = capability()
        return types.SimpleNamespace(
            name="Pretend GPU", major=major, minor=minor, warp_size=32, multi_processor_count=1,
            total_memory=ext.memory(index(device))["limit"], gcnArchName="",
            uuid=uuid.UUID(int=0xFA5E + index(device)),
        )  # fmt: skip

    def set_device(device: Any) -> None:
        if index(device) >= 0:
            ext.set_device(index(device))

    def exchange_device(new: int) -> int:
        before = ext.current_device()
        if new >= 0:
            ext.set_device(new)
        return before

    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or capability()[0] >= 8

    def set_sync_debug_mode(debug_mode: int | str) -> None:
        names = {"default": 0, "warn": 1, "error": 2}
        counts.debug_mode[0] = names[debug_mode] if isinstance(debug_mode, str) else debug_mode

    return {
        "current_device": ext.current_device,
        "set_device": set_device,
        "_exchange_device": exchange_device,
        "_maybe_exchange_device": exchange_device,
        "get_device_properties": properties,
        "get_device_name": lambda device=None: properties(device).name,
        "get_device_capability": lambda device=None: capability(),
        "get_arch_list": lambda: ["sm_{}{}".format(*capability())],
        "is_bf16_supported": is_bf16_supported,
        "is_tf32_supported": lambda: capability()[0] >= 8,
        "set_sync_debug_mode": set_sync_debug_mode,
        "get_sync_debug_mode": lambda: counts.debug_mode[0],
        "synchronize": lambda device=None: ext.synchronize(index(device)),
        "can_device_access_peer": lambda device, peer: True,
        "utilization": lambda device=None: 0,
    }


def _stream_functions(torch: Any, ext: Any, index: Any) -> dict[str, Any]:
    cuda_type = 1  # c10::DeviceType::CUDA

    class Event(torch.Event):
        """As torch.cuda.Event."""

        def __new__(
            cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
        ) -> "Event":
            return super().__new__(cls, device="cuda", enable_timing=enable_timing)

        def record(self, stream: Any = None) -> None:
            super().record(current_stream() if stream is None else stream)

        def wait(self, stream: Any = None) -> None:
            super().wait(current_stream() if stream is None else stream)

        def elapsed_time(self, end_event: "Event") -> float:
            return ext.elapsed_ms(self, end_event)

    class Stream(torch.Stream):
        """As torch.cuda.Stream."""

        def __new__(cls, device: Any = None, priority: int = 0, **ids: int) -> "Stream":
            if ids:
                return super().__new__(cls, **ids)
            return super().__new__(cls, device=f"cuda:{index(device)}", priority=priority)

        def record_event(self, event: Any = None) -> Event:
            event = Event() if event is None else event
            event.record(self)
            return event

        @property
        def cuda_stream(self) -> int:
            return self.stream_id

    def stream_of(device: int, stream_id: int) -> Stream:
        return Stream(stream_id=stream_id, device_index=device, device_type=cuda_type)

    def current_stream(device: Any = None) -> Stream:
        return stream_of(index(device), ext.current_stream(index(device)))

    @contextlib.contextmanager
    def stream(stream: Stream | None) -> Iterator[None]:
        if stream is None:
            yield
            return
        device = ext.current_device()
        before = ext.exchange_stream(stream.device_index, stream.stream_id)
        ext.set_device(stream.device_index)
        try:
            yield
        finally:
            ext.exchange_stream(stream.device_index, before)
            ext.set_device(device)

    def set_stream(stream: Stream) -> None:
        ext.set_device(stream.device_index)
        ext.exchange_stream(stream.device_index, stream.stream_id)

    return {
        "Event": Event,
        "Stream": Stream,
        "stream": stream,
        "StreamContext": stream,
        "current_stream": current_stream,
        "default_stream": lambda device=None: stream_of(index(device), 0),
        "set_stream": set_stream,
    }


def _memory_functions(ext: Any, index: Any) -> dict[str, Any]:
    def free_and_total(device: Any = None) -> tuple[int, int]:
        account = ext.memory(index(device))
        return account["limit"] - account["reserved"], account["limit"]

    def stats(device: Any = None) -> dict[str, int]:
        account = ext.memory(index(device))
        return {
            "allocated_bytes.all.current": account["allocated"],
            "allocated_bytes.all.peak": account["peak_allocated"],
            "reserved_bytes.all.current": account["reserved"],
            "reserved_bytes.all.peak": account["peak_reserved"],
            "num_ooms": 0,
            "num_alloc_retries": 0,
        }

    def host_stats() -> dict[str, int]:
        pinned = ext.pinned_memory()
        return {
            "allocated_bytes.current": pinned["bytes"],
            "allocated_bytes.peak": pinned["peak_bytes"],
        }

    return {
        "empty_cache": ext.empty_cache,
        "memory_allocated": lambda device=None: ext.memory(index(device))["allocated"],
        "max_memory_allocated": lambda device=None: ext.memory(index(device))["peak_allocated"],
        "memory_reserved": lambda device=None: ext.memory(index(device))["reserved"],
        "max_memory_reserved": lambda device=None: ext.memory(index(device))["peak_reserved"],
        "reset_peak_memory_stats": lambda device=None: ext.reset_peak(index(device)),
        "reset_accumulated_memory_stats": lambda device=None: None,
        "memory_stats": stats,
        "host_memory_stats": host_stats,
        "mem_get_info": free_and_total,
    }


def _random_functions(torch: Any, ext: Any, index: Any, number: int) -> dict[str, Any]:
    generators = tuple(ext.generator(i) for i in range(number))

    def of_current_device() -> Any:
        return generators[ext.current_device()]

    def manual_seed(seed: int) -> None:
        of_current_device().manual_seed(int(seed))

    def seed() -> None:
        of_current_device().seed()

    def initial_seed() -> int:
        return of_current_device().initial_seed()

    def manual_seed_all(seed: int) -> None:
        for generator in generators:
            generator.manual_seed(int(seed))

    def seed_all() -> None:
        manual_seed_all(torch.seed())

    def set_all(states: Any) -> None:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

    return {
        "default_generators": generators,
        "manual_seed": manual_seed,
        "manual_seed_all": manual_seed_all,
        "seed": seed,
        "seed_all": seed_all,
        "initial_seed": initial_seed,
        "get_rng_state": lambda device="cuda": generators[index(device)].get_state(),
        "set_rng_state": lambda state, device="cuda": generators[index(device)].set_state(state),
        "get_rng_state_all": lambda: [generator.get_state() for generator in generators],
        "set_rng_state_all": set_all,
    }


class _CudaRuntime:
    """The functions of torch.cuda.cudart()."""

    class cudaError(int):
        """A status."""

        success = 0

    def __init__(self, ext: Any) -> None:
        self._ext = ext

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> int:
        return 0 if self._ext.pin(address, num_bytes) else 2  # cudaErrorMemoryAllocation

    def cudaHostUnregister(self, address: int) -> int:
        return 0 if self._ext.unpin(address) else 713  # cudaErrorHostMemoryNotRegistered

    def cudaMemGetInfo(self, device: int) -> tuple[int, int]:
        account = self._ext.memory(device)
        return account["limit"] - account["reserved"], account["limit"]

    def cudaGetErrorString(self, status: int) -> str:
        return {0: "no error", 2: "out of memory"}.get(status, f"error {status}")


def _runtime_functions(ext: Any) -> dict[str, Any]:
    runtime = _CudaRuntime(ext)

    def check_error(status: int) -> None:
        if status != 0:
            raise RuntimeError(f"{runtime.cudaGetErrorString(status)} ({status})")

    return {"cudart": lambda: runtime, "_cudart": runtime, "check_error": check_error}


def _replace_storage(torch: Any) -> None:
    """A CPU build's UntypedStorage refuses cuda, which torch.load and the like ask for."""
    original = torch.UntypedStorage.__new__

    def new(cls: Any, *args: Any, device: Any = None, **options: Any) -> Any:
        if device is None:
            return original(cls, *args, **options)
        if torch.device(device).type == "cuda":
            size = args[0] if args else 0
            return torch.empty(size, dtype=torch.uint8, device=device).untyped_storage()
        return original(cls, *args, device=device, **options)

    torch.UntypedStorage.__new__ = staticmethod(new)
    torch.UntypedStorage.__init__ = lambda self, *args, **options: None
