"""Whole runs on GPUs: training on one and two ranks, resume, evaluation, prediction, refusals."""

import json
import shutil

import pytest
import torch

from hvd_yolo import evaluate
from hvd_yolo.errors import Stopped
from hvd_yolo.evaluate.__main__ import main as evaluate_main
from hvd_yolo.predict.__main__ import main as predict_main
from hvd_yolo.train import main as train_main
from tests.gpu.running import FLOAT64, QUIET, is_equal, largest_difference, run, training_state
from tests.predict.conftest import save_picture
from tests.teachers import write_teacher

pytestmark = pytest.mark.gpu

TRAIN = ("-m", "hvd_yolo.train", "--device", "cuda")
SMALL = ("--data", "shapes:16", "--imgsz", "64", "--batch_size", "4", *QUIET)


@pytest.fixture(scope="session")
def two_gpus(is_pretend):
    if not is_pretend and torch.cuda.device_count() < 2:
        pytest.skip("two ranks need two GPUs")


@pytest.fixture(scope="session")
def on_cpu(tmp_path_factory):
    """The state after the float64 run of one rank on the CPU."""
    folder = tmp_path_factory.mktemp("cpu")
    train_main(["--device", "cpu", "--output", str(folder), *FLOAT64])
    return training_state(folder)


def test_one_rank_is_the_cpu(on_cpu, python, tmp_path):
    done = run(python, 1, "none", *TRAIN, "--output", str(tmp_path), *FLOAT64)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on cuda" in done.stdout
    state = training_state(tmp_path)
    assert state["updates"] == 4
    assert largest_difference(state, on_cpu) < 1e-12


@pytest.mark.parametrize("launcher", ["mpirun", "torchrun"])
@pytest.mark.usefixtures("two_gpus")
def test_two_ranks_are_the_cpu(on_cpu, python, tmp_path, launcher):
    """SyncBatchNorm over uneven shares: 3 and 2 images."""
    if launcher == "mpirun" and shutil.which("mpirun") is None:
        launcher = "gloo"
    done = run(python, 2, launcher, *TRAIN, "--output", str(tmp_path), *FLOAT64)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ranks: 2 by" in done.stdout
    assert "on cuda" in done.stdout
    assert largest_difference(training_state(tmp_path), on_cpu) < 1e-12


def test_two_ranks_on_one_gpu_are_refused(python, tmp_path):
    arguments = (*TRAIN, "--output", str(tmp_path), *SMALL)
    launcher = "gloo" if shutil.which("mpirun") is None else "mpirun"
    done = run(python, 2, launcher, *arguments, CUDA_VISIBLE_DEVICES="0", PRETEND_CUDA_DEVICES="1")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "both compute on GPU" in done.stdout + done.stderr


def test_resume_is_bitwise(tmp_path):
    options = ("--device", "cuda", *SMALL, "--max_updates", "6", "--train.amp", "fp16")
    train_main([*options, "--output", str(tmp_path / "whole")])
    with pytest.raises(Stopped):
        train_main([*options, "--output", str(tmp_path / "parts"), "--max_hours", "1e-9"])
    assert training_state(tmp_path / "parts")["updates"] < 6
    train_main([*options, "--output", str(tmp_path / "parts"), "--max_hours", "0"])
    whole, parts = (training_state(tmp_path / name) for name in ("whole", "parts"))
    assert whole["updates"] == parts["updates"] == 6
    for key in ("model", "ema", "optimizer", "scaler"):
        assert is_equal(whole[key], parts[key]), key


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A detector that finds something."""
    return write_teacher(tmp_path_factory.mktemp("weights") / "best.pt", "yolov8n")


def tolerance(is_pretend):
    """A real GPU rounds otherwise than the CPU does, with TF32 much."""
    return 1e-5 if is_pretend else 2e-2


def test_evaluation_is_the_cpus(weights, is_pretend, capsys):
    scores = {}
    for device in ("cpu", "cuda"):
        evaluate_main([
            "--weights", weights, "--data", "shapes:16", "--imgsz", "64", "--device", device,
            "--workers", "0", "--eval.loss", "true", "--eval.amp", "none",
        ])  # fmt: skip
        scores[device] = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in (*evaluate.scoring.COCO_NUMBERS, "val_loss", "precision"):
        close = pytest.approx(scores["cpu"][name], abs=tolerance(is_pretend))
        assert scores["cuda"][name] == close, name
    assert scores["cuda"]["images"] > 0


def test_prediction_is_the_cpus(weights, is_pretend, tmp_path):
    for seed in range(3):
        save_picture(tmp_path / "in" / f"{seed}.png", seed)
    results = {}
    for device in ("cpu", "cuda"):
        predict_main([
            "--weights", weights, "--source", str(tmp_path / "in"), "--device", device,
            "--output", str(tmp_path / device), "--conf", "0.1", "--workers", "0",
            "--imgsz", "64", "--amp", "none",
        ])  # fmt: skip
        results[device] = json.loads((tmp_path / device / "detections.json").read_text())
    assert len(results["cpu"]) == len(results["cuda"]) > 0
    if is_pretend:
        for ours, theirs in zip(results["cuda"], results["cpu"], strict=True):
            assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=1e-2)
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)


def test_a_teacher_runs_beside_its_student(weights, tmp_path):
    options = ("--teacher", weights, "--max_updates", "3", "--report.every", "1")
    train_main(["--device", "cuda", "--output", str(tmp_path), *SMALL, *options])
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    losses = [line["losses"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 3
    assert losses[-1]["distill_box"] > 0 < losses[-1]["distill_cls"]


def test_the_batch_size_is_found_from_the_memory(python, is_pretend, tmp_path):
    if not is_pretend:
        pytest.skip("a real GPU's memory takes minutes to fill")
    sizes = []
    for megabytes in (75, 150):
        options = (*SMALL, "--data", "shapes:4000", "--batch_size", "-1", "--max_updates", "1")
        done = run(
            python, 1, "none", *TRAIN, "--output", str(tmp_path / str(megabytes)), *options,
            PRETEND_CUDA_MEMORY=str(megabytes << 20),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        [line] = [line for line in done.stdout.splitlines() if line.startswith("batch: ")]
        sizes.append(int(line.split()[1]))
    assert 0 < sizes[0] < sizes[1]


def test_too_little_memory_is_one_message(python, is_pretend, tmp_path):
    if not is_pretend:
        pytest.skip("a real GPU has more")
    arguments = (*TRAIN, "--output", str(tmp_path), *SMALL, "--max_updates", "2")
    done = run(python, 1, "none", *arguments, PRETEND_CUDA_MEMORY=str(30 << 20))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    assert "memory" in done.stderr
