"""The C library's malloc, set for a rank that computes on the CPU."""

import ctypes
import os
import platform

# glibc's malloc.h: the parameters of mallopt() by number, and the value that fits a training step.
_SETTINGS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}


def keep_freed_memory() -> dict[str, str]:
    """Lets malloc keep what torch frees, and returns what was set, for the run's records.

    glibc maps every block above 32 MB from the kernel and gives it back when freed: each activation
    of each step is then zeroed and mapped page by page, which can take longer than the arithmetic.
    Empty where it was left alone: another C library, another malloc, or settings of the user's own.
    """
    if platform.libc_ver()[0] != "glibc" or _is_users_own():
        return {}
    mallopt = ctypes.CDLL(None).mallopt
    return {
        name: str(value) for name, (number, value) in _SETTINGS.items() if mallopt(number, value)
    }


def _is_users_own() -> bool:
    """Whether the environment speaks of malloc: MALLOC_ variables, glibc's tunables, or a preloaded
    jemalloc, tcmalloc or the like."""
    spoken = any(name.startswith("MALLOC_") for name in os.environ)
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return spoken or tuned or "malloc" in os.environ.get("LD_PRELOAD", "")
