import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from tests.conftest import REPOSITORY, job_environment, run_job
from tests.data import silent_losses
from tests.data.label_mutations import ANY, KEPT, LOST

# Data sets without an object on which a training is started, about 3 s each.
NUM_TRAININGS = 4


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A line for each of the data sets, read in a process of its own."""
    folder = tmp_path_factory.mktemp("mutated")
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.silent_losses", str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=500,
        check=False,
        cwd=REPOSITORY,
        env=job_environment(),
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1:]}\n{done.stderr[-3000:]}"
    return [line for line in lines if "outcome" in line]


def test_no_mutated_data_set_loses_its_objects_silently(results):
    assert len(results) == silent_losses.NUM_CASES
    faults = [line for line in results if line["outcome"] in ("silent", "error", "not read before")]
    counts = Counter((line["outcome"], line["mutation"], line["format"]) for line in faults)
    listing = "\n".join(f"{count} x {' '.join(kind)}" for kind, count in sorted(counts.items()))
    assert not faults, f"{listing}\nthe first: {faults[0]}"


def test_training_refuses_data_sets_without_objects(results, tmp_path):
    # Training finds no `train` in what CVAT calls `default`.
    lines = [line for line in results if line["format"] != "cvat_coco"]
    empty = {line["mutation"]: line for line in lines if line["outcome"] == "empty"}
    for number, line in enumerate(list(empty.values())[:NUM_TRAININGS]):
        options = ("--data", line["path"], "--output", str(tmp_path / str(number)), "--imgsz", "32",
                   "--max_updates", "2", "--batch_size", "2", "--eval.every", "0", "--workers", "0",
                   "--device", "cpu")  # fmt: skip
        done = run_job(1, ["-m", "hvd_yolo.train", *options])
        assert done.returncode == 2, f"{line}\n{done.stdout}{done.stderr}"
        assert done.stderr.count("hvd_yolo: error:") == 1, done.stderr
        assert re.search("object|no train split", done.stderr), done.stderr
        assert "Traceback" not in done.stderr


def objects(count, shift=0.0):
    return [("im", "cell", [float(i), 0.0, i + 2.0 + shift, 2.0]) for i in range(count)]


@pytest.mark.parametrize(
    ("expected", "found", "is_reported", "outcome"),
    [
        (KEPT, objects(4), False, "right"),
        (KEPT, objects(3), False, "silent"),
        (KEPT, objects(4, 0.1), False, "silent"),
        (KEPT, objects(8), False, "silent"),
        (KEPT, objects(3), True, "reported"),
        (LOST, objects(4), False, "silent"),
        (LOST, objects(0), True, "reported"),
        (ANY, objects(2), False, "changed"),
        (ANY, objects(1), False, "silent"),
        (ANY, objects(0), False, "empty"),
    ],
)
def test_the_outcome_is_judged_by_what_is_learned(expected, found, is_reported, outcome):
    reading = silent_losses.Reading(found, [])
    assert silent_losses.outcome(expected, reading, objects(4), is_reported) == outcome


def test_a_data_set_that_means_the_same_is_right_without_a_report(tmp_path):
    kinds = [(writer.__name__, mutation.__name__) for writer, mutation, _ in silent_losses.KINDS]
    number = kinds.index(("yolo_folders", "absolute_path"))
    found, reports, _ = silent_losses.try_case(number, tmp_path)
    assert (found, reports) == ("right", [])
