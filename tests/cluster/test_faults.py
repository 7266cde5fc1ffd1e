"""A job in which a rank goes wrong says which, and ends or goes on."""

import os
import re
import signal
import socket
import subprocess
import time

import psutil
import pytest

from hvd_yolo import checkpoint
from tests.cluster.test_resume import lines, start, trained_to
from tests.cluster.test_stopping import ranks_of, wait_until
from tests.conftest import REPOSITORY, command_for, job_environment, needs_mpi

OPTIONS = (
    "--data", "shapes:36", "--imgsz", "64", "--epochs", "1000", "--global_batch", "9",
    "--report.every", "1", "--eval.every", "0", "--comm.stall_timeout", "4",
)  # fmt: skip


# The same over the other controller.
LONG = pytest.mark.long
OVER_BOTH = pytest.mark.parametrize("launcher", ["mpirun", pytest.param("gloo", marks=LONG)])


def faulty(folder, fault, rank, launcher, *options):
    arguments = ["-m", "tests.cluster.programs.faulty", fault, str(rank), "--output", str(folder)]
    return subprocess.Popen(
        command_for(2, [*arguments, *OPTIONS, *options], launcher), cwd=REPOSITORY,
        env=job_environment(), start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@needs_mpi
@pytest.mark.parametrize(
    ("launcher", "fault", "rank", "kind", "said"),
    [
        ("mpirun", "stop", 1, "silent", "rank 1 on {host} has given no sign of life for"),
        pytest.param(
            *("gloo", "stop", 1, "silent", "rank 1 on {host} has given no sign of life for"),
            marks=LONG,
        ),
        ("mpirun", "sleep", 1, "late", "rank 1 on {host} has been in"),
        ("gloo", "sleep", 0, "late", "rank 0 on {host} has been in"),
        ("mpirun", "skip", 1, "different", "rank 1 on {host} waits in the sum of gradients"),
        pytest.param(
            *("gloo", "skip", 1, "different", "rank 1 on {host} waits in the sum of gradients"),
            marks=LONG,
        ),
    ],
)
def test_who_stands_still_is_named_and_the_job_ends(tmp_path, launcher, fault, rank, kind, said):
    folder = tmp_path / "run"
    job = faulty(folder, fault, rank, launcher)
    wait_until(lambda: trained_to(5)(lines(folder)), job)
    family = psutil.Process(job.pid).children(recursive=True)
    started = time.monotonic()
    told, _ = job.communicate(timeout=60)
    # The timeout, 5 seconds, and what launchers take to end the others.
    assert time.monotonic() - started < 4 + 5 + 10
    assert job.returncode != 0
    host = socket.gethostname()
    assert told.count(said.format(host=host)) >= 1, told
    # What the supervisor would take for a config that no restart can mend.
    assert "hvd_yolo: error:" not in told
    if fault == "sleep":
        assert "programs/faulty.py" in told
        assert "in sleep" in told
    event = lines(folder)[-1]
    assert (event["kind"], event["event"]) == ("event", kind)
    assert said.format(host=host) in event["reason"]
    psutil.wait_procs(family, timeout=15)
    assert not any(process.is_running() for process in family)


@needs_mpi
def test_a_rank_0_that_lets_no_thread_run_is_named_by_the_others(tmp_path):
    job = faulty(tmp_path / "run", "gil", 0, "mpirun")
    wait_until(lambda: trained_to(5)(lines(tmp_path / "run")), job)
    told, _ = job.communicate(timeout=4 + 5 + 10)
    assert job.returncode != 0
    host = socket.gethostname()
    assert f"watchdog: rank 0 on {host} has given no sign of life to rank 1 on {host}" in told


@needs_mpi
@OVER_BOTH
def test_a_rank_that_raises_says_which_it_is(tmp_path, launcher):
    job = faulty(tmp_path / "run", "fail", 1, launcher)
    told, _ = job.communicate(timeout=60)
    assert job.returncode == 1
    assert f"hvd_yolo: rank 1 on {socket.gethostname()} failed:" in told
    assert "ValueError: planted" in told


@needs_mpi
@OVER_BOTH
def test_a_loss_that_is_no_number_is_left_out_and_named(tmp_path, launcher):
    folder = tmp_path / "run"
    job = faulty(folder, "nan", 1, launcher, "--max_updates", "8")
    told, _ = job.communicate(timeout=120)
    assert job.returncode == 0, told
    events = [line for line in lines(folder) if line["kind"] == "event"]
    assert [(event["event"], event["step"]) for event in events] == [("not finite", 6)]
    assert "rank 1, images [" in events[0]["reason"]
    assert "rank 0" not in events[0]["reason"]
    saved = checkpoint.load(folder / "checkpoints" / "last.pt")
    assert all(bool(x.isfinite().all()) for x in saved["training"]["model"].values())
    norms = [line["grad_norm"] for line in lines(folder) if line["kind"] == "train"]
    assert [norm == "nan" for norm in norms] == [step == 6 for step in range(1, 9)]


@needs_mpi
def test_local_updates_that_are_no_numbers_for_ever_are_an_error_on_all_ranks(tmp_path):
    """And no stop on request, after which a job is started again."""
    options = ("--train.max_bad_updates", "2", "--comm.sync_every", "2", "--comm.warmup", "0")
    job = faulty(tmp_path / "run", "nan for ever", 1, "mpirun", *options)
    told, _ = job.communicate(timeout=120)
    assert job.returncode == 2, told
    # Three, and those to the end of the round in which the ranks tell each other.
    assert re.search(r"hvd_yolo: error: rank 1: [345] updates in a row were left out", told), told


@needs_mpi
def test_losses_that_are_no_numbers_for_ever_stop_the_run(tmp_path):
    folder = tmp_path / "run"
    options = ("--train.max_bad_updates", "2", "--checkpoint.every_updates", "1")
    job = faulty(folder, "nan for ever", 0, "mpirun", *options)
    told, _ = job.communicate(timeout=120)
    assert job.returncode == 2, told
    assert "3 updates in a row were left out, train.max_bad_updates is 2" in told
    assert "(rank 0, images [" in told
    saved = checkpoint.load(folder / "checkpoints" / "last.pt")["training"]
    assert saved["updates"] == 7
    assert all(bool(x.isfinite().all()) for x in saved["model"].values())


@needs_mpi
def test_a_run_that_diverges_goes_back_and_on_with_the_images_that_follow(tmp_path):
    folder = tmp_path / "run"
    options = (
        "--train.max_bad_updates", "1", "--checkpoint.every_updates", "3", "--max_updates", "14",
        "--train.on_divergence", "rollback",
    )  # fmt: skip
    job = faulty(folder, "nan twice", 1, "mpirun", *options)
    told, _ = job.communicate(timeout=120)
    assert job.returncode == 0, told
    events = [line for line in lines(folder) if line["kind"] == "event"]
    assert [(event["event"], event["step"]) for event in events] == [
        ("not finite", 6), ("not finite", 7), ("rolled back", 7),
    ]  # fmt: skip
    assert "back to the weights after update 4" in events[-1]["reason"]
    saved = checkpoint.load(folder / "checkpoints" / "last.pt")["training"]
    assert (saved["updates"], saved["rollbacks"], saved["bad_updates"]) == (14, 1, 0)
    # 9 images an update, 36 an epoch: none was seen again.
    assert (saved["epoch"], saved["images_seen"]) == (3, 18)


@needs_mpi
def test_a_run_that_diverges_for_ever_is_given_up(tmp_path):
    folder = tmp_path / "run"
    options = (
        "--train.max_bad_updates", "0", "--checkpoint.every_updates", "1",
        "--train.on_divergence", "rollback",
    )  # fmt: skip
    job = faulty(folder, "nan for ever", 0, "mpirun", *options)
    told, _ = job.communicate(timeout=120)
    assert job.returncode == 2, told
    assert "the run has gone back 3 times" in told


@needs_mpi
def test_a_rank_that_is_slow_is_no_alarm(tmp_path):
    """Stopped again and again for less than the timeout, in training and at the end."""
    folder = tmp_path / "run"
    options = (*OPTIONS, "--max_updates", "12", "--eval.every", "1")
    job = start(folder, 2, *options)
    wait_until(lambda: trained_to(2)(lines(folder)), job)
    slow = ranks_of(job)[1]
    for _ in range(3):
        slow.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        slow.send_signal(signal.SIGCONT)
        time.sleep(0.3)
    assert job.wait(120) == 0
    assert all(line["kind"] != "event" for line in lines(folder))


@pytest.fixture
def own_disk(tmp_path):
    """A file system that can be frozen; thawed and gone afterwards."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system")
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(200 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, folder], check=False)
    if mounted.returncode:
        pytest.skip("needs loop devices")
    yield folder
    subprocess.run(["umount", folder], check=True)


@needs_mpi
@OVER_BOTH
def test_a_disk_that_does_not_answer_is_no_reason_to_wait_for_ever(own_disk, tmp_path, launcher):
    folder, log = own_disk / "run", tmp_path / "log"
    often = ("--checkpoint.every_updates", "3")
    arguments = ["-m", "hvd_yolo.train", "--output", str(folder), *OPTIONS, *often]
    with log.open("w") as out:
        job = subprocess.Popen(
            command_for(2, arguments, launcher), cwd=REPOSITORY, env=job_environment(),
            stdout=out, stderr=out,
        )  # fmt: skip
        try:
            wait_until(lambda: trained_to(5)(lines(folder)), job)
            subprocess.run(["fsfreeze", "--freeze", own_disk], check=True)
            wait_until(lambda: "watchdog: rank 0 on" in log.read_text(), job, 30)
        finally:
            # Nobody can end a process that waits for a disk.
            subprocess.run(["fsfreeze", "--unfreeze", own_disk], check=True)
        assert job.wait(30) != 0
    assert checkpoint.load(folder / "checkpoints" / "last.pt")["training"]["updates"] >= 3


@needs_mpi
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "rank 1 on {host} failed"),
        (signal.SIGSTOP, "rank 1 on {host} has been in loading images for an update"),
    ],
)
@OVER_BOTH
def test_a_loader_process_that_is_dead_or_stands_still(tmp_path, launcher, number, said):
    folder, log = tmp_path / "run", tmp_path / "log"
    with log.open("w") as out:
        arguments = ["-m", "hvd_yolo.train", "--output", str(folder), *OPTIONS, "--workers", "1"]
        job = subprocess.Popen(
            command_for(2, arguments, launcher), cwd=REPOSITORY, env=job_environment(),
            stdout=out, stderr=out,
        )  # fmt: skip
        wait_until(lambda: trained_to(5)(lines(folder)), job)
        (worker,) = ranks_of(job)[1].children()
        worker.send_signal(number)
        # The timeout, 5 seconds, and what launchers take to end the others.
        assert job.wait(4 + 5 + 10) != 0
    assert said.format(host=socket.gethostname()) in log.read_text()
    psutil.wait_procs([worker], timeout=5)
    assert not worker.is_running()


@needs_mpi
@pytest.mark.parametrize("launcher", ["mpirun", "gloo"])
def test_another_shape_on_one_rank(tmp_path, launcher):
    folder = tmp_path / "run"
    job = faulty(folder, "shape", 1, launcher)
    told, _ = job.communicate(timeout=120)
    assert job.returncode != 0
    assert f"rank 1 on {socket.gethostname()} waits in a sum of 3 numbers" in told
    assert lines(folder)[-1]["event"] == "different"


@needs_mpi
@pytest.mark.parametrize(("choice", "code"), [("stop", 2), ("go_on", 0)])
@OVER_BOTH
def test_a_disk_that_is_full(tmp_path, choice, code, launcher):
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=260m", "tmpfs", disk], check=True)
    try:
        options = (
            "--checkpoint.every_updates", "3", "--checkpoint.on_failure", choice, "--max_updates",
            "14", "--epochs", "1000", "--checkpoint.keep", "1",
        )  # fmt: skip
        if choice == "go_on":
            # One of them, after the eighth update, while there is no room.
            options += ("--eval.every", "1")
        job = faulty(disk / "run", "full disk", 0, launcher, *options)
        told, _ = job.communicate(timeout=120)
        saved = checkpoint.load(disk / "run" / "checkpoints" / "last.pt")["training"]
        steps = [line["step"] for line in lines(disk / "run") if line["kind"] == "train"]
    finally:
        subprocess.run(["umount", disk], check=True)
    # horovodrun knows two codes.
    assert job.returncode == (bool(code) if launcher == "gloo" else code), told
    assert re.search(r"last\.pt cannot be written: No space left .*; it needs \d+ MB, and", told)
    # The disk is full from the sixth update to the tenth.
    assert saved["updates"] == (14 if choice == "go_on" else 4)
    assert steps[-1] == 14 if choice == "go_on" else steps[-1] <= 10
