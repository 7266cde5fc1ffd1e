"""The Slurm templates, as they are, in a real Slurm of two nodes: a job whose time ends, or whose
nodes a job of a higher priority takes, saves, is queued again and comes to the same weights."""

import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import hosts
from tests.cluster.test_resume import lines
from tests.cluster.test_stopping import check_same_end
from tests.conftest import REPOSITORY, needs_mpi, train

SCRIPT = str(Path(__file__).with_name("slurmlab.sh"))
ABSENT = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name)]
MISSING = hosts.missing() or (f"Slurm needs {', '.join(ABSENT)}" if ABSENT else "")

pytestmark = [needs_mpi, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

# What nodes of this lab have.
RESOURCES = (
    "--nodes=2",
    "--ntasks-per-node=1",
    "--cpus-per-task=1",
    "--gpus-per-node=0",
    "--time=10",
)
OPTIONS = (
    "--data", "shapes:36", "--imgsz", "64", "--global_batch", "9", "--report.every", "1",
    "--eval.every", "0", "--checkpoint.every_updates", "50", "--train.sync_bn", "true",
    "--report.plots", "false",
)  # fmt: skip


@contextmanager
def slurm(folder):
    """A Slurm; gives what runs a command on its controller."""
    with hosts.made(3, folder / "lab") as lab:
        files = folder / "slurm"
        environment = {**lab.environment, "SLAB": str(files)}
        subprocess.run([SCRIPT, "up"], check=True, env=environment)

        def run(*command):
            known = {"SLURM_CONF": str(files / "slurm.conf"), "HOROVOD_CYCLE_TIME": "1"}
            done = lab.run("node3", ["timeout", "60", *command], **known)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        try:
            yield run
        finally:
            subprocess.run([SCRIPT, "down"], check=False, env=environment)


def submitted(run, folder, template, updates, *flags):
    """The number of a job of the template."""
    output = ("--output", str(folder / "run"), "--max_updates", str(updates), "--epochs", "100000")
    script = str(REPOSITORY / "hostfiles" / "slurm" / template)
    log = f"--output={folder}/log"
    return run("sbatch", "--parsable", *RESOURCES, log, *flags, script, *OPTIONS, *output).strip()


def said(folder):
    file = folder / "log"
    return file.read_text()[-5000:] if file.exists() else ""


def wait_until(condition, run, folder, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, said(folder) + run("squeue", "--all")
        time.sleep(0.2)


def check_same_end_as_undisturbed(folder, updates):
    undisturbed = folder / "undisturbed"
    train(2, undisturbed, *OPTIONS, "--max_updates", str(updates), "--epochs", "100000")
    check_same_end(folder / "run", undisturbed)


def updates_of(folder):
    return [line["step"] for line in lines(folder / "run") if line["kind"] == "train"]


@pytest.mark.long
def test_a_job_whose_time_ends_is_queued_again_and_ends_the_same(tmp_path):
    """Slurm counts its time in minutes."""
    with slurm(tmp_path) as run:
        flags = ("--time=1", "--signal=B:USR1@45")
        job = submitted(run, tmp_path, "train.sbatch", 150, *flags)
        wait_until(lambda: "the same command goes on" in said(tmp_path), run, tmp_path, 90)
        made = len(updates_of(tmp_path))
        run("scontrol", "update", f"JobId={job}", "TimeLimit=10")
        wait_until(lambda: f"update {made + 2}/" in said(tmp_path), run, tmp_path, 180)
        assert "goes on after update" in said(tmp_path)
        wait_until(lambda: "done: 150" in said(tmp_path), run, tmp_path, 240)
    check_same_end_as_undisturbed(tmp_path, 150)


def test_a_job_that_is_preempted_is_queued_again_and_ends_the_same(tmp_path):
    with slurm(tmp_path) as run:
        submitted(run, tmp_path, "train_mpirun.sbatch", 60)
        wait_until(lambda: len(updates_of(tmp_path)) >= 5, run, tmp_path, 90)
        high = ("--partition=high", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=4")
        run("sbatch", *high, "--output=/dev/null", "--wrap=sleep 5")
        wait_until(lambda: "saved; the same command" in said(tmp_path), run, tmp_path, 60)
        wait_until(lambda: "done: 60" in said(tmp_path), run, tmp_path, 240)
    check_same_end_as_undisturbed(tmp_path, 60)


@pytest.mark.long
def test_the_elastic_template_ends_the_same(tmp_path):
    with slurm(tmp_path) as run:
        submitted(run, tmp_path, "train_elastic.sbatch", 20)
        wait_until(lambda: "done: 20" in said(tmp_path), run, tmp_path, 120)
        wait_until(lambda: not run("squeue", "--noheader").strip(), run, tmp_path, 30)
    assert "restart" not in said(tmp_path)
    check_same_end_as_undisturbed(tmp_path, 20)


@pytest.mark.long
def test_launch_in_an_allocation_takes_its_tasks(tmp_path):
    line = "python -m hvd_yolo.launch --slurm -- train --max_updates 12 --epochs 100000"
    words = " ".join([line, *OPTIONS, "--output", str(tmp_path / "run")])
    path = f"PATH={Path(sys.executable).parent}:$PATH"
    with slurm(tmp_path) as run:
        log = f"--output={tmp_path}/log"
        run("sbatch", *RESOURCES, log, f"--chdir={REPOSITORY}", f"--wrap={path} {words}")
        wait_until(lambda: "done: 12" in said(tmp_path), run, tmp_path, 120)
    assert said(tmp_path).startswith("srun --mpi=pmix --kill-on-bad-exit=1 ")
    check_same_end_as_undisturbed(tmp_path, 12)
