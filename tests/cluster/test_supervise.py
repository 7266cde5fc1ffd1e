"""A supervised job ends as if nothing had happened, whatever is killed, and leaves nothing
behind."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.cluster.test_resume import lines, trained_to
from tests.cluster.test_stopping import (
    OPTIONS,
    STOPPED,
    check_same_end,
    ranks_of,
    undisturbed,
    wait_until,
)
from tests.conftest import REPOSITORY, command_for, job_environment, needs_mpi

__all__ = ["undisturbed"]

# The same over the other launcher.
LONG = pytest.mark.long


def supervised(folder, *options, launcher="mpirun", flags=("--backoff", "0.5")):
    arguments = ["-m", "hvd_yolo.train", "--output", str(folder), *options]
    return [
        sys.executable, "-m", "hvd_yolo.supervise", *flags, "--",
        *command_for(2, arguments, launcher),
    ]  # fmt: skip


def start(command):
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=job_environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def all_below(job):
    return psutil.Process(job.pid).children(recursive=True)


def ranks_when(condition, job, folder):
    """The ranks, once metrics.jsonl fulfils the condition and all of them are there."""
    wait_until(lambda: condition(lines(folder)) and len(ranks_of(job)) == 2, job)
    return ranks_of(job)


def launcher_of(job):
    return psutil.Process(job.pid).children()[0]


@needs_mpi
@pytest.mark.parametrize("launcher", [pytest.param("mpirun", marks=LONG), "gloo"])
def test_a_rank_and_a_launcher_are_killed_and_the_run_ends_bitwise_the_same(
    undisturbed, tmp_path, launcher
):
    folder = tmp_path / "run"
    options = (*OPTIONS, "--checkpoint.every_updates", "2")
    job = start(supervised(folder, *options, launcher=launcher))
    ranks_when(trained_to(3), job, folder)[1].kill()
    wait_until(lambda: not trained_to(3)(lines(folder)) or len(ranks_of(job)) < 2, job)
    first = ranks_when(trained_to(7), job, folder)
    launcher_of(job).kill()
    psutil.wait_procs(first, timeout=15)
    assert not any(rank.is_running() for rank in first)
    out, err = job.communicate(timeout=240)
    assert job.returncode == 0, out + err
    assert "restart 1 of 10 in 0.5 s" in err
    assert "restart 2 of 10 in 1 s" in err
    # The undisturbed run has other checkpoints, of which nothing is left to see.
    check_same_end(folder, undisturbed)


@needs_mpi
def test_a_job_that_is_refused_is_not_started_again(tmp_path):
    command = supervised(tmp_path / "run", "--data", str(tmp_path / "nowhere"), launcher="gloo")
    job = start(command)
    out, err = job.communicate(timeout=120)
    assert job.returncode == 2, out + err
    assert "restart" not in err


@needs_mpi
@pytest.mark.parametrize("launcher", ["mpirun", pytest.param("gloo", marks=LONG)])
def test_a_signal_to_the_supervisor_saves_and_stops(undisturbed, tmp_path, launcher):
    folder = tmp_path / "run"
    job = start(supervised(folder, *OPTIONS, launcher=launcher))
    ranks_when(trained_to(5), job, folder)
    family = all_below(job)
    job.send_signal(signal.SIGTERM)
    out, err = job.communicate(timeout=60)
    assert job.returncode == STOPPED, out + err
    psutil.wait_procs(family, timeout=1)
    assert not any(process.is_running() for process in family)
    assert lines(folder)[-1]["event"] == "stopped"
    again = start(supervised(folder, *OPTIONS, launcher=launcher))
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0, out + err
    check_same_end(folder, undisturbed)


@needs_mpi
def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path):
    folder = tmp_path / "run"
    job = start(supervised(folder, *OPTIONS, "--epochs", "1000", launcher="gloo"))
    ranks_when(trained_to(2), job, folder)
    family = all_below(job)
    job.kill()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive
    job.communicate(timeout=5)


def test_a_job_that_always_fails_is_given_up():
    started = time.monotonic()
    command = [sys.executable, "-c", "raise SystemExit(7)", "--output"]
    flags = ("--max_restarts", "2", "--backoff", "0.1")
    done = subprocess.run(
        [sys.executable, "-m", "hvd_yolo.supervise", *flags, "--", *command], cwd=REPOSITORY,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("ended with code 7") == 3
    assert "was restarted 2 times and is given up" in done.stderr
    assert time.monotonic() - started > 0.3


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["python", "-m", "hvd_yolo.train"], "name the job after --"),
        (["--", "python", "-m", "hvd_yolo.train"], "names no --output"),
        (["--", "no-such-launcher", "--output", "x"], "no-such-launcher cannot be started"),
        (["--retries", "3", "--", "mpirun", "--output", "x"], "retries"),
    ],
)
def test_what_cannot_be_supervised_is_refused(command, message):
    done = subprocess.run(
        [sys.executable, "-m", "hvd_yolo.supervise", *command], cwd=REPOSITORY,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
