"""The doctor finds what is planted, each under its code and on its host, and nothing else.

The faults are real: the hosts' mounts, limits, control groups, links and files are changed, never
what the doctor's code sees of them.
"""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

import hvd_yolo
from hvd_yolo.doctor.__main__ import main
from hvd_yolo.errors import InputError
from tests.cluster import hosts
from tests.cluster.conftest import needs_hosts
from tests.conftest import needs_mpi, run_job

needs_faketime = pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is missing")

CGROUPS = Path("/sys/fs/cgroup")
needs_cgroup_v1 = pytest.mark.skipif(
    not (CGROUPS / "cpu" / "cpu.cfs_quota_us").exists(),
    reason="control groups are not of version 1",
)

EACH = {"node1": 1, "node2": 1}

# What each rank runs in place of Python: the lines of its host first.
START = """\
#!/bin/bash
PYTHON={python}; WRAPPER=
. {folder}/$(cat /etc/hostname).sh
exec $WRAPPER $PYTHON "$@"
"""


class Lab:
    """Hosts with lines of shell that each of their ranks starts with."""

    def __init__(self, made, folder):
        self.hosts, self.folder = made, folder
        for name in made.names:
            (folder / f"{name}.sh").touch()
        self.start = folder / "start.sh"
        self.start.write_text(START.format(python=sys.executable, folder=folder))
        self.start.chmod(0o755)

    def on(self, node, line):
        """Runs a line of shell on a host, as its administrator would."""
        done = self.hosts.run(node, ["bash", "-ec", line], timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ranks_of(self, node, lines):
        (self.folder / f"{node}.sh").write_text(textwrap.dedent(lines))

    def diagnose(self, launcher, ranks, *options, code, mca=(), **environment):
        """What the doctor wrote as JSON, and what it printed."""
        report = self.folder / "report.json"
        arguments = ["-m", "hvd_yolo.doctor", "--json", str(report), *map(str, options)]
        exported = [part for name in environment for part in ("-x", name)]
        more = [*mca, *exported] if launcher is hosts.mpirun else []
        command = launcher(ranks, arguments, *more)
        command = [str(self.start) if part == sys.executable else part for part in command]
        done = self.hosts.run("node1", command, timeout=120, **environment)
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return json.loads(report.read_text()), done.stdout

    def make_docker_bridges(self):
        """As every host that runs Docker has one, all with the same address."""
        for node in ("node1", "node2"):
            self.on(node, "ip link add docker0 type bridge; ip link set docker0 up; "
                          "ip addr add 172.17.0.1/16 dev docker0")  # fmt: skip


@pytest.fixture
def lab(tmp_path):
    with hosts.made(3, tmp_path) as made:
        yield Lab(made, tmp_path)


def included(name):
    return ("--mca", "btl_tcp_if_include", name)


def make_set(folder):
    """Forty drawn pictures with a box each."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.jpg"), pixels)
        (folder / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.2 0.3\n")
    content = {"path": str(folder), "train": "images", "val": "images", "names": ["a"]}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    os.sync()
    return folder / "data.yaml"


def ranks_by_code(content):
    found = {}
    for finding in content["findings"]:
        assert finding["remedy"]
        found[finding["code"]] = sorted(found.get(finding["code"], []) + finding["ranks"])
    return found


def what(content, code):
    return " | ".join(f["what"] for f in content["findings"] if f["code"] == code)


@needs_hosts
@needs_mpi
@pytest.mark.parametrize("launcher", [hosts.mpirun, hosts.horovodrun])
def test_nothing_is_found_on_two_healthy_hosts(lab, launcher):
    data = make_set(lab.folder / "set")
    content, told = lab.diagnose(launcher, EACH, "--data", data, "--link_seconds", 5, code=0)
    assert content["findings"] == []
    assert "nothing found" in told
    assert [rank["host"] for rank in content["ranks"]] == ["node1", "node2"]
    assert content["engine"]["controller"] == ("mpi" if launcher is hosts.mpirun else "gloo")
    assert content["interfaces"]["names"] == ["eth0"]
    assert content["interfaces"]["flags"]["horovodrun"] == "--network-interface eth0"
    link = content["link"]
    assert (link["size"], link["hosts"]) == (2, 2)
    assert link["bandwidth"] > 1e6
    assert 0 <= link["latency"] < 1
    assert len(link["samples"]) > 4


def test_nothing_is_found_under_torchrun(tmp_path):
    report = tmp_path / "report.json"
    options = ["--json", str(report), "--output", str(tmp_path), "--link_seconds", "1e-3"]
    done = run_job(2, ["-m", "hvd_yolo.doctor", *options], "torchrun")
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(report.read_text())
    assert content["findings"] == []
    assert content["engine"] == {"controller": "torch.distributed", "cpu": "gloo"}
    assert "2 ranks on 1 host: too little time for the bandwidth" in done.stdout


def test_nothing_is_found_in_one_healthy_process(tmp_path):
    report = tmp_path / "report.json"
    options = ["--data", "shapes:8", "--json", str(report), "--output", str(tmp_path)]
    done = run_job(1, ["-m", "hvd_yolo.doctor", *options])
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(report.read_text())
    assert content["findings"] == []
    assert content["link"] == {
        "size": 1, "hosts": 1, "bandwidth": None, "latency": 0.0, "samples": [],
    }  # fmt: skip


def changed_copy(file, copy, old, new):
    text = Path(file).read_text()
    assert old in text
    copy.write_text(text.replace(old, new, 1))
    return f"mount --bind {shlex.quote(str(copy))} {shlex.quote(str(file))}"


def with_device(folder, name):
    """The lines of shell that give a host a /dev with one more device."""
    kept = " ".join(f"/dev/{n}" for n in ("null", "zero", "random", "urandom", "tty", "fd"))
    return (
        f"mkdir {folder}; mount -t tmpfs tmpfs {folder}; cp -a {kept} {folder}; "
        f"mkdir -p {folder}/shm {folder}/pts {(folder / name).parent}; touch {folder / name}; "
        f"mount --move /dev/shm {folder}/shm; mount --bind /dev/pts {folder}/pts; "
        f"mount --rbind {folder} /dev"
    )


def second_venv(folder):
    """Another interpreter that sees the packages of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    first = importlib.metadata.distribution("torch").locate_file("")
    (packages / "first.pth").write_text(f"{first}\n")
    return folder / "bin" / "python"


@needs_hosts
@needs_mpi
@needs_faketime
def test_a_host_set_up_otherwise_over_mpi(lab):
    """Twelve faults at once; those of node2 are rank 1's."""
    data = make_set(lab.folder / "set")
    torch_version = importlib.metadata.version("torch")
    metadata = importlib.metadata.distribution("torch").locate_file(
        f"torch-{torch_version}.dist-info/METADATA"
    )
    label = lab.folder / "set" / "labels" / "7.txt"
    package = Path(hvd_yolo.__file__).parent
    plants = [
        changed_copy(package / "pace.py", lab.folder / "pace.py", "\n", "\n# another\n"),
        changed_copy(metadata, lab.folder / "METADATA", f"Version: {torch_version}",
                     "Version: 2.1.0"),
        changed_copy(label, lab.folder / "7.txt", "0.5 0.5", "0.5 0.4"),
        "mount -o remount,size=1m /dev/shm",
        "mkdir -p /dev/shm/hvd_yolo-0; touch /dev/shm/hvd_yolo-0/ram-pixels-640-dead.use",
        # A network card for InfiniBand, as far as the kernel's listing goes.
        "mount -t tmpfs tmpfs /sys/class; mkdir -p /sys/class/infiniband/mlx5_0",
        with_device(lab.folder / "dev", "infiniband/uverbs0"),
    ]  # fmt: skip
    lab.on("node2", "; ".join(plants))
    lab.make_docker_bridges()
    lab.ranks_of(
        "node2",
        f"""\
        PYTHON={second_venv(lab.folder / "venv")}
        WRAPPER="setpriv --bounding-set -ipc_lock faketime -f +60s"
        export FAKETIME_DONT_FAKE_MONOTONIC=1
        export HOROVOD_FUSION_THRESHOLD=1024
        ulimit -n 256; ulimit -l 64
        """,
    )
    content, told = lab.diagnose(
        hosts.mpirun, EACH, "--data", data, "--link_seconds", 2, code=1,
        mca=included("eth0"), OMP_NUM_THREADS="64", NCCL_SOCKET_IFNAME="docker0",
    )  # fmt: skip
    found = ranks_by_code(content)
    # libfaketime comes by LD_PRELOAD, which is a variable that differs as well.
    assert re.findall(r"[A-Z_]+(?=: )", what(content, "environment-differs")) == [
        "HOROVOD_FUSION_THRESHOLD", "LD_PRELOAD",
    ]  # fmt: skip
    assert found == {
        "versions-differ": [1], "code-differs": [1], "python-differs": [1],
        "environment-differs": [1, 1], "clock-skew": [1], "data-differs": [1], "shm-small": [1],
        "shm-stale": [1], "open-files-low": [1], "memlock-low": [1],
        "cpu-oversubscribed": [0, 1], "interface-unreachable": [0, 1],
    }  # fmt: skip
    # NCCL would wait for ever on docker0.
    assert content["link"]["samples"] == []
    assert "2.1.0 on rank 1 (node2)" in what(content, "versions-differ")
    assert re.search(r"node2 is (59|60|61)\.\d s ahead", what(content, "clock-skew"))
    assert "NCCL_SOCKET_IFNAME=docker0" in what(content, "interface-unreachable")
    assert "remedy: NCCL_SOCKET_IFNAME=eth0" in told
    severities = [finding["severity"] for finding in content["findings"]]
    assert severities == sorted(severities)


@needs_hosts
@needs_cgroup_v1
def test_a_host_in_a_tight_container_over_gloo(lab):
    """Five faults at once."""
    data = make_set(lab.folder / "set")
    groups, name = lab.folder / "groups", f"hvd_yolo-{os.getpid()}"
    limits = {"cpu": "cpu.cfs_quota_us", "memory": "memory.limit_in_bytes"}
    plants = ["mount -t tmpfs tmpfs /sys/fs/cgroup"]
    for controller, file in limits.items():
        group = groups / controller / name
        value = 100_000 if controller == "cpu" else 3 << 29
        plants += [
            f"mkdir -p {groups / controller} /sys/fs/cgroup/{controller}",
            f"mount -t cgroup -o {controller} cgroup {groups / controller}",
            f"mkdir {group}; echo {value} > {group / file}",
            # A container sees its own group as the root.
            f"mount --bind {group} /sys/fs/cgroup/{controller}",
        ]
    plants.append(f"mount -t tmpfs tmpfs {lab.folder / 'set' / 'images'}")
    lab.on("node2", "; ".join(plants))
    (lab.folder / "runs").mkdir()
    lab.on("node1", f"mount --bind -o ro {lab.folder}/runs {lab.folder}/runs")
    lab.ranks_of("node2", "for c in cpu memory; do echo $$ > /sys/fs/cgroup/$c/cgroup.procs; done")
    try:
        content, _ = lab.diagnose(
            hosts.horovodrun, EACH, "--data", data, "--output", lab.folder / "runs" / "exp",
            "--link_seconds", 0, code=1,
            OMP_NUM_THREADS=str(os.cpu_count()), GLOO_SOCKET_IFNAME="virbr0",
        )  # fmt: skip
    finally:
        lab.on("node2", "; ".join(
            f"while read p; do echo $p > {groups / c}/cgroup.procs; done < "
            f"{groups / c / name}/cgroup.procs; rmdir {groups / c / name}" for c in limits
        ))  # fmt: skip
    assert ranks_by_code(content) == {
        "data-missing": [1], "output-unwritable": [0], "interface-missing": [0, 1],
        "memory-low": [1], "cpu-oversubscribed": [1],
    }  # fmt: skip
    assert "Read-only file system" in what(content, "output-unwritable")
    assert "virbr0" in what(content, "interface-missing")
    assert f"{os.cpu_count()} threads in all on 1 CPUs" in what(content, "cpu-oversubscribed")


@needs_hosts
@needs_mpi
@needs_cgroup_v1
def test_slow_links_and_disks_an_uneven_job_and_one_name_twice(lab):
    """Five faults at once: ranks 0 and 1 on node1, 2 on node2, 3 on node3."""
    lab.on("node2", "hostname node3")
    data = make_set(lab.folder / "set")
    lab.hosts.rate("800mbit")
    lab.hosts.lab("rate", "node3", "40mbit")
    group = lab.folder / "blkio" / f"hvd_yolo-{os.getpid()}"
    device = os.stat(data).st_dev
    line = f"{os.major(device)}:{os.minor(device)} 8"
    mount = f"mkdir {group.parent}; mount -t cgroup -o blkio cgroup {group.parent}"
    limit = f"mkdir {group}; echo '{line}' > {group}/blkio.throttle.read_iops_device"
    # The hosts share a page cache: node3 would wait for a page that node2's slow disk still reads.
    copy = shutil.copytree(data.parent, lab.folder / "copy")
    os.sync()
    lab.on("node2", f"mount --bind {copy} {data.parent}")
    lab.on("node2", f"{mount}; {limit}")
    lab.ranks_of("node2", f"echo $$ > {group}/cgroup.procs")
    (lab.folder / "runs").mkdir()
    lab.on("node1", f"mount -t tmpfs -o size=64m tmpfs {lab.folder}/runs")
    try:
        content, _ = lab.diagnose(
            hosts.mpirun, {"node1": 2, "node2": 1, "node3": 1}, "--data", data,
            "--output", lab.folder / "runs", "--link_seconds", 0, code=1,
        )  # fmt: skip
    finally:
        lab.on("node2", f"rmdir {group}")
    assert ranks_by_code(content) == {
        "hosts-uneven": [2, 3], "link-slow": [3], "data-slow": [2], "output-full": [0],
        "hostname-shared": [2, 3],
    }  # fmt: skip


@needs_hosts
@needs_mpi
def test_interfaces_of_other_names_and_networks_reach_each_other(lab):
    """Routed hosts, as in clouds: each is alone in its network."""
    for node, name in (("node1", "eth0"), ("node2", "lan0")):
        address = lab.on(node, "ip -4 -o addr show eth0 | grep -o 'inet [0-9.]*'").split()[1]
        lab.on(node, f"ip addr flush dev eth0; ip link set eth0 down; ip link set eth0 name {name};"
                     f"ip link set {name} up; ip addr add {address}/32 dev {name};"
                     f"ip route add 10.77.0.0/24 dev {name} src {address}")  # fmt: skip
    content, _ = lab.diagnose(hosts.mpirun, EACH, "--link_seconds", 1, code=0)
    (found,) = content["findings"]
    assert (found["code"], found["severity"]) == ("interface-none", "warning")
    assert "NCCL_SOCKET_IFNAME=eth0,lan0" in found["remedy"]
    assert content["link"]["samples"]


@needs_hosts
@needs_mpi
def test_a_host_without_horovod_speaks_for_itself(lab):
    package = importlib.metadata.distribution("horovod").locate_file("horovod")
    lab.on("node2", f"mount -t tmpfs tmpfs {package}")
    command = hosts.mpirun(EACH, ["-m", "hvd_yolo.doctor"])
    done = lab.hosts.run("node1", command, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "not-connected on node2: rank 1: Horovod cannot be imported" in done.stdout


@needs_hosts
@needs_mpi
def test_an_interface_on_which_mpi_hangs(lab):
    """Open MPI waits for ever where both ends of docker0 have one address."""
    lab.make_docker_bridges()
    options = ("--timeout", 8)
    content, told = lab.diagnose(hosts.mpirun, EACH, *options, code=1, mca=included("docker0"))
    assert ranks_by_code(content) == {"hung": []}
    assert "node1 has the interfaces eth0 10.77.0.11, docker0 172.17.0.1" in told
    assert "rank 1 on node2 reaches the launcher's host through eth0: mpirun --mca btl" in told


@needs_mpi
def test_lonely_ranks_are_a_finding(tmp_path):
    report = tmp_path / "report.json"
    done = run_job(
        2, ["-m", "hvd_yolo.doctor", "--json", str(report)],
        HOROVOD_CONTROLLER="gloo", HOROVOD_CPU_OPERATIONS="gloo",
    )  # fmt: skip
    assert done.returncode == 1
    content = json.loads(report.read_text())
    assert ranks_by_code(content) == {"not-connected": []}
    assert "promised 2 ranks, but Horovod sees 1" in what(content, "not-connected")


def test_what_was_found_is_told_when_a_later_look_hangs(tmp_path):
    """An image that is a pipe is waited for as a file of a dead server is."""
    data = make_set(tmp_path / "set")
    image = tmp_path / "set" / "images" / "0.jpg"
    image.unlink()
    os.mkfifo(image)
    report = tmp_path / "report.json"
    options = ["--data", str(data), "--json", str(report), "--timeout", "2"]
    done = run_job(1, ["-m", "hvd_yolo.doctor", *options], OMP_NUM_THREADS="64")
    assert done.returncode == 1
    content = json.loads(report.read_text())
    assert ranks_by_code(content) == {"hung": [], "cpu-oversubscribed": [0]}
    assert f"reading --data {data} did not end" in what(content, "hung")
    assert "or --timeout N if a host" in content["findings"][0]["remedy"]


@needs_mpi
def test_options_that_do_not_fit_are_code_2():
    done = run_job(2, ["-m", "hvd_yolo.doctor", "--device", "cpu", "--comm.hierarchical", "true"])
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("comm.hierarchical: Horovod sums within a host") == 1


def test_a_bad_option_is_code_2():
    done = run_job(1, ["-m", "hvd_yolo.doctor", "--times", "0"])
    assert done.returncode == 2
    assert "unknown key: --times" in done.stderr
    with pytest.raises(InputError, match="timeout is 0, it must be at least 1"):
        main(["--timeout", "0"])
