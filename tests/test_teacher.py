"""Training with a teacher as its user meets it."""

import json

import pytest
import torch

from hvd_yolo import checkpoint
from hvd_yolo.config import Config
from hvd_yolo.data.shapes import NAMES
from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model
from hvd_yolo.precision import inference_dtype
from hvd_yolo.teacher import learn_from
from hvd_yolo.train import main
from tests.conftest import run_job, train
from tests.teachers import write_teacher
from tests.test_train import SMALL, losses, refusal

LEARN = (*SMALL, "--report.every", "1", "--workers", "0")


@pytest.fixture
def teacher(tmp_path):
    return write_teacher(tmp_path / "teacher.pt", "yolo11n")


def test_what_a_teacher_adds_is_told_and_no_part_of_the_score(tmp_path, teacher):
    train(1, tmp_path / "a", *LEARN, "--teacher", teacher, "--eval.every", "2")
    found = losses(tmp_path / "a")
    assert found[0].keys() == {"box", "cls", "dfl", "distill_box", "distill_cls"}
    assert found[0]["distill_box"] > 0 < found[0]["distill_cls"]
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    [scored] = [line for line in map(json.loads, lines) if line["kind"] == "eval"]
    assert scored["val_losses"].keys() == {"box", "cls", "dfl"}
    kept = checkpoint.load(tmp_path / "a" / "checkpoints" / "last.pt")["training"]
    own = build_model("yolov8n", 6)
    assert kept["model"].keys() == kept["ema"].keys() == own.state_dict().keys()
    assert len(kept["optimizer"]["state"]) == len(list(own.parameters()))


@pytest.mark.long
def test_a_resumed_student_keeps_the_teacher_it_had(tmp_path, teacher):
    """Bitwise, though another one now has the name: a teacher's training may go on."""
    options = (*LEARN, "--teacher", teacher, "--eval.every", "0", "--epochs", "3")
    train(1, tmp_path / "whole", *options)
    part = ["-m", "hvd_yolo.train", *options, "--output", str(tmp_path / "parts")]
    assert run_job(1, [*part, "--max_hours", "1e-9"]).returncode == 75
    write_teacher(tmp_path / "teacher.pt", "yolov8n")
    train(1, tmp_path / "parts", *options, "--max_hours", "0")
    whole, parts = (
        checkpoint.load(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "parts")
    )
    assert whole["training"]["updates"] == parts["training"]["updates"] == 6
    for part in ("model", "ema"):
        for name, value in whole["training"][part].items():
            assert torch.equal(value, parts["training"][part][name]), name
    told = refusal("--resume", str(tmp_path / "parts"), "--distill.box", "2")
    assert "distill.box is 2.0" in told


def test_what_cannot_teach_is_refused_before_training(tmp_path, teacher):
    def refusal(*options):
        with pytest.raises(InputError) as caught:
            main([*LEARN, "--output", str(tmp_path / "a"), *options])
        return str(caught.value)

    none = refusal("--teacher", str(tmp_path / "none.pt"))
    assert "teacher: checkpoint" in none
    assert "no such file" in none
    other = write_teacher(tmp_path / "other.pt", names=("cat", "dog"))
    assert "its classes are cat, dog" in refusal("--teacher", other)
    foreign = ("--model", "tests.models.plain_detector:build", "--teacher", teacher)
    assert "plain_detector:build is no built-in model" in refusal(*foreign)
    told = refusal("--model", "yolov5n", "--teacher", teacher)
    assert "yolov5n cannot learn from yolo11n: one has anchors" in told
    assert not (tmp_path / "a" / "metrics.jsonl").exists()


@pytest.mark.long
def test_a_batch_is_found_with_the_teacher_beside_it(tmp_path, teacher):
    options = ("--data", "shapes:80", "--imgsz", "64", "--max_updates", "1", "--eval.every", "0")
    train(1, tmp_path / "a", *options, "--batch_size", "-1", "--teacher", teacher)


def test_the_teacher_computes_in_float64_where_all_does():
    assert inference_dtype("float64", torch.device("cpu")) == torch.float64
    assert inference_dtype("float32", torch.device("cpu")) != torch.float64


def test_a_teacher_of_the_same_classes_in_another_order_teaches_the_same(tmp_path, teacher):
    """Its class outputs are put in the order of the data's."""
    content = checkpoint.load(tmp_path / "teacher.pt")
    moved = [3, 0, 5, 1, 2, 4]
    other = content | {"names": [content["names"][k] for k in moved]}
    other["weights"] = {
        name: value[moved] if value.shape[:1] == (6,) else value
        for name, value in content["weights"].items()
    }
    config = Config(model="yolov8n", teacher=teacher)
    torch.manual_seed(0)
    student = build_model("yolov8n", 6).train()
    images = torch.rand(2, 3, 64, 64)
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([2])}] * 2
    losses = []
    for each in (content, other):
        dtype = {"dtype": "float32", "file": teacher}
        losses_of = learn_from(each | dtype, config, student, NAMES, torch.device("cpu"))
        losses.append({k: float(v) for k, v in losses_of(student, images, targets).terms.items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0]["distill_cls"] > 0
