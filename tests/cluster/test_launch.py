"""Whoever starts the ranks, and from where, they are numbered alike and come to the same weights;
what is wrong with the hosts is told before any of them is started."""

import json
import sys
import time
from pathlib import Path

import pytest

from hvd_yolo import checkpoint
from tests.cluster import hosts
from tests.cluster.conftest import needs_hosts
from tests.cluster.test_world_size import COMMON, largest_difference
from tests.conftest import REPOSITORY, needs_mpi, train

OPTIONS = (*COMMON, "--global_batch", "9", "--train.sync_bn", "true", "--max_updates", "6")
LONG = pytest.mark.long
VENV = Path(sys.prefix)
PACKAGES = next(VENV.glob("lib/python*/site-packages"))

pytestmark = [needs_mpi, needs_hosts]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """node1, node2 and node3."""
    with hosts.made(3, tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(1, folder, *OPTIONS)
    return folder


@pytest.fixture
def hostfile(tmp_path):
    file = tmp_path / "hosts.txt"
    file.write_text("node1 slots=2\nnode2 slots=1\nnode3 slots=1\n")
    return str(file)


def launch(*words):
    return ["python", "-m", "hvd_yolo.launch", *words]


GLOO = ("--gloo", "--network-interface", "eth0")
MPIRUN = ("mpirun", "-np", "4", "--bind-to", "none", "-x", "PATH", "-x", "OMP_NUM_THREADS")
# What comes before `python -m hvd_yolo.train` or, for launch, before `train`. Those of the hostfile
# are started on its first host, the others on a host that trains nothing.
LINES = {
    "launch": launch("--hosts", "node1:2,node2:2", "--"),
    "launch mpirun": launch("--hostfile", "FILE", "--launcher", "mpirun", "--"),
    "horovodrun -H": ["horovodrun", "-np", "4", "-H", "node1:2,node2:2", *GLOO],
    "horovodrun --hostfile": ["horovodrun", "-np", "4", "--hostfile", "FILE", *GLOO],
    "horovodrun --mpi": ["horovodrun", "-np", "4", "-H", "node1:2,node2:2", "--mpi"],
    "mpirun -H": [*MPIRUN, "-H", "node1:2,node2:2"],
    "mpirun --hostfile": [*MPIRUN, "--hostfile", "FILE"],
}
QUICK = ("launch mpirun",)


def check(run, alone, places):
    """The same weights as one process, and ranks from 0 at these hosts and local ranks."""
    reference, found = (
        checkpoint.load(folder / "checkpoints" / "last.pt")["training"] for folder in (alone, run)
    )
    assert largest_difference(reference, found) < 1e-6
    (start,) = json.loads((run / "environment.json").read_text())
    assert [(rank["host"], rank["local_rank"]) for rank in start["ranks"]] == places


TWO_HOSTS = [("node1", 0), ("node1", 1), ("node2", 0), ("node2", 1)]
THREE_HOSTS = [("node1", 0), ("node1", 1), ("node2", 0), ("node3", 0)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else LONG) for name in LINES]
)
def test_every_launcher_numbers_ranks_alike_and_ends_the_same(lab, alone, hostfile, tmp_path, name):
    verb = ["train"] if name.startswith("launch") else ["python", "-m", "hvd_yolo.train"]
    is_file = "FILE" in LINES[name]
    line = [hostfile if word == "FILE" else word for word in LINES[name]]
    command = [*line, *verb, "--output", str(tmp_path / "run"), *OPTIONS]
    done = lab.run("node1" if is_file else "node3", command, HOROVOD_CYCLE_TIME="1")
    assert done.returncode == 0, done.stdout + done.stderr
    check(tmp_path / "run", alone, THREE_HOSTS if is_file else TWO_HOSTS)


@LONG
def test_torchrun_on_two_nodes_ends_the_same(lab, alone, tmp_path):
    jobs = [
        lab.start(name, [
            "torchrun", "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "2",
            "--master-addr", "node1", "--master-port", "29511",
            "-m", "hvd_yolo.train", "--output", str(tmp_path / "run"), *OPTIONS,
        ], GLOO_SOCKET_IFNAME="eth0")
        for rank, name in enumerate(lab.names[:2])
    ]  # fmt: skip
    told = [job.communicate(timeout=120) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], told
    check(tmp_path / "run", alone, TWO_HOSTS)


def key(lab):
    return Path(lab.environment["NETLAB"]) / "ssh" / "id"


# What hides files of node2, as another setup of that host would lack them; other hosts keep them.
def mount_empty(lab, place):
    assert lab.run("node2", ["mount", "-t", "tmpfs", "tmpfs", str(place)]).returncode == 0


def refuse_key(lab, folder):
    (folder / "nobody").touch()
    keys = Path(lab.environment["NETLAB"]) / "ssh" / "authorized_keys"
    lab.run("node2", ["mount", "--bind", str(folder / "nobody"), str(keys)])
    return keys


def open_key(lab, folder):
    key(lab).chmod(0o644)


def other_python(lab, folder):
    mount_empty(lab, VENV)
    lab.run("node2", ["bash", "-c", f"mkdir {VENV}/bin; ln -s /usr/bin/python3 {sys.executable}"])
    return VENV


def no_python(lab, folder):
    mount_empty(lab, VENV)
    return VENV


