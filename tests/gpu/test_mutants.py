"""The suite itself: planted faults, none of which a CPU shows, must be noticed.

Where a function of the package is renamed or rewritten, FAULTS names the new one.
"""

import json
import os
import subprocess
from typing import NamedTuple

import pytest

from tests.conftest import job_environment
from tests.gpu.mutants import PYTHON, Edit, copy_with_fault, insert, replace, return_instead
from tests.gpu.running import QUIET

pytestmark = pytest.mark.gpu


class Fault(NamedTuple):
    """functions: pattern of the names where it is planted; edit: how; message: what the run must
    end with, empty: it fails or waits more often a step; model: which shows it."""

    functions: str
    edit: Edit
    message: str
    model: str = "yolov8n"


ELSEWHERE = "Expected all tensors to be on the same device"

FAULTS = {
    "an assigner's boxes stay on the CPU": Fault(
        "task_aligned", insert("true_boxes = true_boxes.cpu()"), ELSEWHERE
    ),
    "YOLOX's boxes stay on the CPU": Fault(
        "optimal_transport", insert("true_boxes = true_boxes.cpu()"), ELSEWHERE, "yolox-nano"
    ),
    "a loss's target stays on the CPU": Fault(
        "distance_loss", insert("targets = targets.cpu()"), ELSEWHERE
    ),
    "the sums of a step stay on the CPU": Fault(
        r"Tally\.of_update", return_instead("RESULT.cpu()"), ""
    ),
    "no wait for the event of the batch's copy": Fault(
        "_copied_ahead|_arrived", replace(r"\S+\.synchronize\(\)", "pass"), "race: "
    ),
    "one slot too few": Fault(
        r"Loader\.__init__|num_slots", replace(r"\+ (2|_SLOTS_IN_USE)\b", "+ 1"), "race: "
    ),
    "memory of the copying stream without record_stream": Fault(
        "_copied_ahead|_arrived", replace(r"\S+\.record_stream\(.*\)", "pass"),
        "record_stream() is missing",
    ),
    "one item() more": Fault(
        "as_losses", insert("float(next(iter(losses.terms.values())))"), ""
    ),
}  # fmt: skip


def run_in(folder, *arguments):
    """A program on the pretend device with the package of the folder."""
    environment = {**job_environment(), "PYTHONPATH": str(folder)}
    return subprocess.run(
        [*PYTHON, *arguments], capture_output=True, text=True, timeout=300, check=False,
        cwd=folder, env=environment,
    )  # fmt: skip


def count_steps(folder, model):
    """The run, and the host-device synchronizations of a step where it got that far."""
    arguments = (
        "--device", "cuda", "--data", "shapes:64", "--imgsz", "64", "--batch_size", "2",
        "--workers", "0", "--model", model, "--output", str(folder / "run"), *QUIET,
    )  # fmt: skip
    file = folder / "steps.json"
    done = run_in(folder, "-m", "tests.gpu.programs.count_steps", str(file), *arguments)
    return done, json.loads(file.read_text())["syncs"] if file.exists() else 0.0


@pytest.fixture(scope="module")
def usual(is_pretend, tmp_path_factory):
    """Synchronizations of a step without a fault."""
    if not is_pretend:
        pytest.skip("a real GPU hides most of these faults")
    folder = tmp_path_factory.mktemp("usual")
    copy_with_fault(folder, "as_losses", insert("pass"))
    done, syncs = count_steps(folder, "yolov8n")
    assert done.returncode == 0, done.stderr
    return syncs


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_noticed(name, usual, tmp_path):
    fault = FAULTS[name]
    copy_with_fault(tmp_path, fault.functions, fault.edit)
    done, syncs = count_steps(tmp_path, fault.model)
    if fault.message:
        assert done.returncode != 0
        assert fault.message in done.stdout + done.stderr
    else:
        assert done.returncode != 0 or syncs > usual + 0.5, done.stderr[-2000:]


def test_autocast_for_the_wrong_device_is_noticed(usual, tmp_path):
    """Nothing fails: only the features' dtype tells."""
    copy_with_fault(tmp_path, "autocast", insert('device = torch.device("cpu")'))
    name = "tests/gpu/test_families.py::test_features_have_the_dtype_of_amp"
    done = run_in(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{name}[yolov8n-bf16]")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert os.path.realpath(tmp_path / "tests") != str(tmp_path / "tests")
