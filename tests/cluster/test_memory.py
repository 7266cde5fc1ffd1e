"""Ranks that run out of memory."""

import re
import time

import pytest

from tests.conftest import needs_mpi, run_job

PROGRAM = "tests/cluster/programs/limited.py"
OPTIONS = ("--data", "shapes:64", "--imgsz", "320", "--batch_size", "32", "--workers", "0",
           "--device", "cpu", "--max_updates", "3", "--report.plots", "false")  # fmt: skip


@needs_mpi
@pytest.mark.parametrize("size", [1, 2])
def test_a_rank_that_runs_out_of_memory_says_so_and_ends_the_job(tmp_path, size):
    started = time.monotonic()
    # Enough to start by, and too little for the activations of 32 images.
    limited = [PROGRAM, str(size - 1), "1200", "hvd_yolo.train", *OPTIONS]
    done = run_job(size, [*limited, "--output", str(tmp_path / "run")], timeout=120)
    assert done.returncode == 2, done.stderr[-3000:]
    told = re.findall(r"hvd_yolo: error:.*", done.stderr)
    assert len(told) == 1
    assert re.search(r"out of memory: [\d.]+ [MG]B were requested; [\d.]+ GB are free", told[0])
    assert re.search(r"[\d.]+ [MG]B are left of this process's own limit", told[0])
    assert "Remedy: --batch_size -1" in told[0]
    assert "--train.checkpoint_activations true" in told[0]
    assert ("rank 1 on" in told[0]) == (size == 2)
    assert "Traceback" not in done.stdout + done.stderr
    assert time.monotonic() - started < 60
