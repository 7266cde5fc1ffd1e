"""A run that is asked to stop loses nothing: signals to one rank, the clock, in any phase."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from hvd_yolo import checkpoint
from hvd_yolo.comm import launch
from hvd_yolo.stopping import StopRequest
from tests.cluster.test_resume import compare, kill_when, lines, start, trained_to, without_times
from tests.conftest import REPOSITORY, command_for, job_environment, needs_mpi, train

# SyncBatchNorm: statistics of each rank's own are put together at a checkpoint, and a stop makes
# one more of these.
OPTIONS = (
    "--data", "shapes:36", "--imgsz", "64", "--epochs", "3", "--global_batch", "9",
    "--train.sync_bn", "true", "--optim.warmup_epochs", "1", "--report.every", "1",
    "--eval.every", "3",
)  # fmt: skip
STOPPED = 75


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(2, folder, *OPTIONS)
    return folder


def ranks_of(job):
    """The training processes of a job, in the order of their ranks."""
    found = {}
    for process in psutil.Process(job.pid).children(recursive=True):
        try:
            launched, words = launch.promised(process.environ()), process.cmdline()[:4]
        except psutil.Error:
            # It has just ended.
            continue
        if launched is not None and "hvd_yolo.train" in words:
            found[launched.rank] = process
    return [found[rank] for rank in sorted(found)]


def wait_until(condition, job, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, "the job ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(job, family, seconds):
    """The exit code of a job that is over, and nothing of it alive, within so many seconds."""
    code = job.wait(seconds)
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive
    return code


def check_same_end(folder, undisturbed):
    assert without_times(folder) == without_times(undisturbed)
    found, expected = (
        checkpoint.load(run / "checkpoints" / "last.pt")["training"]
        for run in (folder, undisturbed)
    )
    compare(found, expected)


@needs_mpi
@pytest.mark.parametrize(
    ("launcher", "number", "rank"),
    [
        ("mpirun", signal.SIGTERM, 1),
        pytest.param("mpirun", signal.SIGUSR1, 0, marks=pytest.mark.long),
        ("gloo", signal.SIGUSR2, 1),
        pytest.param("torchrun", signal.SIGINT, 1, marks=pytest.mark.long),
    ],
)
def test_a_signal_to_one_rank_stops_all_and_loses_nothing(
    undisturbed, tmp_path, launcher, number, rank
):
    if launcher == "torchrun":
        undisturbed = tmp_path / "undisturbed"
        train(2, undisturbed, *OPTIONS, launcher=launcher)
    folder = tmp_path / "stopped"
    job = start(folder, 2, *OPTIONS, launcher=launcher)
    wait_until(lambda: trained_to(5)(lines(folder)), job)
    ranks = ranks_of(job)
    family = [*psutil.Process(job.pid).children(recursive=True)]
    ranks[rank].send_signal(number)
    # Only Open MPI passes a rank's exit code on.
    assert ended(job, family, 60) == (STOPPED if launcher == "mpirun" else 1)
    told = lines(folder)
    assert told[-1]["event"] == "stopped"
    assert told[-1]["reason"] == f"{number.name} on rank {rank}"
    saved = checkpoint.load(folder / "checkpoints" / "last.pt")["training"]
    assert 5 <= saved["updates"] == told[-1]["step"] < 12
    train(2, folder, *OPTIONS, launcher=launcher)
    check_same_end(folder, undisturbed)


@needs_mpi
def test_a_stop_in_the_evaluation_saves_what_was_trained(undisturbed, tmp_path):
    folder = tmp_path / "stopped"
    job = start(folder, 2, *OPTIONS)
    wait_until(lambda: len(ranks_of(job)) == 2, job)
    main = ranks_of(job)[0]
    family = [*psutil.Process(job.pid).children(recursive=True)]
    wait_until(lambda: trained_to(12)(lines(folder)), job)
    main.send_signal(signal.SIGTERM)
    assert ended(job, family, 60) == STOPPED
    assert all(line["kind"] == "train" for line in lines(folder))
    saved = checkpoint.load(folder / "checkpoints" / "last.pt")["training"]
    assert (saved["updates"], saved["is_evaluation_due"]) == (12, True)
    train(2, folder, *OPTIONS)
    check_same_end(folder, undisturbed)


@needs_mpi
def test_while_a_cache_is_made_there_is_nothing_to_save(tmp_path):
    folder = tmp_path / "run"
    options = ("--data", "shapes:5000", "--imgsz", "320", "--loader.cache", "ram")
    job = start(folder, 2, *OPTIONS, *options)
    wait_until((folder / "metrics.jsonl").is_file, job)
    family = [*psutil.Process(job.pid).children(recursive=True)]
    ranks_of(job)[1].send_signal(signal.SIGUSR1)
    assert ended(job, family, 30) == STOPPED
    assert not lines(folder)
    assert not list(Path(f"/dev/shm/hvd_yolo-{os.getuid()}").glob("ram-*"))


@needs_mpi
def test_a_second_signal_ends_a_rank_that_waits_for_another(tmp_path):
    folder = tmp_path / "run"
    job = start(folder, 2, *OPTIONS, "--epochs", "100")
    wait_until(lambda: trained_to(3)(lines(folder)), job)
    ranks = ranks_of(job)
    family = [*psutil.Process(job.pid).children(recursive=True)]
    ranks[1].suspend()
    time.sleep(1)
    ranks[0].send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert ranks[0].is_running()
    ranks[0].send_signal(signal.SIGTERM)
    ranks[0].wait(5)
    ranks[1].resume()
    assert ended(job, family, 30) == 128 + signal.SIGTERM


def test_the_clock_stops_a_run_as_a_signal_does(tmp_path):
    command = ["-m", "hvd_yolo.train", "--output", str(tmp_path / "run"), *OPTIONS, "--epochs",
               "10000", "--max_hours", "0.002"]  # fmt: skip
    done = subprocess.run(
        command_for(1, command), cwd=REPOSITORY, env=job_environment(), capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == STOPPED
    assert "stopped by --max_hours 0.002 on rank 0 after update" in done.stderr
    saved = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["training"]
    assert saved["updates"] == lines(tmp_path / "run")[-1]["step"] > 0


@needs_mpi
def test_a_checkpoint_each_so_many_minutes(undisturbed, tmp_path):
    """Two a second; a kill at the end of the first epoch's updates loses less than that."""
    folder = tmp_path / "run"
    job = start(folder, 2, *OPTIONS, "--checkpoint.every_minutes", "0.001")
    last = folder / "checkpoints" / "last.pt"
    wait_until(last.is_file, job)
    assert checkpoint.load(last)["training"]["updates"] < 4
    kill_when(folder, job, trained_to(7))
    train(2, folder, *OPTIONS)
    check_same_end(folder, undisturbed)


@needs_mpi
@pytest.mark.parametrize("launcher", ["--mpi", "--gloo"])
def test_ranks_end_with_their_launcher(tmp_path, launcher):
    """Killed, horovodrun leaves them alone, and its mpirun with them."""
    folder = tmp_path / "run"
    arguments = ["-m", "hvd_yolo.train", "--output", str(folder), *OPTIONS, "--epochs", "1000"]
    command = command_for(2, arguments, "gloo")
    command[command.index("--gloo")] = launcher
    environment = job_environment(
        OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        OMPI_MCA_rmaps_base_oversubscribe="1",
    )  # fmt: skip
    job = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: trained_to(2)(lines(folder)), job)
    family = psutil.Process(job.pid).children(recursive=True)
    job.kill()
    job.wait()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive
    if launcher == "--mpi":
        # Without mpirun between, ranks may also end at a line of progress that nobody takes.
        assert lines(folder)[-1]["reason"].startswith("the end of the launcher")


def test_nothing_catches_signals_when_the_run_is_over():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGUSR1)
        deadline = time.monotonic() + 5
        while not stop.reason and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stop.reason == "SIGUSR1"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
