"""The statistics of a soup."""

from tests.conftest import run_job


def test_a_rank_counts_by_its_batches():
    """Of 3 ranks and 2 batches one has none; batches of single values are refused."""
    told = []
    for size, launcher in ((1, ""), (3, "torchrun")):
        done = run_job(size, ["-m", "tests.comm.programs.soup_statistics"], launcher)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        told.append({float(line.split()[1]) for line in lines if line.startswith("statistics")})
        assert sum("refused: the statistics of BatchNorm" in line for line in lines) == size
    assert len(told[1]) == 1
    assert abs(told[0].pop() / told[1].pop() - 1) < 1e-4
