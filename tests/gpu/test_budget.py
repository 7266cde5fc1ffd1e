"""How often the host waits for the GPU in a training step."""

import pytest

from tests.gpu.steps import steps_of
from tests.teachers import write_teacher

pytestmark = pytest.mark.gpu

# The event of the batch's copy, and one that keeps the host from running more than a step ahead.
BUDGET = 2

FAMILIES = ("yolov8n", "yolov10n", "yolo11n", "yolox-nano", "yolov5n")


@pytest.fixture(scope="module")
def table():
    """Rows that are printed at the end."""
    rows = []
    yield rows
    print("\nsyncs a step   operators a step")
    for name, steps in rows:
        print(f"{steps.syncs:12.1f}   {steps.launches:16.0f}   {name}")


def check(name, table, sync_counts, folder, *options):
    arguments = ("--device", "cuda", "--data", "shapes:256", "--imgsz", "64", *options)
    steps = steps_of([*arguments, "--output", str(folder)], sync_counts)
    table.append((name, steps))
    listed = "\n".join(f"{number:6.2f}  {place}" for place, number in steps.by_place.items())
    assert 0 < steps.most <= BUDGET, f"{name}: {steps.syncs:.1f} a step\n{listed}"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_waits_twice(name, table, sync_counts, tmp_path):
    check(name, table, sync_counts, tmp_path, "--model", name, "--batch_size", "4")


def test_the_number_of_images_does_not_matter(table, sync_counts, tmp_path):
    options = ("--model", "yolox-nano", "--batch_size", "16")
    check("yolox-nano, 16 images", table, sync_counts, tmp_path, *options)


@pytest.mark.parametrize("name", ["yolov8n", "yolox-nano"])
def test_a_teacher_adds_no_wait(name, table, sync_counts, tmp_path):
    teacher = write_teacher(tmp_path / "teacher.pt", "yolo11n")
    options = ("--model", name, "--batch_size", "4", "--teacher", teacher)
    check(f"{name} with a teacher", table, sync_counts, tmp_path / "run", *options)


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_low_precision_adds_no_wait(amp, table, sync_counts, tmp_path):
    options = ("--model", "yolov8n", "--batch_size", "4", "--train.amp", amp)
    check(f"yolov8n in {amp}", table, sync_counts, tmp_path, *options)
