"""The templates for containers and schedulers are what those who read them accept."""

import re
import shutil
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from hvd_yolo.launch import hostfile
from tests.conftest import BIN, REPOSITORY

HOSTFILES = REPOSITORY / "hostfiles"

# Of the MPI operator's v2beta1 (its CRD), for the fields that it has beside the pods.
MPI_JOB = {
    "slotsPerWorker": int, "mpiImplementation": ("OpenMPI", "Intel", "MPICH"),
    "launcherCreationPolicy": ("AtStartup", "WaitForWorkersReady"), "sshAuthMountPath": str,
    "runPolicy": dict, "mpiReplicaSpecs": dict,
}  # fmt: skip
RUN_POLICY = {
    "cleanPodPolicy": ("None", "Running", "All"), "backoffLimit": int,
    "ttlSecondsAfterFinished": int, "activeDeadlineSeconds": int, "suspend": bool,
    "schedulingPolicy": dict,
}  # fmt: skip
REPLICA = {
    "replicas": int, "restartPolicy": ("Always", "OnFailure", "Never", "ExitCode"),
    "template": dict,
}  # fmt: skip


def check(values, schema):
    for key, value in values.items():
        allowed = schema[key]
        assert value in allowed if isinstance(allowed, tuple) else isinstance(value, allowed), key


def pods(job):
    return {name: part["template"]["spec"] for name, part in job["spec"]["mpiReplicaSpecs"].items()}


def test_the_mpijob_is_one():
    job = yaml.safe_load((HOSTFILES / "kubernetes" / "mpijob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    check(job["spec"], MPI_JOB)
    check(job["spec"]["runPolicy"], RUN_POLICY)
    for part in job["spec"]["mpiReplicaSpecs"].values():
        check(part, REPLICA)
    for name, pod in pods(job).items():
        as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
        kubernetes_validate.validate(as_pod, "1.31", strict=True)
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}, name


def test_the_mpijob_asks_for_as_many_ranks_as_it_has_slots_and_gpus():
    job = yaml.safe_load((HOSTFILES / "kubernetes" / "mpijob.yaml").read_text())
    replicas, slots = job["spec"]["mpiReplicaSpecs"], job["spec"]["slotsPerWorker"]
    line = pods(job)["Launcher"]["containers"][0]["args"]
    assert int(line[line.index("-np") + 1]) == slots * replicas["Worker"]["replicas"]
    limits = pods(job)["Worker"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == slots


def test_the_mpijob_with_rdma_is_one_too():
    """The lines marked RDMA, taken in place of those that they extend."""
    text = (HOSTFILES / "kubernetes" / "mpijob.yaml").read_text()
    lines = text.splitlines()
    marked = [i for i, line in enumerate(lines) if re.search(r"^ +# .*# RDMA$", line)]
    assert len(marked) == 2
    for i in marked:
        lines[i] = re.sub(r"^( +)# (.*?) +# RDMA$", r"\1\2", lines[i])
    del lines[marked[0] - 1]
    pod = pods(yaml.safe_load("\n".join(lines)))["Worker"]
    as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
    kubernetes_validate.validate(as_pod, "1.31", strict=True)
    assert pod["containers"][0]["resources"]["limits"]["rdma/hca"] == 1
    assert pod["containers"][0]["securityContext"] == {"capabilities": {"add": ["IPC_LOCK"]}}


def test_the_compose_file_with_rdma_is_one_too(tmp_path):
    text = (REPOSITORY / "docker" / "compose.yaml").read_text()
    taken, count = re.subn(r"^( +)# (.*?) +# RDMA.*$", r"\1\2", text, flags=re.MULTILINE)
    assert count == 4
    (tmp_path / "compose.yaml").write_text(taken)
    line = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [sys.executable, *line, tmp_path / "compose.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert yaml.safe_load(taken)["x-worker"]["devices"] == ["/dev/infiniband:/dev/infiniband"]


@pytest.mark.parametrize("file", ["docker/compose.yaml", "hostfiles/swarm/stack.yaml"])
def test_compose_files_follow_the_compose_specification(file):
    line = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file]
    done = subprocess.run(
        [sys.executable, *line], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", ["docker/Dockerfile", "docker/Dockerfile.cpu"])
def test_hadolint_finds_nothing(file):
    done = subprocess.run(
        [BIN / "hadolint", file], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", sorted(REPOSITORY.glob("hostfiles/**/*.s*")))
def test_scripts_can_be_parsed(script):
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", script], check=True)


def test_all_lists_of_hosts_are_read_alike():
    lists = [hostfile.read(HOSTFILES / f"{name}.txt") for name in ("two_nodes", "openmpi", "mpich")]
    assert all(found == [("node1", 8), ("node2", 8)] for found in lists)


@pytest.mark.skipif(shutil.which("horovodrun", path=BIN) is None, reason="Horovod is not built")
def test_horovodrun_reads_its_list():
    from horovod.runner.common.util.hosts import parse_host_files

    assert parse_host_files(HOSTFILES / "two_nodes.txt") == "node1:8,node2:8"
