"""The ranks of a host speak through the first of them, and each is named for its own fault
alone."""

import os
import re

import pytest

from hvd_yolo.watchdog.tree import relays_of
from hvd_yolo.watchdog.watch import seconds_between_beats
from tests.conftest import needs_mpi, run_job

PROGRAM = ["-m", "tests.watchdog.programs.four_ranks"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a host name of its own needs root")


def test_the_first_rank_of_a_host_speaks_for_it():
    assert relays_of(["a", "a", "b", "b", "b", "c", "a"]) == [0, 0, 0, 2, 2, 0, 0]
    assert relays_of(["a", "b", "a", "b"]) == [0, 0, 0, 1]


def test_rank_0_hears_as_many_a_second_of_more_ranks():
    assert [seconds_between_beats(size) for size in (2, 64, 128, 512)] == [1, 1, 2, 8]


@needs_mpi
@needs_root
@pytest.mark.parametrize(
    ("fault", "rank", "kind", "said"),
    [
        ("stop", 3, "silent", "rank 3 on b has given no sign of life for"),
        ("stop", 2, "silent", "rank 2 on b has given no sign of life for"),
        ("sleep", 3, "late", "rank 3 on b has been in the start for"),
        ("fail", 2, "ended", "rank 2 on b has ended without a word while it was in"),
    ],
)
def test_behind_a_relay_the_culprit_alone_is_named(fault, rank, kind, said):
    # That a process has ended is left to its launcher for 5 seconds.
    timeout = "7" if fault == "fail" else "3"
    done = run_job(4, [*PROGRAM, fault, str(rank), timeout], timeout=240)
    assert done.returncode != 0
    told = done.stdout + done.stderr
    assert f"kind: {kind}" in told, told
    verdict = re.search(r"watchdog: (rank .*)", told)
    assert verdict[1].startswith(said), told
    named = set(re.findall(r"rank (\d) on \w (?:has|waits)", told))
    assert named == {str(rank)}, told
    if fault == "sleep":
        assert f"the Python stack of rank {rank}:" in told
        assert "in go_wrong" in told


@needs_mpi
@needs_root
def test_rank_0_hears_of_all_and_an_orderly_end_is_quiet():
    done = run_job(4, [*PROGRAM, "none", "3", "3"], timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "heard of: 0a 1a 2b 3b" in done.stdout
    assert "watchdog" not in done.stdout + done.stderr
