"""The command as its user meets it: what it writes, what it refuses, and that the ways to the same
end agree."""

import json

import pytest
import torch
import yaml

from hvd_yolo import checkpoint
from tests.conftest import run_job, train
from tests.data.test_readers import make_yolo

SMALL = ("--data", "shapes:16", "--imgsz", "64", "--epochs", "2", "--batch_size", "8")


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if line["kind"] == "train"]


def refusal(*options, code=2):
    done = run_job(1, ["-m", "hvd_yolo.train", *options])
    told = done.stderr.strip()
    assert done.returncode == code, done.stdout + told
    assert "Traceback" not in told
    errors = [line for line in told.splitlines() if line.startswith("hvd_yolo: error:")]
    assert len(errors) == 1
    return errors[0]


def test_a_run_writes_its_files(tmp_path):
    train(1, tmp_path, *SMALL, "--report.every", "1", "--checkpoint.every_epochs", "1")
    names = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()}
    assert names == {
        "config.yaml", "environment.json", "metrics.jsonl", "checkpoints/best.pt",
        "checkpoints/last.pt", "checkpoints/last-1.pt", "checkpoints/epoch_001.pt",
        "checkpoints/epoch_002.pt", "evaluation.npz", "metrics.csv", "ranks.json", "ranks.jsonl",
    }  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds == ["train", "train", "eval", "train", "train", "eval"]
    assert lines[0].keys() == {
        "kind", "epoch", "step", "images", "lr", "loss", "losses", "grad_norm", "sent_bytes",
        "images_per_s", "data_wait", "comm_wait", "seconds", "time",
    }  # fmt: skip
    assert lines[0]["images"] == 8
    assert lines[0]["loss"] == pytest.approx(sum(lines[0]["losses"].values()))
    assert {"AP", "AP50", "AR_100", "precision", "recall", "val_loss", "per_class"} <= lines[
        2
    ].keys()
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["imgsz"] == 64
    start = json.loads((tmp_path / "environment.json").read_text())[0]
    assert start["packages"]["torch"] == torch.__version__
    assert start["comm"]["size"] == len(start["ranks"]) == 1


def test_a_plain_command_takes_the_next_free_folder(tmp_path, monkeypatch):
    command = ["-m", "hvd_yolo.train", *SMALL, "--max_updates", "1", "--eval.every", "0"]
    monkeypatch.chdir(tmp_path)
    from hvd_yolo.train import main

    for _ in range(2):
        main(command[2:])
    assert sorted(f.name for f in (tmp_path / "runs").iterdir()) == ["exp", "exp2"]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_low_precision_follows_float32(tmp_path, amp):
    options = (*SMALL, "--report.every", "1", "--eval.every", "0")
    train(1, tmp_path / "a", *options, "--train.amp", "none")
    train(1, tmp_path / "b", *options, "--train.amp", amp)
    exact, low = losses(tmp_path / "a"), losses(tmp_path / "b")
    assert exact[0] != low[0]
    # Eight bits of mantissa also change which points are assigned to an object.
    assert sum(low[0].values()) == pytest.approx(sum(exact[0].values()), rel=0.05)
    assert sum(low[-1].values()) == pytest.approx(sum(exact[-1].values()), rel=0.2)


def test_channels_last_changes_no_result(tmp_path):
    options = (*SMALL, "--report.every", "1", "--eval.every", "0", "--train.dtype", "float64")
    train(1, tmp_path / "a", *options)
    train(1, tmp_path / "b", *options, "--train.channels_last", "false")
    for a, b in zip(losses(tmp_path / "a"), losses(tmp_path / "b"), strict=True):
        assert a == pytest.approx(b, rel=1e-9)


def test_three_formats_give_the_same_losses(tmp_path, bccd, bccd_voc):
    """Same boxes, same order, same augmentation: YOLO text differs by its rounding alone."""
    names = ["RBC", "WBC", "Platelets"]
    voc = tmp_path / "voc.yaml"
    voc.write_text(yaml.safe_dump({"path": str(bccd_voc), "format": "voc", "names": names}))
    found = {}
    for name, data in (("yolo", bccd / "data.yaml"), ("coco", bccd), ("voc", voc)):
        options = (
            "--imgsz",
            "64",
            "--max_updates",
            "3",
            "--report.every",
            "1",
            "--eval.every",
            "0",
        )
        options += ("--data", str(data), "--train.dtype", "float64", "--optim.name", "sgd")
        train(1, tmp_path / name, *options)
        found[name] = [sum(step.values()) for step in losses(tmp_path / name)]
    assert len(found["coco"]) == 3
    assert found["coco"] == found["voc"]
    assert found["coco"] == pytest.approx(found["yolo"], rel=1e-4)


