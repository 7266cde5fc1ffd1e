"""The twins, on real ranks: one program of promises for all of them."""

from pathlib import Path

import pytest

from tests.conftest import needs_mpi, run_job

PROGRAMS = Path(__file__).parent / "programs"


@pytest.mark.parametrize(
    ("backend", "size", "launcher"),
    [
        ("single", 1, ""),
        ("horovod", 1, ""),
        pytest.param("horovod", 3, "mpirun", marks=needs_mpi),
        ("horovod", 3, "gloo"),
        ("torch", 1, "torchrun"),
        ("torch", 3, "torchrun"),
    ],
)
def test_conformance(backend, size, launcher):
    done = run_job(size, [str(PROGRAMS / "conformance.py"), backend, str(size)], launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("conforms") == size


@pytest.mark.parametrize(("size", "launcher"), [(1, ""), (3, "gloo"), (3, "torchrun")])
def test_sync_batch_norm_is_batch_norm_of_the_joined_batch(size, launcher):
    done = run_job(size, [str(PROGRAMS / "sync_batch_norm.py")], launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees") == size
