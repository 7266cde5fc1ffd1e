"""What needs hardware that a test cannot make, judged on what ranks there would tell; and the
arithmetic."""

from dataclasses import replace
from pathlib import Path

import pytest

from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from hvd_yolo.doctor import limits, ranks, sameness
from hvd_yolo.doctor.allreduce import Sample, fit
from hvd_yolo.doctor.data_sets import Look
from hvd_yolo.doctor.data_sets import judge as judge_data
from hvd_yolo.doctor.disks import file_system_type
from hvd_yolo.doctor.facts import gather_facts
from hvd_yolo.doctor.interfaces import Interface
from hvd_yolo.doctor.routes import Host, common_networks, flags


@pytest.fixture(scope="module")
def here():
    """The facts of this process."""
    (facts,) = gather_facts(connect(CommConfig("single"), "cpu"), 0)
    return facts


def job(here, *changes):
    """A rank of host "a" for each change of what this process is."""
    found = {"host": "a", "host_id": "a", "permitted": len(here.affinity), "threads": 1}
    return [
        replace(here, rank=rank, **{**found, "local_rank": rank, **change})
        for rank, change in enumerate(changes)
    ]


def codes(findings):
    return {finding.code: finding.ranks for finding in findings}


NCCL = {"controller": "mpi", "cpu": "mpi", "gpu": "nccl"}


def gpu(name, **more):
    return {"gpu": name, "device": "cuda:0", "gpus_seen": 4, "gpus_present": 4, "engine": NCCL,
            **more}  # fmt: skip


def test_nothing_is_wrong_with_a_gpu_each(here):
    assert ranks.judge(job(here, gpu("x"), gpu("y"), gpu("z", host="b", host_id="b"),
                           gpu("u", host="b", host_id="b"))) == []  # fmt: skip


def test_ranks_on_one_gpu(here):
    assert codes(ranks.judge(job(here, gpu("x"), gpu("y"), gpu("x")))) == {"gpu-shared": [0, 2]}


def test_a_gpu_that_torch_does_not_see(here):
    blind = {"gpu": "", "gpus_seen": 0, "gpus_present": 2}
    assert codes(ranks.judge(job(here, blind))) == {"gpu-unseen": [0]}


def test_gpus_without_nccl(here):
    by_mpi = {**NCCL, "gpu": "mpi, by way of the host"}
    found = ranks.judge(job(here, gpu("x", engine=by_mpi), gpu("y", engine=by_mpi)))
    assert codes(found) == {"nccl-missing": [0, 1]}


def test_cpus_of_another_node_than_the_gpus(here):
    near, far = gpu("x", gpu_node=0, cpu_nodes=[0]), gpu("y", gpu_node=1, cpu_nodes=[0])
    assert codes(ranks.judge(job(here, near, far))) == {"numa-far": [1]}


def test_one_host_under_two_names_of_the_launcher(here):
    found = ranks.judge(job(here, {"local_rank": 0}, {"local_rank": 0}))
    assert codes(found) == {"host-split": [0, 1]}


def test_more_loader_processes_than_cpus(here):
    four = {"affinity": [0, 1, 2, 3], "cpus": 4, "permitted": 4, "shm_free": 1 << 40}
    fitting = job(here, {**four, "workers": 3, "threads": 2}, {**four, "workers": 1, "threads": 2})
    assert limits.judge(fitting, 2) == []
    greedy = job(here, {**four, "workers": 8}, {**four, "workers": 8})
    assert codes(limits.judge(greedy, 2)) == {"workers-many": [0, 1]}


def test_places_that_launchers_tell_each_rank_may_differ(here):
    own = ("HOROVOD_RANK", "OMPI_MCA_orte_ess_node_rank", "CUDA_VISIBLE_DEVICES")
    found = job(here, *({"variables": dict.fromkeys(own, str(rank))} for rank in range(3)))
    assert sameness.judge(found) == []
    meant = job(here, *({"variables": {"NCCL_DEBUG": level}} for level in ("INFO", "WARN", "WARN")))
    assert codes(sameness.judge(meant)) == {"environment-differs": [0]}


MOUNTS = """\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
40 22 0:40 / /data rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2
41 40 0:41 / /data/my\\040set rw,relatime - lustre 10.0.0.1@o2ib:/scratch rw
42 22 0:42 / /tmp rw,nosuid shared:3 - tmpfs tmpfs rw
""".splitlines()


def test_the_deepest_mount_is_the_file_system():
    assert file_system_type(Path("/home/me"), MOUNTS) == "ext4"
    assert file_system_type(Path("/data/coco"), MOUNTS) == "nfs4"
    assert file_system_type(Path("/data/my set/coco"), MOUNTS) == "lustre"
    assert file_system_type(Path("/database"), MOUNTS) == "ext4"


def test_a_network_file_system_is_well_with_a_cache(here):
    looks = {0: Look(splits={"train": 8}, digests={"train": "d"}, file_system="nfs4")}
    facts = job(here, {})
    assert codes(judge_data(facts, looks, is_kept=False)) == {"data-network": [0]}
    assert codes(judge_data(facts, looks, is_kept=True)) == {}


def test_hosts_with_interfaces_of_different_names_have_a_network():
    faces = [[Interface(n, f"10.0.0.{i}", "10.0.0.0/24")] for i, n in enumerate(("ens3", "eth0"))]
    hosts = [Host(0, faces[0], {"ens3": [1]}, {}), Host(1, faces[1], {"eth0": [0]}, {})]
    assert common_networks(hosts) == ["10.0.0.0/24"]
    assert flags(hosts) == {
        "mpirun": "--mca btl_tcp_if_include 10.0.0.0/24 --mca oob_tcp_if_include 10.0.0.0/24",
        "NCCL": "NCCL_SOCKET_IFNAME=ens3,eth0",
    }


def test_the_fit_gives_back_what_the_samples_were_made_of():
    bandwidth, latency = 12.5e6, 2e-3
    sizes = (4, 1 << 16, 1 << 20, 1 << 24)
    samples = [Sample(k, 2 * 3 / 4 * k / bandwidth + latency) for k in sizes]
    link = fit(4, 2, samples)
    assert link.bandwidth == pytest.approx(bandwidth, rel=1e-6)
    assert link.latency == pytest.approx(latency, rel=1e-6)
