"""Promise 2: a restart changes nothing. The whole job is killed at some moment, started again, and
compared."""

import json
import os
import signal
import subprocess
import time
from collections import Counter

import psutil
import pytest
import torch

from hvd_yolo import checkpoint
from hvd_yolo.report import Report
from tests.conftest import REPOSITORY, command_for, job_environment, needs_mpi, train

# 4 updates an epoch on 2 ranks, uneven; warmup ends in the second epoch.
OPTIONS = (
    "--data", "shapes:36", "--imgsz", "64", "--epochs", "4", "--global_batch", "9",
    "--optim.warmup_epochs", "1.5", "--report.every", "1", "--checkpoint.every_updates", "3",
    "--augment.close_mosaic", "2",
)  # fmt: skip


def lines(folder):
    file = folder / "metrics.jsonl"
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def without_times(folder):
    return [{k: v for k, v in line.items() if k not in Report.TIMES} for line in lines(folder)]


def start(folder, num_ranks, *options, launcher="mpirun"):
    arguments = ["-m", "hvd_yolo.train", "--output", str(folder), *options]
    return subprocess.Popen(
        command_for(num_ranks, arguments, launcher),
        cwd=REPOSITORY, env=job_environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def kill_when(folder, job, condition, delay=0.0):
    """kill -9 to every process of the job as soon as metrics.jsonl fulfils the condition."""
    deadline = time.monotonic() + 240
    while not condition(lines(folder)):
        assert job.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    family = [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]
    for process in family:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(family, timeout=15)
    job.wait(timeout=15)


def trained_to(step):
    return lambda found: any(line["kind"] == "train" and line["step"] >= step for line in found)


def compare(a, b, path=""):
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            compare(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            compare(x, y, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(2, folder, *OPTIONS)
    assert len([line for line in lines(folder) if line["kind"] == "train"]) == 16
    assert len([line for line in lines(folder) if line["kind"] == "eval"]) == 4
    return folder


@needs_mpi
@pytest.mark.parametrize(
    ("moment", "step", "delay"),
    [
        ("before the first checkpoint, in warmup", 1, 0.05),
        pytest.param("in warmup, after a checkpoint", 3, 0.1, marks=pytest.mark.long),
        ("evaluation", 8, 0.0),
        ("mid-epoch", 10, 0.07),
        pytest.param("the last epoch, in the closing phase", 14, 0.02, marks=pytest.mark.long),
    ],
)
def test_resume_is_bitwise(undisturbed, tmp_path, moment, step, delay):
    folder = tmp_path / "killed"
    kill_when(folder, start(folder, 2, *OPTIONS), trained_to(step), delay)
    killed = lines(folder)
    assert len(killed) < 20
    if moment == "evaluation":
        assert killed[-1] == next(line for line in killed if line.get("step") == 8)
    # The same command line again, or --resume: both go on.
    train(2, folder, *(OPTIONS if step % 2 else ("--resume", str(folder))))
    assert without_times(folder) == without_times(undisturbed)
    for name in ("last.pt", "best.pt"):
        found = checkpoint.load(folder / "checkpoints" / name)
        expected = checkpoint.load(undisturbed / "checkpoints" / name)
        for key in ("weights", "training", "names"):
            compare(found[key], expected[key], f"{name}/{key}")
    starts = json.loads((folder / "environment.json").read_text())
    assert len(starts) == 2


@pytest.mark.long
@needs_mpi
@pytest.mark.parametrize(
    "choice",
    [
        *(("--model", name) for name in ("yolov5n", "yolov10n", "yolo11n", "yolox-nano")),
        ("--optim.name", "lamb"),
        ("--train.compile", "true"),
    ],
    ids=lambda choice: choice[1],
)
def test_resume_is_bitwise_for_every_family_with_lamb_and_compiled(tmp_path, choice):
    options = (*OPTIONS, *choice, "--max_updates", "8", "--eval.every", "0")
    train(2, tmp_path / "undisturbed", *options)
    folder = tmp_path / "killed"
    kill_when(folder, start(folder, 2, *options), trained_to(5))
    train(2, folder, *options)
    assert without_times(folder) == without_times(tmp_path / "undisturbed")
    found, expected = (
        checkpoint.load(tmp_path / run / "checkpoints" / "last.pt")["training"]
        for run in ("killed", "undisturbed")
    )
    compare(found, expected)
    assert found["updates"] == 8


@needs_mpi
@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.long), 3])
def test_resume_on_another_number_of_ranks_sees_the_same_images(undisturbed, tmp_path, size):
    program = ["-m", "tests.cluster.programs.log_images"]
    seen = {}
    for name, num_ranks in (("two", 2), ("other", size)):
        folder = tmp_path / name
        first = [*program, str(tmp_path / f"{name}.a"), "--output", str(folder), *OPTIONS]
        again = [*program, str(tmp_path / f"{name}.b"), "--output", str(folder), *OPTIONS]
        job = subprocess.Popen(
            command_for(2, first), cwd=REPOSITORY, env=job_environment(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        kill_when(folder, job, trained_to(7))
        done = subprocess.run(
            command_for(num_ranks, again), cwd=REPOSITORY, env=job_environment(),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        seen[name] = images_by_update(tmp_path, f"{name}.b")
    # Which checkpoint had been written at the kill is a matter of moments.
    assert all(max(updates) == 15 and 3 <= min(updates) <= 8 for updates in seen.values())
    for update in range(8, 16):
        assert seen["two"][update] == seen["other"][update]
        assert sum(seen["two"][update].values()) == 9


def images_by_update(folder, stem):
    """Update to how often it saw each image, over all ranks."""
    found = {}
    for file in folder.glob(f"{stem}.rank*"):
        for line in file.read_text().splitlines():
            update, images = json.loads(line)
            found.setdefault(update, Counter()).update(images)
    return found


def test_a_finished_run_is_not_trained_again(tmp_path):
    options = ("--data", "shapes:8", "--imgsz", "32", "--epochs", "1", "--eval.every", "0")
    train(1, tmp_path, *options)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    train(1, tmp_path, *options)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@needs_mpi
def test_resume_is_bitwise_with_weighted_rectangular_updates_from_a_cache(tmp_path):
    options = (
        *OPTIONS, "--epochs", "2", "--order.rect", "true", "--order.multi_scale", "0.5",
        "--order.class_balance", "0.5", "--workers", "1", "--loader.cache", "disk",
        "--loader.folder", str(tmp_path / "packs"),
    )  # fmt: skip
    train(2, tmp_path / "undisturbed", *options)
    folder = tmp_path / "killed"
    kill_when(folder, start(folder, 2, *options), trained_to(5), 0.05)
    train(2, folder, *options)
    assert without_times(folder) == without_times(tmp_path / "undisturbed")


@needs_mpi
@pytest.mark.parametrize(
    ("size", "launcher", "options"),
    [
        pytest.param(2, "torchrun", ("--batch_size", "3"), marks=pytest.mark.long),
        (3, "mpirun", ("--comm.compression", "powersgd", "--comm.warmup", "0.5")),
        pytest.param(
            *(2, "torchrun"),
            ("--comm.compression", "topk", "--comm.warmup", "0", "--batch_size", "3"),
            marks=pytest.mark.long,
        ),
        (3, "mpirun", ("--comm.sync_every", "2", "--comm.warmup", "0.5")),
        pytest.param(
            2, "torchrun", ("--comm.sync_every", "4", "--comm.warmup", "0"), marks=pytest.mark.long
        ),
        (2, "mpirun", ("--comm.op", "adasum", "--global_batch", "0", "--batch_size", "4")),
    ],
    ids=[
        "torch in passes",
        "PowerSGD",
        "top-k over torch",
        "local SGD",
        "from the start",
        "Adasum",
    ],
)
def test_resume_is_bitwise_with(tmp_path, size, launcher, options):
    """Killed between two checkpoints, in the midst of what ranks keep to themselves."""
    options = (*OPTIONS, "--max_updates", "8", "--eval.every", "0", *options)
    train(size, tmp_path / "undisturbed", *options, launcher=launcher)
    folder = tmp_path / "killed"
    kill_when(folder, start(folder, size, *options, launcher=launcher), trained_to(5))
    assert checkpoint.load(folder / "checkpoints" / "last.pt")["training"]["updates"] < 8
    train(size, folder, *options, launcher=launcher)
    assert without_times(folder) == without_times(tmp_path / "undisturbed")
    found, expected = (
        checkpoint.load(tmp_path / run / "checkpoints" / "last.pt")["training"]
        for run in ("killed", "undisturbed")
    )
    compare(found, expected)
    assert found["updates"] == 8
    assert bool(found["compression"]) == ("--comm.compression" in options)
