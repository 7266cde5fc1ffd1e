import mmap

import pytest
import torch

from hvd_yolo.memory import MemoryMeter, _left_in_cgroups

MB = 10**6


def test_the_peak_of_a_piece_of_work_is_told_and_forgotten():
    def work(megabytes):
        # Not from malloc, which may have kept what an earlier test freed.
        with mmap.mmap(-1, megabytes * MB) as block:
            for _ in range(megabytes):
                block.write(bytes(MB))

    meter = MemoryMeter(torch.device("cpu"), 1)
    assert meter.available > 100 * MB
    assert meter.peak(lambda: work(100)) == pytest.approx(100 * MB, abs=10 * MB)
    assert meter.peak(lambda: work(10)) == pytest.approx(10 * MB, abs=10 * MB)


def test_ranks_of_a_host_share_what_is_free():
    alone, shared = (MemoryMeter(torch.device("cpu"), count) for count in (1, 4))
    assert shared.available == pytest.approx(alone.available / 4, rel=0.1)


def group(folder, names, limit, used, cache, key):
    folder.mkdir(parents=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{key} {cache}\n")


def test_a_limit_on_any_level_of_cgroup_2_counts(tmp_path):
    names = ("memory.max", "memory.current")
    group(tmp_path / "slurm", names, "max", 10, 0, "inactive_file")
    group(tmp_path / "slurm/job", names, 1000, 700, 300, "inactive_file")
    group(tmp_path / "slurm/job/step", names, 5000, 100, 0, "inactive_file")
    found = _left_in_cgroups("0::/slurm/job/step\n", tmp_path)
    assert sorted(found) == [600, 4900]


def test_a_container_sees_its_own_cgroup_1_as_the_root(tmp_path):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(tmp_path / "memory", names, 1000, 900, 50, "total_inactive_file")
    memberships = "9:cpuset:/\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n"
    assert list(_left_in_cgroups(memberships, tmp_path)) == [150]
