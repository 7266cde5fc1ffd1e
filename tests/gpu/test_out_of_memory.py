"""A GPU whose memory does not suffice is one message with a remedy, wherever it is noticed."""

import subprocess

import pytest

from tests.conftest import REPOSITORY, job_environment

pytestmark = pytest.mark.gpu

OPTIONS = (
    "--device", "cuda", "--data", "shapes:64", "--imgsz", "128", "--max_updates", "1",
    "--workers", "0", "--report.plots", "false", "--train.amp", "none",
)  # fmt: skip


@pytest.mark.parametrize(
    ("megabytes", "options"),
    [
        pytest.param(20, ("--batch_size", "1"), id="startup"),
        pytest.param(90, ("--batch_size", "32", "--eval.every", "0"), id="training"),
        pytest.param(90, ("--batch_size", "1", "--eval.batch_size", "64"), id="evaluation"),
    ],
)
def test_it_is_one_message_with_a_remedy(tmp_path, python, is_pretend, megabytes, options):
    if not is_pretend:
        pytest.skip("the memory of a real GPU cannot be set")
    arguments = ["-m", "hvd_yolo.train", "--output", str(tmp_path / "run"), *OPTIONS, *options]
    done = subprocess.run(
        [*python, *arguments], capture_output=True, text=True, check=False, cwd=REPOSITORY,
        env=job_environment(PRETEND_CUDA_MEMORY=str(megabytes << 20)), timeout=240,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("error: out of the GPU's memory") == 1, done.stderr
    assert done.stderr.count("Remedy: ") == 1
    assert "Traceback" not in done.stderr
    assert "batch_size" in done.stderr
    is_evaluation = "--eval.batch_size" in options
    has_trained = (tmp_path / "run" / "metrics.jsonl").is_file() and (
        '"train"' in (tmp_path / "run" / "metrics.jsonl").read_text()
    )
    assert has_trained == is_evaluation
