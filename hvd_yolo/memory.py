"""How much memory a rank may still take, and how much a piece of work takes at its height."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from hvd_yolo.errors import InputError

_PROC = Path("/proc/self")


class MemoryMeter:
    """The memory of the device that this process computes on, in bytes beyond what it held when the
    meter was made.

    available: what it may take, an equal part of what is free for each of `num_sharing` processes
    that use the device or, on the CPU, the host.
    """

    def __init__(self, device: torch.device, num_sharing: int) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.empty_cache()
            self._start = torch.cuda.memory_reserved(device)
            self.available = torch.cuda.mem_get_info(device)[0] // num_sharing
        else:
            self._start = _status("VmRSS")
            self.available = free_on_host() // num_sharing

    def peak(self, work: Callable[[], None]) -> int:
        """The most that was in use while `work` ran; raises what it raises."""
        self._forget_peak()
        work()
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device) - self._start
        return _status("VmHWM") - self._start

    def _forget_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            # 5 sets the peak of resident memory back to what is resident now: man 5 proc.
            (_PROC / "clear_refs").write_text("5")
        except OSError as error:
            raise InputError(
                f"batch_size -1: this system does not let a process measure its memory ({error}); "
                "give batch_size a number"
            ) from error


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return _status("VmRSS")


def virtual_size() -> int:
    """Bytes of address space that this process has mapped, which RLIMIT_AS limits."""
    return _status("VmSize")


def _status(key: str) -> int:
    """An entry of /proc/self/status, in bytes."""
    return _kilobytes((_PROC / "status").read_text(), key)


def _kilobytes(text: str, key: str) -> int:
    """`key: N kB` of a file of /proc, in bytes."""
    line = next(line for line in text.splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def free_on_host() -> int:
    """What the kernel could give without swapping, and no cgroup on the way to this process
    forbids."""
    free = _kilobytes(Path("/proc/meminfo").read_text(), "MemAvailable")
    memberships = (_PROC / "cgroup").read_text()
    return min([free, *_left_in_cgroups(memberships, Path("/sys/fs/cgroup"))])


def _left_in_cgroups(memberships: str, root: Path) -> Iterator[int]:
    """The bytes that each cgroup with a limit has left, from the text of /proc/self/cgroup.

    A limit may sit on any level above the process (Slurm puts it on the job), and a container sees
    its own group as the root. The page cache counts as used, but what of it is inactive goes when
    memory is asked for.
    """
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top) and (folder / names[0]).is_file():
                yield from _left_in_cgroup(folder, *names)


def _left_in_cgroup(
    folder: Path, limit_file: str, usage_file: str, cache_key: str
) -> Iterator[int]:
    limit = (folder / limit_file).read_text().strip()
    if limit != "max":
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text().splitlines()
        )
        used = int((folder / usage_file).read_text()) - int(statistics[cache_key])
        yield max(0, int(limit) - used)
