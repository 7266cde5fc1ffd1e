"""A GPU whose memory does not suffice is one message with a remedy, wherever it is noticed."""

import re
import subprocess

import pytest

from tests.conftest import REPOSITORY, command_for, job_environment

pytestmark = pytest.mark.gpu

OPTIONS = (
    "--device", "cuda", "--data", "shapes:256", "--imgsz", "128", "--max_updates", "1",
    "--workers", "0", "--report.plots", "false", "--train.amp", "none",
)  # fmt: skip


@pytest.mark.parametrize(
    ("size", "megabytes", "options"),
    [
        pytest.param(1, 20, ("--batch_size", "1"), id="startup"),
        pytest.param(1, 90, ("--batch_size", "32", "--eval.every", "0"), id="training"),
        pytest.param(2, 90, ("--batch_size", "32", "--eval.every", "0"), id="training-2"),
        pytest.param(1, 90, ("--batch_size", "1", "--eval.batch_size", "64"), id="evaluation"),
    ],
)
def test_it_is_one_message_with_a_remedy(tmp_path, python, is_pretend, size, megabytes, options):
    if not is_pretend:
        pytest.skip("the memory of a real GPU cannot be set")
    run = tmp_path / "run"
    arguments = ["-m", "hvd_yolo.train", "--output", str(run), *OPTIONS, *options]
    memory = {"PRETEND_CUDA_MEMORY": str(megabytes << 20), "PRETEND_CUDA_DEVICES": str(size)}
    done = subprocess.run(
        command_for(size, [*python[1:], *arguments]), capture_output=True, text=True, check=False,
        cwd=REPOSITORY, env=job_environment(**memory), timeout=240,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    told = re.findall(r"error: (.*)out of the GPU's memory: .*Remedy: (.*)", done.stderr)
    # Of a rank that the launcher ends meanwhile there is none.
    assert 1 <= len(told) <= size, done.stderr
    assert all(place.startswith("rank ") == (size == 2) for place, _ in told)
    assert all("--batch_size -1" in remedy for _, remedy in told)
    assert "Traceback" not in done.stderr
    metrics = run / "metrics.jsonl"
    has_trained = metrics.is_file() and '"train"' in metrics.read_text()
    assert has_trained == ("--eval.batch_size" in options)