def no_horovod(lab, folder):
    (found,) = PACKAGES.glob("horovod-*.dist-info")
    mount_empty(lab, found)
    return found


def other_name(lab, folder):
    lab.run("node2", ["hostname", "node1"])


TWO = ("--hosts", "node1:1,node2:1")


@pytest.mark.parametrize(
    ("plant", "words", "said"),
    [
        (None, ("--hosts", "node1:1,node9:1"), "node9: there is no host of this name"),
        (refuse_key, TWO, "node2: ssh refuses your key: ssh-copy-id node2"),
        (open_key, TWO, "node2: ssh does not use KEY, which others may read: chmod 600 KEY"),
        (None, (*TWO, "--interface", "eth7"), "eth7 is not on node1, node2: --interface eth0 does"),
        (None, (*TWO, "--interface", "lo"), "lo does not lead from host to host: --interface eth0"),
        (other_python, TWO, "node2: PYTHON is there, but cannot run hvd_yolo"),
        (no_python, TWO, "node2: it has no PYTHON"),
        (no_horovod, TWO, "node2: horovod is missing there and 0.28.1 here: make setup"),
        (other_name, TWO, "node2: it calls itself node1, as node1 does"),
        (None, ("--hostfile", "HOSTS"), "HOSTS:2: 'node2 slots 2' is no host and its slots; write"),
        (None, (*TWO, "--np", "3"), "--np 3, but --hosts has 2 slots (node1:1,node2:1): lower"),
        (None, ("--hosts", "node1:1,me@node2:1"), "write node2:1, and put into ~/.ssh/config the"),
        (None, ("--hosts", "node1:1,localhost:1"), "localhost is in a list of several hosts"),
        (None, ("--slurm",), "in no Slurm allocation: salloc"),
        (None, (), "name the hosts by one of --hosts, --hostfile, --local and --slurm"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_anything_is_started(lab, tmp_path, plant, words, said):
    bad = tmp_path / "hosts.txt"
    bad.write_text("node1 slots=2\nnode2 slots 2\n")
    names = {"KEY": str(key(lab)), "HOSTS": str(bad), "PYTHON": sys.executable}
    for name, value in names.items():
        said = said.replace(name, value)
    planted = plant(lab, tmp_path) if plant else None
    started = time.monotonic()
    try:
        command = launch(*(names.get(word, word) for word in words), "--dry_run", "--", "train")
        done = lab.run("node1", command, timeout=90)
    finally:
        if planted:
            lab.run("node2", ["umount", str(planted)])
        lab.run("node2", ["hostname", "node2"])
        key(lab).chmod(0o600)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert time.monotonic() - started < 60


def test_hosts_that_are_not_up_yet_are_waited_for(lab):
    closed = lab.run("node1", launch(*TWO, "--ssh_port", "2299", "--dry_run", "--", "train"))
    # A supervisor tries again after this code.
    assert closed.returncode == 1
    assert "hvd_yolo.launch: node2: no ssh server listens: start sshd there" in closed.stderr
    lab.lab("kill", "node2")
    off = lab.run("node1", launch(*TWO, "--dry_run", "--", "train"))
    assert off.returncode == 1
    assert "hvd_yolo.launch: node2: it does not answer: it is off, or a" in off.stderr
    started = lab.start("node1", launch(*TWO, "--wait", "60", "--dry_run", "--", "train"))
    time.sleep(5)
    assert started.poll() is None
    lab.lab("boot", "node2")
    out, err = started.communicate(timeout=60)
    assert started.returncode == 0, err
    assert out.split()[:5] == ["horovodrun", "-np", "2", "-H", "node1:1,node2:1"]
    assert "--network-interface eth0" in out


def test_a_worker_whose_port_is_taken_says_so(lab, tmp_path):
    """By the sshd that a host has already."""
    (tmp_path / "keys").mkdir()
    where = {"HOME": str(tmp_path), "HVD_YOLO_SSH": str(tmp_path / "keys")}
    script = str(REPOSITORY / "docker" / "entrypoint.sh")
    done = lab.run("node1", [script, "worker"], HVD_YOLO_SSH_PORT="22", **where)
    assert done.returncode == 2, done.stderr
    assert "port 22 is in use on node1: another worker or an ssh server has it" in done.stderr


def test_a_machine_outside_the_list_and_a_shell_that_speaks(lab, tmp_path):
    """What starts the ranks must be reached by them, too."""
    bashrc = Path.home() / ".bashrc"
    if not bashrc.exists():
        pytest.skip(f"there is no {bashrc} to hide")
    (tmp_path / "bashrc").write_text("echo Agent pid 123\n")
    mount = ["mount", "--bind", str(tmp_path / "bashrc"), str(bashrc)]
    assert lab.run("node2", mount).returncode == 0
    try:
        assert "Agent pid 123" in lab.run("node1", ["ssh", "node2", "true"]).stdout
        done = lab.run("node1", launch("--hosts", "node2:2", "--dry_run", "--", "train"))
    finally:
        lab.run("node2", ["umount", str(bashrc)])
    assert done.returncode == 0, done.stderr
    assert "hosts: node2 (2 ranks), joined by eth0" in done.stderr
    assert done.stdout.startswith("horovodrun -np 2 -H node2:2 --gloo --network-interface eth0 ")
