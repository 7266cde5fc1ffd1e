"""The launcher's line for few and for many ranks on this machine, as --dry_run prints it."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, job_environment, needs_mpi


def dry_run(num_ranks, *words, path=None, **changes):
    command = [sys.executable, "-m", "hvd_yolo.launch", "--local", str(num_ranks), "--dry_run"]
    environment = job_environment(**changes)
    if path is not None:
        environment["PATH"] = path
    done = subprocess.run(
        [*command, *words, "--", "train", "--data", "shapes:8"],
        capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_gloo_is_given_time_by_the_number_of_ranks():
    few, _ = dry_run(4)
    assert "horovodrun -np 4" in few
    assert "--gloo-timeout-seconds" not in few
    many, _ = dry_run(48)
    assert "horovodrun -np 48" in many
    assert "--gloo-timeout-seconds 96" in many


def test_a_gloo_timeout_of_the_users_own_stays():
    line, _ = dry_run(48, HOROVOD_GLOO_TIMEOUT_SECONDS="500")
    assert "--gloo-timeout-seconds" not in line


@needs_mpi
def test_many_ranks_are_started_by_mpirun():
    line, reason = dry_run(64)
    assert line.startswith("mpirun -np 64")
    assert "launcher: mpirun, for Gloo connects all 2,016 pairs of 64 ranks" in reason
    line, _ = dry_run(64, "--launcher", "horovodrun")
    assert "--gloo-timeout-seconds 128" in line


def test_many_ranks_without_mpirun_are_started_by_horovodrun_with_a_remedy(tmp_path):
    if os.path.exists(os.path.join(os.path.dirname(sys.executable), "mpirun")):
        pytest.skip("this Python has an mpirun of its own")
    line, reason = dry_run(64, path=str(tmp_path))
    assert "--gloo-timeout-seconds 128" in line
    assert "apt-get install openmpi-bin" in reason
