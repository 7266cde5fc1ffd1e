"""What needs hardware that a test cannot make, judged on what ranks there would tell; and the
arithmetic."""

import os
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from hvd_yolo.doctor import limits, ranks, sameness
from hvd_yolo.doctor.allreduce import Sample, fit
from hvd_yolo.doctor.data_sets import Look, look
from hvd_yolo.doctor.data_sets import judge as judge_data
from hvd_yolo.doctor.disks import file_system_type, try_out
from hvd_yolo.doctor.disks import judge as judge_disk
from hvd_yolo.doctor.facts import gather_facts, rdma_devices, rdma_present
from hvd_yolo.doctor.interfaces import Interface
from hvd_yolo.doctor.routes import Host, common_names, common_networks, flags
from hvd_yolo.doctor.routes import judge as judge_routes


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
            "rdma_present": ["mlx5_0"], "rdma_devices": ["mlx5_0"], "locked_memory": -1,
            **more}  # fmt: skip


def test_nothing_is_wrong_with_a_gpu_each(here):
    b = {"host": "b", "host_id": "b"}
    found = ranks.judge(job(here, gpu("x"), gpu("y"), gpu("z", **b), gpu("u", **b)), "auto")
    assert found == []


def test_ranks_on_one_gpu(here):
    assert codes(ranks.judge(job(here, gpu("x"), gpu("y"), gpu("x")), "auto")) == {
        "gpu-shared": [0, 2]
    }


def test_a_gpu_that_torch_does_not_see(here):
    blind = {"gpu": "", "gpus_seen": 0, "gpus_present": 2, "variables": {}}
    assert codes(ranks.judge(job(here, blind), "auto")) == {"gpu-unseen": [0]}


def test_a_gpu_that_nobody_asked_for_may_stay_unseen(here):
    blind = {"gpu": "", "gpus_seen": 0, "gpus_present": 2, "variables": {}}
    assert ranks.judge(job(here, blind), "cpu") == []
    hidden = job(here, {**blind, "variables": {"CUDA_VISIBLE_DEVICES": ""}})
    assert ranks.judge(hidden, "auto") == []


def test_gpus_without_nccl(here):
    by_mpi = {**NCCL, "gpu": "mpi, by way of the host"}
    found = ranks.judge(job(here, gpu("x", engine=by_mpi), gpu("y", engine=by_mpi)), "auto")
    assert codes(found) == {"nccl-missing": [0, 1]}


def test_several_hosts_of_gpus_without_rdma(here):
    b, none = {"host": "b", "host_id": "b"}, {"rdma_present": [], "rdma_devices": []}
    assert codes(ranks.judge(job(here, gpu("x", **none), gpu("y", **none)), "auto")) == {}
    (found,) = ranks.judge(job(here, gpu("x"), gpu("y", **b, **none)), "auto")
    assert (found.severity, found.code, found.ranks) == ("warning", "network-no-rdma", [1])
    assert ranks.judge(job(here, none, {**b, **none}), "cpu") == []
    hidden = gpu("y", **b, rdma_devices=[])
    (found,) = ranks.judge(job(here, gpu("x"), hidden), "auto")
    assert (found.code, found.ranks) == ("network-no-rdma", [1])
    assert "--device /dev/infiniband" in found.remedy


def test_rdma_devices_are_read_from_the_kernel(tmp_path):
    assert (rdma_present(tmp_path), rdma_devices(tmp_path)) == ([], [])
    for name in ("mlx5_1", "mlx5_0"):
        (tmp_path / "sys/class/infiniband" / name).mkdir(parents=True)
    assert (rdma_present(tmp_path), rdma_devices(tmp_path)) == (["mlx5_0", "mlx5_1"], [])
    (tmp_path / "dev/infiniband").mkdir(parents=True)
    (tmp_path / "dev/infiniband/uverbs0").touch()
    assert rdma_devices(tmp_path) == ["mlx5_0", "mlx5_1"]


def test_cpus_of_another_node_than_the_gpus(here):
    near, far = gpu("x", gpu_node=0, cpu_nodes=[0]), gpu("y", gpu_node=1, cpu_nodes=[0])
    assert codes(ranks.judge(job(here, near, far), "auto")) == {"numa-far": [1]}


def test_one_host_under_two_names_of_the_launcher(here):
    found = ranks.judge(job(here, {"local_rank": 0}, {"local_rank": 0}), "auto")
    assert codes(found) == {"host-split": [0, 1]}


