"""Updates whose outcome the host reads one later."""

import json
import subprocess

import pytest

from hvd_yolo import checkpoint
from tests.conftest import REPOSITORY

OPTIONS = (
    "--device", "cuda", "--data", "shapes:16", "--imgsz", "64", "--batch_size", "4", "--workers",
    "0", "--eval.every", "0", "--train.amp", "none",
)  # fmt: skip


def faulty(python, folder, fault, *options):
    arguments = ["-m", "tests.cluster.programs.faulty", fault, "0", "--output", str(folder)]
    done = subprocess.run(
        [*python, *arguments, *OPTIONS, *options], cwd=REPOSITORY, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return done, [(line["event"], line["step"]) for line in metrics if line["kind"] == "event"]


@pytest.mark.gpu
def test_an_update_that_is_no_number_is_left_out_and_named(python, tmp_path):
    """No line of progress makes the host look sooner."""
    options = ("--max_updates", "8", "--report.every", "8")
    done, events = faulty(python, tmp_path, "nan", *options)
    assert done.returncode == 0, done.stdout
    assert events == [("not finite", 6)]
    saved = checkpoint.load(tmp_path / "checkpoints" / "last.pt")["training"]
    assert all(bool(x.isfinite().all()) for x in saved["model"].values())
    assert all(bool(x.isfinite().all()) for x in saved["ema"].values())
    assert (saved["updates"], saved["bad_updates"]) == (8, 0)


@pytest.mark.gpu
def test_a_run_that_diverges_goes_back_one_update_later(python, tmp_path):
    options = (
        "--train.max_bad_updates", "1", "--checkpoint.every_updates", "3", "--max_updates", "9",
        "--train.on_divergence", "rollback", "--report.every", "9",
    )  # fmt: skip
    done, events = faulty(python, tmp_path, "nan twice", *options)
    assert done.returncode == 0, done.stdout
    # Update 8 was under way, and is undone as well.
    assert events == [("not finite", 6), ("not finite", 7), ("rolled back", 8)]
    assert "back to the weights after update 4" in done.stdout
    saved = checkpoint.load(tmp_path / "checkpoints" / "last.pt")["training"]
    assert (saved["updates"], saved["rollbacks"], saved["bad_updates"]) == (9, 1, 0)
