import os

import pytest
import torch

from hvd_yolo.comm import launch
from hvd_yolo.errors import InputError
from tests.conftest import needs_mpi, run_job

VARIABLES = [name for row in launch._VARIABLES for name in row[1:]]


@pytest.fixture(autouse=True)
def nothing_launched(monkeypatch):
    for name in [*VARIABLES, "OMP_NUM_THREADS"]:
        monkeypatch.delenv(name, raising=False)


def test_nothing_promised_without_a_launcher():
    assert launch.promised() is None
    assert launch.launched_rank() == 0


def test_mpirun_inside_slurm_is_mpirun(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "8")
    assert launch.promised() == ("mpirun (Open MPI)", 3, 8)


def test_torchrun_inside_slurm_is_torchrun(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert launch.promised() == ("torchrun", 3, 8)
    with pytest.raises(InputError, match="start each node with `torchrun"):
        launch.torchrun_place()
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert launch.torchrun_place() == (1, 2)


def test_a_rank_takes_the_gpu_of_its_local_rank():
    assert launch.choose_device("auto", 2, 4, 8) == torch.device("cuda", 2)
    # Slurm and mpirun may show each rank one GPU only.
    assert launch.choose_device("cuda", 3, 4, 1) == torch.device("cuda", 0)
    assert launch.choose_device("auto", 0, 1, 0) == torch.device("cpu")
    assert launch.choose_device("cpu", 0, 1, 8) == torch.device("cpu")


def test_more_local_ranks_than_gpus_are_refused():
    with pytest.raises(InputError, match=r"4 ranks on .* but only 2 GPUs"):
        launch.choose_device("cuda", 2, 4, 2)
    with pytest.raises(InputError, match="torch sees no GPU"):
        launch.choose_device("cuda", 0, 1, 0)


def test_two_ranks_on_one_gpu_are_refused():
    def places(*gpus):
        return [{"host": "node1", "cpus": [0], "gpu": gpu} for gpu in gpus]

    launch.refuse_shared_gpus(places("a", "b"))
    launch.refuse_shared_gpus(places("", ""))
    with pytest.raises(InputError, match="ranks 0 and 2 both compute on GPU a of node1"):
        launch.refuse_shared_gpus(places("a", "b", "a"))


@pytest.mark.parametrize(
    ("bound", "own"),
    [
        # mpirun --bind-to none and horovodrun; srun, with CPUs for each task; mpirun's default of a
        # socket for several; two ranks of three on one core.
        ([range(16)] * 4, [4, 4, 4, 4]),
        ([range(4), range(4, 8), range(8, 16)], [4, 4, 8]),
        ([range(8), range(8), range(8, 16), range(8, 16)], [4, 4, 4, 4]),
        ([[0], [0], [1]], [1, 1, 1]),
    ],
)
def test_cpus_are_divided_among_the_ranks_that_are_bound_to_them(monkeypatch, bound, own):
    monkeypatch.setattr(launch, "_quota", lambda: float("inf"))
    places = [{"host": "node1", "cpus": [*cpus], "gpu": ""} for cpus in bound]
    elsewhere = {"host": "node2", "cpus": [*range(16)], "gpu": ""}
    found = [launch.cpus_of_rank(rank, [*places, elsewhere]) for rank in range(len(places))]
    assert found == own
    monkeypatch.setattr(launch, "_quota", lambda: 2.0 * len(places))
    assert max(launch.cpus_of_rank(rank, places) for rank in range(len(places))) <= 2


def test_threads_and_workers_come_from_the_cpus_there_are(monkeypatch):
    cpus = len(os.sched_getaffinity(0))
    assert 1 <= launch.cpus() <= cpus
    assert launch.cpus_of_rank(0, [launch.place(torch.device("cpu"))]) == launch.cpus()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch.threads_per_rank(3) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert launch.threads_per_rank(1) == 7
    assert launch.loader_workers(5, 2, torch.device("cpu")) == 5
    assert launch.loader_workers(-1, 1, torch.device("cpu")) == 0
    assert launch.loader_workers(-1, 1, torch.device("cuda")) == 0
    assert launch.loader_workers(-1, 4, torch.device("cuda")) == 3
    assert launch.loader_workers(-1, 64, torch.device("cuda")) == 63


@needs_mpi
def test_lonely_processes_are_refused_with_the_remedy():
    """Two real ranks of mpirun whose Horovods do not see each other: each would train alone."""
    arguments = ["-m", "hvd_yolo.train", "--data", "shapes:8", "--output", "never-written"]
    lonely = {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo"}
    done = run_job(2, arguments, **lonely)
    assert done.returncode == 2
    told = done.stdout + done.stderr
    assert told.count("promised 2 ranks, but Horovod sees 1") == 1
    assert "Remedy: Horovod must be built with the MPI that this mpirun belongs to" in told
    assert "Traceback" not in told


def test_horovod_under_torchrun_is_refused_with_the_remedy():
    arguments = ["-m", "hvd_yolo.train", "--data", "shapes:8", "--output", "never-written"]
    done = run_job(1, [*arguments, "--comm.backend", "horovod"], RANK="0", WORLD_SIZE="2")
    assert done.returncode == 2
    assert "leave comm.backend out, and torch.distributed does" in done.stderr
    assert "horovodrun -np N --gloo" in done.stderr


@needs_mpi
def test_torch_under_another_launcher_is_refused_with_the_remedy():
    arguments = ["-m", "hvd_yolo.train", "--comm.backend", "torch", "--output", "never-written"]
    for num_ranks in (1, 2):
        done = run_job(num_ranks, arguments)
        told = done.stdout + done.stderr
        assert done.returncode == 2
        assert told.count("start it with `torchrun --nproc-per-node N -m hvd_yolo.train`") == 1


@needs_mpi
def test_cuda_without_a_gpu_is_refused_on_one_voice():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    arguments = ["-m", "hvd_yolo.train", "--device", "cuda", "--output", "never-written"]
    done = run_job(2, arguments)
    told = done.stdout + done.stderr
    assert done.returncode == 2
    assert told.count("device is cuda, but torch sees no GPU") == 1
    assert "Traceback" not in told
