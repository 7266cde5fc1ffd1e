"""The image for CPUs, built before by docker or podman:
`HVD_YOLO_IMAGE=hvd_yolo:cpu pytest tests/cluster/test_image.py`."""

import json
import os
import re
import shutil
import subprocess
import tarfile
import uuid

import pytest
import yaml

from tests.conftest import REPOSITORY

HOSTFILES = REPOSITORY / "hostfiles"
IMAGE = os.environ.get("HVD_YOLO_IMAGE", "")
ENGINE = shutil.which("podman") or shutil.which("docker") or ""

pytestmark = pytest.mark.skipif(
    not (IMAGE and ENGINE), reason="needs HVD_YOLO_IMAGE, and docker or podman"
)

OPTIONS = (
    "--device", "cpu", "--data", "shapes:36", "--imgsz", "64", "--global_batch", "9",
    "--max_updates", "6", "--eval.every", "0", "--train.sync_bn", "true",
    "--train.dtype", "float64", "--optim.name", "sgd",
)  # fmt: skip


# Podman has its health checks run by systemd, which not every machine has.
UNCHECKED = ("--no-healthcheck",) if ENGINE.endswith("podman") else ()


def engine(*words, check=True):
    if words[0] == "run":
        words = ("run", *UNCHECKED, *words[1:])
    done = subprocess.run([ENGINE, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


@pytest.fixture
def job():
    """A name for what belongs to the job: containers NAME-1, NAME-2, network, volumes; nothing is
    left of it."""
    name = f"hvd-yolo-{uuid.uuid4().hex[:6]}"
    engine("network", "create", name)
    yield name
    engine("rm", "-f", f"{name}-1", f"{name}-2", check=False)
    engine("volume", "rm", f"{name}-keys", f"{name}-runs", check=False)
    engine("network", "rm", name, check=False)


def started(job, *words):
    """The words of `run` for a container of the job."""
    return (
        "run", "--network", job, "-v", f"{job}-keys:/run/secrets/ssh", "-v", f"{job}-runs:/runs",
        "--shm-size", "1g", *words,
    )  # fmt: skip


def start_workers(job):
    for number in (1, 2):
        name = f"{job}-{number}"
        engine(*started(job, "-d", "--name", name, "--hostname", name, IMAGE, "worker"))


def test_two_containers_train_together_over_ssh(job):
    start_workers(job)
    hosts = f"{job}-1:1,{job}-2:1"
    engine(*started(job, "--rm", IMAGE, "train", "--output", "/runs/alone", *OPTIONS))
    done = engine(*started(
        job, "--rm", "--hostname", "launcher", IMAGE, "launch", "--wait", "60", "--hosts", hosts,
        "--", "train", "--output", "/runs/pair", *OPTIONS,
    ))  # fmt: skip
    assert "joined by eth0" in done.stderr
    assert "done: 6 updates" in done.stdout
    (start,) = json.loads(engine("exec", f"{job}-1", "cat", "/runs/pair/environment.json").stdout)
    assert [rank["host"] for rank in start["ranks"]] == [f"{job}-1", f"{job}-2"]
    compare = (
        "from hvd_yolo import checkpoint as c\n"
        "a, b = (c.load(f'/runs/{n}/checkpoints/last.pt')['weights'] for n in ('alone', 'pair'))\n"
        "print(max(float((a[k].double() - b[k].double()).abs().max()) for k in a))"
    )
    difference = engine("exec", f"{job}-1", "python", "-c", compare).stdout
    assert float(difference) < 1e-6
    healthy = engine("exec", f"{job}-2", "/opt/hvd_yolo/docker/entrypoint.sh", "health")
    assert healthy.returncode == 0


def test_the_line_of_the_mpijob_trains(job, tmp_path):
    """With the list of hosts where the operator puts it."""
    start_workers(job)
    template = yaml.safe_load((HOSTFILES / "kubernetes" / "mpijob.yaml").read_text())
    launcher = template["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]
    line = launcher["containers"][0]["args"]
    line[line.index("-np") + 1] = "2"
    line = line[: line.index("hvd_yolo.train") + 1]
    (tmp_path / "hostfile").write_text(f"{job}-1 slots=1\n{job}-2 slots=1\n")
    tmp_path.chmod(0o755)
    operators = [
        *("-e", "OMPI_MCA_orte_default_hostfile=/etc/mpi/hostfile"),
        *("-e", "OMPI_MCA_orte_keep_fqdn_hostnames=true"),
        *("-v", f"{tmp_path}:/etc/mpi:ro"),
    ]
    done = engine(*started(job, "--rm", *operators, IMAGE, *line, "--output", "/runs/x", *OPTIONS))
    assert "done: 6 updates" in done.stdout
    (start,) = json.loads(engine("exec", f"{job}-1", "cat", "/runs/x/environment.json").stdout)
    assert [rank["host"] for rank in start["ranks"]] == [f"{job}-1", f"{job}-2"]


def test_the_user_is_not_root_and_no_key_is_in_any_layer(tmp_path):
    assert engine("run", "--rm", IMAGE, "id", "-u").stdout.strip() == "1000"
    (described,) = json.loads(engine("image", "inspect", IMAGE).stdout)
    print(f"{IMAGE}: {described['Size'] / 1e9:.2f} GB")
    engine("save", "-o", str(tmp_path / "image.tar"), IMAGE)
    keys, layers = [], 0
    with tarfile.open(tmp_path / "image.tar") as image:
        for part in image.getmembers():
            content = image.extractfile(part) if part.isfile() else None
            if content is None or not tarfile.is_tarfile(content):
                continue
            content.seek(0)
            layers += 1
            with tarfile.open(fileobj=content) as layer:
                for file in layer:
                    start = layer.extractfile(file).read(64) if file.isfile() else b""
                    is_key = re.match(rb"-----BEGIN [A-Z ]*PRIVATE KEY", start)
                    if is_key or re.search(r"(^|/)(ssh_host_\w+|id_\w+)$", file.name):
                        keys.append(file.name)
    assert layers >= 3
    assert keys == []


def test_a_worker_without_a_key_that_can_be_read_says_so(tmp_path):
    (tmp_path / "id_ed25519").write_text("no key")
    (tmp_path / "id_ed25519").chmod(0o600)
    tmp_path.chmod(0o755)
    mount = f"{tmp_path}:/run/secrets/ssh:ro"
    done = engine("run", "--rm", "-v", mount, IMAGE, "worker", check=False)
    assert done.returncode == 2
    assert "/run/secrets/ssh/id_ed25519 cannot be read by user yolo (uid 1000)" in done.stderr
