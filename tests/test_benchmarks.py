"""The programs in benchmarks/ run."""

from tests.conftest import run_job


def test_the_startup_benchmark_compares_two_checkouts_in_both_formats():
    done = run_job(1, ["benchmarks/startup.py", "--smoke"])
    assert done.returncode == 0, done.stderr
    for kind in ("yolo", "coco"):
        assert f"| {kind} | start | " in done.stdout
