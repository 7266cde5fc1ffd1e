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


@pytest.mark.parametrize(("size", "launcher"), [(1, ""), (3, "torchrun")])
def test_statistics_of_other_norms_are_averaged(size, launcher):
    done = run_job(size, ["-m", "tests.comm.programs.other_norms"], launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees") == size


@pytest.mark.parametrize(
    ("backend", "launcher"),
    [
        pytest.param("horovod", "mpirun", marks=needs_mpi),
        ("horovod", "gloo"),
        ("torch", "torchrun"),
    ],
)
def test_compressed_gradients_keep_their_promises(backend, launcher):
    done = run_job(3, [str(PROGRAMS / "compression.py"), backend], launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("keeps its promises") == 3


@needs_mpi
def test_adasum_adds_what_is_orthogonal_and_averages_what_is_parallel():
    done = run_job(2, [str(PROGRAMS / "adasum.py")])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees") == 2


@pytest.mark.parametrize(
    ("size", "launcher", "remedy"),
    [
        (2, "gloo", "over MPI alone"),
        (2, "torchrun", "use Horovod over MPI"),
        pytest.param(3, "mpirun", "must be a power of two", marks=needs_mpi),
    ],
)
def test_adasum_where_there_is_none_is_refused(size, launcher, remedy, tmp_path):
    arguments = ["-m", "hvd_yolo.train", "--data", "shapes:8", "--imgsz", "32"]
    arguments += ["--comm.op", "adasum", "--output", str(tmp_path / "run")]
    done = run_job(size, arguments, launcher)
    told = done.stdout + done.stderr
    assert done.returncode != 0
    errors = [line for line in told.splitlines() if "hvd_yolo: error:" in line]
    assert len(errors) == 1
    assert remedy in errors[0]
    assert not (tmp_path / "run").exists()
