"""A host goes off, or is cut off while it is alive: the job says which, ends, and goes on when the
host is there again."""

import json
import sys
import time
from itertools import chain

import pytest

from tests.cluster import hosts
from tests.cluster.test_resume import lines, trained_to
from tests.conftest import needs_mpi

pytestmark = pytest.mark.skipif(bool(hosts.missing()), reason=hosts.missing())

# 4 updates an epoch.
OPTIONS = (
    "--data", "shapes:36", "--imgsz", "64", "--epochs", "6", "--global_batch", "9",
    "--report.every", "1", "--eval.every", "0", "--checkpoint.every_updates", "3",
    "--comm.stall_timeout", "5", "--report.plots", "false",
)  # fmt: skip

LONG = pytest.mark.long
# Mosaic takes others beside them.
IMAGES = list(range(1, 37))


def said(folder):
    file = folder / "log"
    return file.read_text() if file.exists() else ""


def wait_until(condition, job, folder, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, said(folder)[-5000:]
        assert time.monotonic() < deadline, said(folder)[-5000:]
        time.sleep(0.1)


@needs_mpi
@pytest.mark.parametrize(
    ("launcher", "number", "fault", "mend"),
    [
        pytest.param(
            hosts.mpirun, 2, ("link", "node2", "down"), ("link", "node2", "up"), marks=LONG
        ),
        pytest.param(hosts.horovodrun, 2, ("kill", "node2"), ("boot", "node2"), marks=LONG),
        pytest.param(hosts.mpirun, 3, ("kill", "node3"), ("boot", "node3"), marks=LONG),
        (hosts.horovodrun, 3, ("link", "node3", "down"), ("link", "node3", "up")),
    ],
    ids=["mpi-cut", "gloo-off", "mpi-3-off", "gloo-3-cut"],
)
def test_a_host_that_is_gone_is_named_and_its_return_ends_the_wait(
    tmp_path, launcher, number, fault, mend
):
    ranks = {f"node{i + 1}": 1 for i in range(number)}
    program = ["-m", "tests.cluster.programs.log_images", str(tmp_path / "seen")]
    job = launcher(ranks, [*program, "--output", str(tmp_path / "run"), *OPTIONS])
    line = [sys.executable, "-m", "hvd_yolo.supervise", "--backoff", "2", "--", *job]
    shell = ["bash", "-c", f"exec {' '.join(line)} > {tmp_path}/log 2>&1"]
    with hosts.made(number, tmp_path / "lab") as lab:
        job = lab.start("node1", shell, HOROVOD_CYCLE_TIME="1")
        try:
            wait_until(lambda: trained_to(7)(lines(tmp_path / "run")), job, tmp_path, 120)
            lab.lab(*fault)
            culprit = f"rank {number - 1} on node{number} has given no sign of life"
            # The timeout and 5 seconds, and a second for the beat.
            wait_until(lambda: culprit in said(tmp_path), job, tmp_path, 5 + 5 + 1)
            wait_until(lambda: "the job ended with code" in said(tmp_path), job, tmp_path, 40)
            lab.lab(*mend)
            wait_until(lambda: trained_to(24)(lines(tmp_path / "run")), job, tmp_path, 120)
            assert job.wait(60) == 0, said(tmp_path)[-5000:]
        finally:
            job.kill()
            job.communicate()
    steps = [line["step"] for line in lines(tmp_path / "run") if line["kind"] == "train"]
    assert steps == list(range(1, 25))
    # No image of an epoch was left out, none seen twice.
    seen = images_of_updates(tmp_path)
    assert sorted(seen) == list(range(24))
    for first in range(0, 24, 4):
        assert (
            sorted(chain.from_iterable(seen[update] for update in range(first, first + 4)))
            == IMAGES
        )


def images_of_updates(folder):
    """What each update saw on all ranks, the last time that it was made."""
    found = {}
    for file in folder.glob("seen.rank*"):
        of_rank = dict(json.loads(line) for line in file.read_text().splitlines())
        for update, images in of_rank.items():
            found.setdefault(update, []).extend(images)
    return found