def test_fine_tuning_starts_from_weights_of_other_classes(tmp_path):
    train(1, tmp_path / "a", *SMALL, "--max_updates", "2", "--eval.every", "0")
    best = tmp_path / "a" / "checkpoints" / "last.pt"
    file = make_yolo(tmp_path / "set", ["0 0.5 0.5 0.4 0.4"] * 4)
    done = run_job(1, [
        "-m", "hvd_yolo.train", "--data", str(file), "--weights", str(best), "--imgsz", "64",
        "--max_updates", "1", "--eval.every", "0", "--output", str(tmp_path / "b"),
    ])  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tensors taken; 6 of the model's keep their values: head.class_towers" in done.stdout
    assert checkpoint.load(tmp_path / "b" / "checkpoints" / "last.pt")["names"] == ["a", "b"]


def test_refusals_are_one_message_with_code_2(tmp_path):
    assert "--epoch" in refusal("--epoch", "3", "--foo", "1")
    assert '"epochs"' in refusal("--epochs", "x")
    assert "no such file or folder" in refusal("--data", str(tmp_path / "none.yaml"))
    out = ("--output", str(tmp_path / "run"))
    bad_class = make_yolo(tmp_path / "class", ["5 0.5 0.5 0.1 0.1"])
    assert "im0.txt:1: class 5 is out of range" in refusal("--data", str(bad_class), *out)
    empty = make_yolo(tmp_path / "empty", [])
    assert "the train split has no images" in refusal("--data", str(empty), *out)
    assert "there is none of that name" in refusal("--model", "yolov99", *out)
    assert not (tmp_path / "run").exists()


def test_files_of_a_run_are_its_own(tmp_path):
    (tmp_path / "file").write_text("mine")
    error = refusal(*SMALL, "--output", str(tmp_path / "file" / "run"))
    assert f"the run's folder {tmp_path}/file/run cannot be made: Not a directory" in error
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "metrics.jsonl").symlink_to(tmp_path / "file")
    error = refusal(*SMALL, "--output", str(tmp_path / "linked"))
    assert "linked/metrics.jsonl cannot be written" in error
    assert (tmp_path / "file").read_text() == "mine"


def test_resume_with_a_changed_model_is_refused(tmp_path):
    train(1, tmp_path, *SMALL, "--max_updates", "1", "--eval.every", "0")
    before = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    assert "model is 'yolov8s'" in refusal("--resume", str(tmp_path), "--model", "yolov8s")
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before


def test_unreadable_images_are_named_and_skipped_up_to_the_limit(tmp_path):
    file = make_yolo(tmp_path / "set", ["0 0.5 0.5 0.4 0.4"] * 8)
    (tmp_path / "set" / "images" / "train" / "im3.png").write_bytes(b"not a picture")
    options = [
        "--data", str(file), "--imgsz", "64", "--epochs", "2", "--global_batch", "4",
        "--eval.every", "0", "--report.every", "1",
    ]  # fmt: skip
    done = run_job(1, ["-m", "hvd_yolo.train", *options, "--output", str(tmp_path / "a")])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("im3.png: not a JPEG, PNG, BMP, TIFF or WebP image") == 2
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["images"] for line in lines) == [3, 3, 4, 4]
    limit = ("--loader.max_unreadable", "0", "--output", str(tmp_path / "b"))
    told = refusal(*options, *limit)
    assert "1 images of this epoch could not be read, loader.max_unreadable 0 allows 0 of 8" in told
    # One in each epoch, and one progress line for both: still not two in an epoch.
    limit = ("--loader.max_unreadable", "1", "--report.every", "10", "--output")
    done = run_job(1, ["-m", "hvd_yolo.train", *options, *limit, str(tmp_path / "c")])
    assert done.returncode == 0, done.stderr


def test_a_foreign_detector_trains_and_is_evaluated(tmp_path):
    train(
        1, tmp_path, *SMALL, "--model", "tests.models.plain_detector:build", "--report.every", "1"
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["losses"].keys() == {"box", "label"}
    assert lines[-1]["val_losses"].keys() == {"box", "label"}
    assert lines[-1]["AP"] >= 0
