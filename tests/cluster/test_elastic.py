"""Ranks come and go during a run, and the run comes to what it would have come to without."""

import subprocess
import time
from contextlib import contextmanager

import pytest

from hvd_yolo import checkpoint
from tests.cluster import hosts
from tests.cluster.conftest import needs_hosts, write_shapes
from tests.cluster.test_resume import lines
from tests.cluster.test_world_size import COMMON, largest_difference
from tests.conftest import REPOSITORY, train
from tests.teachers import write_teacher

OPTIONS = (
    *COMMON, "--max_updates", "40", "--global_batch", "9", "--train.sync_bn", "true",
    "--report.every", "1", "--comm.commit_every", "4",
)  # fmt: skip


@contextmanager
def elastic_job(lab, folder, first=("node1",), launch=(), options=()):
    """A job on the first hosts, its output in folder/log, and what tells it of the hosts there
    are."""
    file = folder / "hosts.txt"

    def be(*names):
        (folder / "new").write_text("\n".join(names) + "\n")
        (folder / "new").rename(file)

    be(*first)
    line = [
        "horovodrun", "-np", str(len(first)), "--min-np", "1", "--max-np", "3",
        "--network-interface", "eth0", *launch,
        "--host-discovery-script", str(REPOSITORY / "hostfiles" / "discover_hosts.sh"),
        "python", "-m", "hvd_yolo.train", "--output", str(folder / "run"), *OPTIONS,
        *options,
    ]  # fmt: skip
    shell = ["bash", "-c", f"exec {' '.join(line)} > {folder}/log 2>&1"]
    # Where the first hosts are this one alone, horovodrun takes the loopback for all.
    # With SyncBatchNorm Horovod's own cycle stays, and with it the response cache.
    job = lab.start("node3", shell, HVD_YOLO_HOSTS=str(file))
    try:
        yield job, be
    finally:
        job.kill()
        job.communicate()


def check_equal(folder):
    """The run came to the weights of the one alone, with each update told once."""
    reference, found = (
        checkpoint.load(folder / name / "checkpoints" / "last.pt")["training"]
        for name in ("alone", "run")
    )
    assert largest_difference(reference, found) < 1e-8
    told = [line["step"] for line in lines(folder / "run") if line["kind"] == "train"]
    assert told == list(range(1, 41))


def wait_for(folder, job, update, num_ranks, first=1):
    """Until an update of at least that number has been made by so many ranks; the job began with
    `first`."""
    deadline = time.monotonic() + 120
    while job.poll() is None and time.monotonic() < deadline:
        found = lines(folder / "run") if (folder / "run" / "metrics.jsonl").exists() else []
        regrouped = [i for i, line in enumerate(found) if line.get("event") == "regrouped"]
        now = found[regrouped[-1]]["reason"].split()[-1] if regrouped else str(first)
        last = found[regrouped[-1] + 1 :] if regrouped else found
        if now == str(num_ranks) and any(
            x["kind"] == "train" and x["step"] >= update for x in last
        ):
            return
        time.sleep(0.1)
    raise AssertionError((folder / "log").read_text()[-5000:])


def kill_rank_on(lab, node):
    """kill -9 of the training process in a host."""
    line = "pkill -KILL -f '^[^ ]*python -m hvd_yolo.train'"
    done = lab.run(node, ["bash", "-c", line])
    assert done.returncode == 0


@needs_hosts
def test_1_2_3_2_ranks_and_a_kill_come_to_the_weights_of_one_rank(tmp_path):
    train(1, tmp_path / "alone", *OPTIONS)
    with hosts.made(3, tmp_path / "lab") as lab, elastic_job(lab, tmp_path) as (job, be):
        wait_for(tmp_path, job, 3, 1)
        be("node1", "node2")
        wait_for(tmp_path, job, 9, 2)
        be("node1", "node2", "node3")
        wait_for(tmp_path, job, 16, 3)
        kill_rank_on(lab, "node3")
        wait_for(tmp_path, job, 22, 2)
        be("node2")
        assert job.wait(120) == 0, (tmp_path / "log").read_text()[-5000:]
    check_equal(tmp_path)
    told = [line["reason"] for line in lines(tmp_path / "run") if line["kind"] == "event"]
    assert told == ["1 ranks -> 2", "2 ranks -> 3", "3 ranks -> 2", "2 ranks -> 1"]


@pytest.mark.long
@needs_hosts
def test_a_host_that_goes_off_is_left_out_and_taken_back(tmp_path):
    train(1, tmp_path / "alone", *OPTIONS)
    cooldown = ("--blacklist-cooldown-range", "2", "4")
    with hosts.made(3, tmp_path / "lab") as lab:
        first = ("node1", "node2")
        with elastic_job(lab, tmp_path, first, launch=cooldown) as (job, _):
            wait_for(tmp_path, job, 5, 2, first=2)
            lab.lab("kill", "node2")
            wait_for(tmp_path, job, 9, 1)
            lab.lab("boot", "node2")
            wait_for(tmp_path, job, 10, 2)
            assert job.wait(120) == 0, (tmp_path / "log").read_text()[-5000:]
    check_equal(tmp_path)


@pytest.mark.long
@needs_hosts
def test_a_host_that_cannot_train_is_told_and_the_others_go_on(tmp_path):
    """Its data are missing."""
    data = tmp_path / "data"
    options = ("--data", str(data / "data.yaml"))
    write_shapes(data)
    train(1, tmp_path / "alone", *OPTIONS, *options)
    with hosts.made(3, tmp_path / "lab") as lab:
        assert lab.run("node2", ["mount", "-t", "tmpfs", "tmpfs", str(data)]).returncode == 0
        with elastic_job(lab, tmp_path, options=options) as (job, be):
            wait_for(tmp_path, job, 3, 1)
            be("node1", "node2")
            assert job.wait(120) == 0, (tmp_path / "log").read_text()[-5000:]
    check_equal(tmp_path)
    told = (tmp_path / "log").read_text()
    assert "data.yaml" in told
    assert "going on with the ranks that there are" in told


@pytest.mark.long
@needs_hosts
def test_a_host_that_comes_learns_from_the_same_teacher(tmp_path):
    """Though its file is gone, and the first host goes off."""
    teacher = tmp_path / "teacher.pt"
    options = ("--teacher", write_teacher(teacher), "--optim.lr", "1e-6")
    train(1, tmp_path / "alone", *OPTIONS, *options)
    with (
        hosts.made(3, tmp_path / "lab") as lab,
        elastic_job(lab, tmp_path, options=options) as (job, be),
    ):
        wait_for(tmp_path, job, 3, 1)
        teacher.unlink()
        be("node1", "node2")
        wait_for(tmp_path, job, 12, 2)
        be("node2")
        assert job.wait(180) == 0, (tmp_path / "log").read_text()[-5000:]
    check_equal(tmp_path)


def test_hosts_of_a_file(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("a  # the first\nb:2\n\nc slots=3\n")
    script = REPOSITORY / "hostfiles" / "discover_hosts.sh"
    found = subprocess.run(
        [script], capture_output=True, text=True, check=True, env={"HVD_YOLO_HOSTS": str(file)}
    )
    assert found.stdout.split() == ["a:1", "b:2", "c:3"]
    without = subprocess.run([script], capture_output=True, text=True, check=False, env={})
    assert without.returncode != 0
    assert "HVD_YOLO_HOSTS" in without.stderr
