"""Runs that go on where the data set has changed since: refused, or told and counted right."""

import json
import re
import shutil

import pytest
import yaml

from hvd_yolo import checkpoint
from hvd_yolo.data.class_changes import change_of
from hvd_yolo.errors import InputError
from hvd_yolo.train import main
from tests.colored import make_yolo, some_rows
from tests.conftest import run_job, train

IMAGES = [[(0, 4, 4, 20, 20), *some_rows(seed)[1:]] for seed in range(8)]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with a data set and a run in the midst of its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    make_yolo(folder / "set", ["red", "green", "blue"], IMAGES[:2], split="val")
    data = make_yolo(folder / "set", ["red", "green", "blue"], IMAGES, split="train")
    content = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump(content | {"val": "images/val"}))
    train(
        1, folder / "run", "--data", str(data), "--imgsz", "64", "--batch_size", "2", "--workers",
        "0", "--epochs", "3", "--max_updates", "7", "--report.every", "1", "--device", "cpu",
    )  # fmt: skip
    return folder


@pytest.fixture
def copy(stopped, tmp_path):
    """A copy to change, and to train on there."""
    shutil.copytree(stopped, tmp_path / "copy")
    for name in ("config.yaml",):
        file = tmp_path / "copy" / "run" / name
        file.write_text(file.read_text().replace(str(stopped), str(tmp_path / "copy")))
    return tmp_path / "copy"


def rename(folder, names):
    file = folder / "set" / "data.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"names": names}))


def remove(folder, split, numbers):
    for number in numbers:
        (folder / "set" / "images" / split / f"{number}.png").unlink()
        (folder / "set" / "labels" / split / f"{number}.txt").unlink()


def refusal(folder, *options):
    with pytest.raises(InputError) as caught:
        main(["--resume", str(folder / "run"), "--device", "cpu", *options])
    return str(caught.value)


def go_on(folder, *options):
    command = ["-m", "hvd_yolo.train", "--resume", str(folder / "run"), "--device", "cpu"]
    overrides = "max_updates" + (",data" if "data" in options else "")
    options = [option for option in options if option != "data"]
    done = run_job(1, [*command, "--max_updates", "0", "--override", overrides, *options])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["green", "red", "blue"], "were red, green, blue and are green, red, blue"),
        (
            ["red", "green", "blue", "other"],
            "were red, green, blue and are red, green, blue, other",
        ),
        (["red", "green", "Blue"], "were red, green, blue and are red, green, Blue"),
        ({0: "red", 1: "blue", 2: "green"}, "were red, green, blue and are red, blue, green"),
    ],
)
def test_changed_classes_are_refused_by_name(copy, names, told):
    rename(copy, names)
    last = copy / "run" / "checkpoints" / "last.pt"
    before = last.read_bytes()
    message = refusal(copy)
    assert f"the classes {told}" in message
    assert f"--weights {copy / 'run'}/checkpoints/last.pt" in message
    # Whatever else may change.
    assert f"the classes {told}" in refusal(copy, "--override", "data")
    assert last.read_bytes() == before


def test_of_many_classes_what_differs_is_told():
    before = [f"c{i}" for i in range(80)]
    after = [*before[:79], "new"]
    assert change_of(before, after) == ("the 80 classes that were are 80: new added; c79 removed")
    after = [before[1], before[0], *before[2:]]
    told = change_of(before, after)
    assert "in another order, class 0 was c0, is c1; 1 was c1, is c0" in told
    assert len(change_of(before, before[::-1])) < 400


def test_removed_images_are_refused_and_with_override_counted_right(copy):
    remove(copy, "train", range(3, 8))
    told = refusal(copy)
    assert "8 training images became 3" in told
    assert "--override data" in told
    told = go_on(copy, "data")
    assert "8 training images became 3; the run goes on with those" in told
    steps = re.findall(r"^update (\d+)/(\d+) .* (\S+) left$", told, re.MULTILINE)
    # 6 of 8 images of the second epoch are 2 of 3: one update more in it, and two in the third.
    assert [(int(step), int(total)) for step, total, _ in steps] == [(8, 10), (9, 10), (10, 10)]
    assert not [left for *_, left in steps if left.startswith("-")]
    lines = map(json.loads, (copy / "run" / "metrics.jsonl").read_text().splitlines())
    lines = [line for line in lines if line["kind"] == "train"]
    epochs = [line["epoch"] for line in lines]
    assert epochs == sorted(epochs)
    assert epochs[-1] == 3
    rates = [line["lr"] for line in lines]
    assert rates[7] > rates[8] > rates[9]
    # From now on these are the images of the run.
    main(["--resume", str(copy / "run"), "--device", "cpu", "--report.plots", "false"])


def test_as_many_other_images_are_refused(copy):
    for kind, suffix in (("images", "png"), ("labels", "txt")):
        file = copy / "set" / kind / "train" / f"3.{suffix}"
        file.rename(file.with_stem("9"))
    assert "the 8 training images have other names, or another order" in refusal(copy)


def test_changed_labels_and_validation_images_are_told(copy):
    """Labels that were set right are no reason to begin anew."""
    (copy / "set" / "labels" / "train" / "0.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    remove(copy, "val", [1])
    told = go_on(copy, "--max_updates", "8")
    assert "the labels of the training images have changed" in told
    assert "2 validation images became 1" in told
    assert "best.pt" in told
    last = checkpoint.load(copy / "run" / "checkpoints" / "last.pt")["training"]
    assert last["data_summary"]["val"]["images"] == 1
    assert last["data_summary"]["names"] == ["red", "green", "blue"]