def test_more_loader_processes_than_cpus(here):
    four = {"affinity": [0, 1, 2, 3], "cpus": 4, "permitted": 4, "shm_free": 1 << 40}
    fitting = job(here, {**four, "workers": 3, "threads": 2}, {**four, "workers": 1, "threads": 2})
    assert limits.judge(fitting, 2) == []
    greedy = job(here, {**four, "workers": 8}, {**four, "workers": 8})
    assert codes(limits.judge(greedy, 2)) == {"workers-many": [0, 1]}


def test_ranks_bound_to_less_than_half_their_part(here):
    meant = {"permitted": 16, "affinity": [0, 1, 2, 3]}
    assert codes(limits.judge(job(here, meant, meant), 2)).get("cpu-bound") is None
    one = {"permitted": 16, "affinity": [0]}
    (found,) = [f for f in limits.judge(job(here, meant, one), 2) if f.code == "cpu-bound"]
    assert found.ranks == [1]
    assert "srun --cpu-bind=none" in found.remedy


def test_dockers_shared_memory_is_enough_without_loader_processes(here):
    docker = {"shm_total": 64 << 20, "shm_free": 64 << 20}
    assert "shm-small" not in codes(limits.judge(job(here, {**docker, "workers": 0}), 2))
    assert "shm-small" in codes(limits.judge(job(here, {**docker, "workers": 1}), 2))


def test_locked_memory_counts_where_it_is_little_and_there_is_infiniband(here):
    for devices, limit, is_low in (
        ([], 1 << 16, False), (["mlx5_0"], 1 << 16, True), (["mlx5_0"], 1 << 33, False),
        (["mlx5_0"], -1, False),
    ):  # fmt: skip
        found = job(here, {"rdma_devices": devices, "locked_memory": limit})
        assert ("memlock-low" in codes(limits.judge(found, 2))) == is_low


def test_places_that_launchers_tell_each_rank_may_differ(here):
    own = (
        "HOROVOD_RANK",
        "OMPI_MCA_orte_ess_node_rank",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_HOME",
        "UCX_NET_DEVICES",
        "NCCL_SOCKET_IFNAME",
        "OMPI_MCA_btl_tcp_if_include",
    )
    found = job(here, *({"variables": dict.fromkeys(own, str(rank))} for rank in range(3)))
    assert sameness.judge(found) == []
    meant = job(here, *({"variables": {"NCCL_DEBUG": level}} for level in ("INFO", "WARN", "WARN")))
    assert codes(sameness.judge(meant)) == {"environment-differs": [0]}


def test_another_path_of_the_same_python_is_no_warning(here):
    (other,) = sameness.judge(job(here, {}, {}, {"executable": "/opt/python"}))
    assert (other.code, other.severity, other.ranks) == ("python-differs", "info", [2])
    assert "on rank 0 (a) and 1 other, /opt/python on rank 2 (a)" in other.what
    changed = {"executable": "/opt/python", "versions": {**here.versions, "numpy": "1.0"}}
    found = {f.code: f.severity for f in sameness.judge(job(here, {}, {}, changed))}
    assert found == {"versions-differ": "warning", "python-differs": "warning"}


MOUNTS = """\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
40 22 0:40 / /data rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2
41 40 0:41 / /data/my\\040set rw,relatime - lustre 10.0.0.1@o2ib:/scratch rw
43 22 0:43 / /Gr\u00f6\u00dfe rw - xfs /dev/sdb rw
42 22 0:42 / /tmp rw,nosuid shared:3 - tmpfs tmpfs rw
""".splitlines()


def test_the_deepest_mount_is_the_file_system():
    assert file_system_type(Path("/home/me"), MOUNTS) == "ext4"
    assert file_system_type(Path("/data/coco"), MOUNTS) == "nfs4"
    assert file_system_type(Path("/data/my set/coco"), MOUNTS) == "lustre"
    assert file_system_type(Path("/database"), MOUNTS) == "ext4"
    assert file_system_type(Path("/Gr\u00f6\u00dfe/coco"), MOUNTS) == "xfs"


def test_a_network_file_system_is_well_with_a_cache(here):
    looks = {0: Look(splits={"train": 8}, digests={"train": "d"}, file_system="nfs4")}
    facts = job(here, {})
    assert codes(judge_data(facts, looks, is_kept=False)) == {"data-network": [0]}
    assert codes(judge_data(facts, looks, is_kept=True)) == {}


