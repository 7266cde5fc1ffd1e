import json
import platform
from pathlib import Path

import pytest

from tests.conftest import run_job

PROGRAM = str(Path(__file__).parent / "programs" / "page_faults.py")


def connect_and_count(**environment):
    done = run_job(1, [PROGRAM], **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_used_again_without_the_kernel():
    found = connect_and_count()
    assert found["settings"] == {"M_MMAP_MAX": "0", "M_TRIM_THRESHOLD": "-1"}
    assert found["faults"] < 100


@pytest.mark.parametrize(
    "environment",
    [
        {"MALLOC_TOP_PAD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"},
        {"LD_PRELOAD": "libjemalloc.so.2"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_a_malloc_that_the_user_chose_is_left_alone(environment):
    found = connect_and_count(**environment)
    assert found["settings"] == {}
    # 64 MB are 32 pages of 2 MB or 16384 of 4 kB, ten times.
    assert found["faults"] >= 320