def test_hosts_with_interfaces_of_different_names_have_a_network():
    faces = [[Interface(n, f"10.0.0.{i}", "10.0.0.0/24")] for i, n in enumerate(("ens3", "eth0"))]
    reached = {"ens3": {"eth0": [1]}}, {"eth0": {"ens3": [0]}}
    hosts = [Host(rank, faces[rank], reached[rank], {}) for rank in range(2)]
    assert common_networks(hosts) == ["10.0.0.0/24"]
    assert flags(hosts) == {
        "mpirun": "--mca btl_tcp_if_include 10.0.0.0/24 --mca oob_tcp_if_include 10.0.0.0/24",
        "NCCL": "NCCL_SOCKET_IFNAME=ens3,eth0",
    }


def test_swapped_interfaces_are_common_by_network_alone(here):
    """Each eth0 reaches the other host, but at its eth1."""
    lan, san = "10.0.0.0/24", "192.168.0.0/24"
    reached = {"eth0": {"eth1": [1]}, "eth1": {"eth0": [1]}}
    one = Host(0, [Interface("eth0", "10.0.0.1", lan), Interface("eth1", "192.168.0.1", san)],
               reached, {})  # fmt: skip
    reached = {"eth0": {"eth1": [0]}, "eth1": {"eth0": [0]}}
    two = Host(1, [Interface("eth0", "192.168.0.2", san), Interface("eth1", "10.0.0.2", lan)],
               reached, {})  # fmt: skip
    assert common_names([one, two]) == []
    assert common_networks([one, two]) == [lan, san]
    b = {"host": "b", "host_id": "b"}
    named = {"variables": {"NCCL_SOCKET_IFNAME": "=eth0"}}
    found = judge_routes(job(here, named, {**b, **named}), [one, two])
    assert codes(found) == {"interface-unreachable": [0, 1]}
    by_network = {"variables": {"OMPI_MCA_btl_tcp_if_include": lan}}
    assert codes(judge_routes(job(here, by_network, {**b, **by_network}), [one, two])) == {}


def test_hosts_without_ipv4_are_a_warning(here):
    hosts = [Host(rank, [Interface("lo", "127.0.0.1", "127.0.0.0/8")], {}, {}) for rank in range(2)]
    facts = job(here, {"variables": {}}, {"variables": {}, "host": "b", "host_id": "b"})
    (found,) = judge_routes(facts, hosts)
    assert (found.code, found.severity) == ("interface-none", "warning")


def test_small_sums_tell_no_bandwidth():
    link = fit(2, 1, [Sample(4, 1e-3), Sample(4_000, 2e-3), Sample(64_000, 3e-3)])
    assert (link.bandwidth, link.latency) == (None, 2e-3)
    assert fit(2, 1, [*link.samples, Sample(500_000, 4e-3)]).bandwidth > 0


@contextmanager
def as_nobody():
    """Without root's leave to open everything."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that everybody may look into."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_an_image_that_may_not_be_opened_is_named(open_folder):
    for split in ("images", "labels"):
        (open_folder / split).mkdir()
    image = open_folder / "images" / "a.jpg"
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    (open_folder / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.3\n")
    file = open_folder / "data.yaml"
    file.write_text(f"path: {open_folder}\ntrain: images\nval: images\nnames: [a]\n")
    assert look(str(file)).unreadable == ""
    image.chmod(0)
    with as_nobody():
        found = look(str(file))
    assert found.unreadable == f"{image}: Permission denied"


def test_an_output_behind_a_locked_folder_is_unwritable(open_folder, here):
    (open_folder / "locked").mkdir(mode=0)
    folder = open_folder / "locked" / "runs"
    with as_nobody():
        disk = try_out(folder)
    assert codes(judge_disk(job(here, {}), disk, str(folder))) == {"output-unwritable": [0]}
    assert "Permission denied" in disk.error


def test_the_fit_gives_back_what_the_samples_were_made_of():
    bandwidth, latency = 12.5e6, 2e-3
    sizes = (4, 1 << 16, 1 << 20, 1 << 24)
    samples = [Sample(k, 2 * 3 / 4 * k / bandwidth + latency) for k in sizes]
    link = fit(4, 2, samples)
    assert link.bandwidth == pytest.approx(bandwidth, rel=1e-6)
    assert link.latency == pytest.approx(latency, rel=1e-6)
