"""A data set from which nothing can be learned, or against which nothing can be scored."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from hvd_yolo.comm.single import SingleComm
from hvd_yolo.config.data_options import num_unreadable_allowed
from hvd_yolo.data import open_dataset
from hvd_yolo.data.usable import has_objects
from hvd_yolo.errors import InputError
from hvd_yolo.tally import Tally
from tests.conftest import needs_mpi, run_job, train

BOX = "0 0.5 0.5 0.5 0.5"
OUTSIDE = "0 3.5 3.5 0.1 0.1"
OPTIONS = (
    "--imgsz", "64", "--batch_size", "2", "--workers", "0", "--device", "cpu", "--epochs", "2",
    "--augment.mosaic", "0", "--augment.translate", "0", "--augment.scale", "0",
    "--report.every", "1",
)  # fmt: skip


def write_set(folder, train_labels, val_labels=(BOX,) * 2, unreadable=()):
    """A YOLO data set with a file of labels an image; unreadable: indices of training images."""
    for split, labels in (("train", train_labels), ("val", val_labels)):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        for index, text in enumerate(labels):
            image = np.random.default_rng(index).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            file = folder / "images" / split / f"{index}.png"
            cv2.imwrite(str(file), image)
            (folder / "labels" / split / f"{index}.txt").write_text(text)
            if split == "train" and index in unreadable:
                file.write_bytes(b"no picture")
    (folder / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames: [a, b]\n"
    )
    return str(folder / "data.yaml")


def refused(tmp_path, data, *options, ranks=1):
    """What a training says that must end with exit code 2 and leave no best.pt."""
    run = tmp_path / "run"
    words = ["-m", "hvd_yolo.train", "--data", data, "--output", str(run), *OPTIONS, *options]
    done = run_job(ranks, words)
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-2000:]
    assert "done:" not in done.stdout
    assert "Traceback" not in done.stderr
    assert not (run / "checkpoints" / "best.pt").exists()
    return done.stdout + done.stderr


def lines(run, kind):
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in found if line["kind"] == kind]


def test_a_limit_is_a_fraction_or_a_count_and_never_all_images():
    allowed = [num_unreadable_allowed(0.01, n) for n in (1, 2, 50, 100, 101, 100_000)]
    assert allowed == [0, 1, 1, 1, 2, 1000]
    assert num_unreadable_allowed(0.07, 100) == 7
    counts = (0, 1, 7, 49, 50, 1000, float("inf"))
    assert [num_unreadable_allowed(n, 50) for n in counts] == [0, 1, 7, 49, 49, 49, 49]


@pytest.mark.parametrize("text", ["", "0 0.5 0.5 0 0.5"], ids=["background", "boxes_left_out"])
def test_a_split_whose_labels_hold_no_object_is_refused_before_the_first_update(tmp_path, text):
    data = write_set(tmp_path / "set", [text] * 4)
    said = refused(tmp_path, data)
    assert f"data {data}: the train split has no object on any of its 4 images" in said
    assert ("boxes without area, left out: 4 (" in said) == bool(text)
    assert not (tmp_path / "run").exists()


def test_a_coco_split_of_crowds_has_nothing_to_learn_from(tmp_path):
    write_coco(tmp_path, {"bbox": [8, 8, 30, 30], "iscrowd": 1}, 64)
    assert not has_objects(open_dataset(str(tmp_path), "train"))
    assert "crowds, which are not learned from: 4" in refused(tmp_path, str(tmp_path))


def write_coco(folder, annotation, side):
    """4 training and 2 validation images with one object each; side: what the file says of them."""
    (folder / "annotations").mkdir()
    for split, count in (("train", 4), ("val", 2)):
        (folder / "images" / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            image = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / "images" / split / f"{number}.png"), image)
            images.append(
                {"id": number, "file_name": f"{number}.png", "width": side, "height": side}
            )
            own = {"id": number, "image_id": number, "category_id": 1, "area": 900, "iscrowd": 0}
            annotations.append(own | annotation)
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": 1, "name": "a"}]
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def test_boxes_that_all_lie_outside_the_images_are_an_error_once_they_are_read(tmp_path):
    """What the file says of the images' size is no help."""
    write_coco(tmp_path, {"bbox": [500, 500, 30, 30]}, 600)
    said = refused(tmp_path, str(tmp_path), "--max_updates", "1")
    assert "there is nothing to learn from" in said or "could not be read" in said


def test_a_run_that_ends_without_an_object_has_learned_nothing():
    tally = Tally(SingleComm(), 0.01, 8)

    def seen(images, objects, unreadable=0.0):
        return SimpleNamespace(
            images_seen=images, objects=torch.tensor(objects), unreadable=torch.tensor(unreadable)
        )

    tally.check_learned(seen(8, 1.0))
    tally.check_learned(seen(8, 1.0, 1.0))
    for images in (4, 8):
        with pytest.raises(InputError, match=f"no object was on any of the {images} training"):
            tally.check_learned(seen(images, 0.0, 1.0))
    with pytest.raises(InputError, match="none of the 1 training images of this run could be read"):
        tally.check_learned(seen(1, 0.0, 1.0))


@pytest.mark.parametrize(
    "options",
    [
        ("--loader.cache", "disk"),
        ("--max_updates", "1", "--augment.mosaic", "1", "--train.sync_bn", "true"),
    ],
    ids=["cached", "first_update"],
)
def test_a_split_whose_images_can_all_not_be_read_is_refused(tmp_path, options):
    data = write_set(tmp_path / "set", [BOX] * 4, unreadable=range(4))
    folder = ("--loader.max_unreadable", "100", "--loader.folder", str(tmp_path / "cache"))
    said = refused(tmp_path, data, *folder, *options)
    assert "could not be read" in said or "images of this run could be read" in said
    assert "0.png: not a" in said or "1.png: not a" in said


@needs_mpi
def test_a_rank_without_a_readable_image_is_legal_and_a_job_without_is_refused(tmp_path):
    """On two ranks with an image each of an update of two: the other one is bad."""
    data = write_set(tmp_path / "half", [BOX] * 2, unreadable=(0,))
    train(
        2, tmp_path / "fine", "--data", data, *OPTIONS, "--batch_size", "1", "--epochs", "1",
        "--eval.every", "0",
    )  # fmt: skip
    assert sum(line["images"] for line in lines(tmp_path / "fine", "train")) == 1
    data = write_set(tmp_path / "none", [BOX] * 6, unreadable=range(6))
    assert "could" in refused(tmp_path, data, "--loader.max_unreadable", "100", ranks=2)


def test_two_bad_files_of_a_small_set_stop_the_run(tmp_path):
    data = write_set(tmp_path / "two", [BOX] * 6, unreadable=(3, 4))
    assert "loader.max_unreadable 0.01 allows 1 of 6" in refused(tmp_path, data)


def test_a_resumed_run_that_cannot_read_its_images_any_more_is_refused(tmp_path):
    data = write_set(tmp_path / "set", [BOX] * 4)
    run = tmp_path / "run"
    train(1, run, "--data", data, *OPTIONS, "--max_updates", "1", "--eval.every", "0")
    for file in (tmp_path / "set/images/train").iterdir():
        file.write_bytes(b"no picture")
    assert "could not be read" in refused(
        tmp_path, data, "--eval.every", "0", "--max_updates", "3", "--override", "max_updates"
    )


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_val_split_without_objects_scores_nothing(tmp_path, ranks):
    """AP is undefined: no best.pt, no early stopping, and all that reads the numbers copes."""
    data = write_set(tmp_path / "set", [BOX] * 4, [""] * 2)
    run = tmp_path / "run"
    options = ("--data", data, *OPTIONS, "--epochs", "3", "--eval.patience", "1")
    said = train(ranks, run, *options, "--report.csv", "true", "--report.plots", "true")
    before, after = said.split("update 1/")
    assert "the val split has no object on any of its 2 images" in before
    assert after.count("AP undefined: no objects to score against") == 3
    assert "no best.pt, for AP was never defined and finite" in after
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last-1.pt", "last.pt"]
    evals = lines(run, "eval")
    assert len(evals) == 3
    for name in ("AP", "AP50", "AP_small", "AR_100", "precision", "threshold", "val_loss"):
        assert evals[0][name] is None, name
    assert "is not drawn" not in said
    page = (run / "report.html").read_text()
    assert "AP is undefined in every evaluation" in page
    monitor = run_job(1, ["-m", "hvd_yolo.monitor", str(run)])
    assert "AP undefined at epoch 3.00" in monitor.stdout


def test_a_number_without_objects_of_its_size_chooses_no_best(tmp_path):
    """A val split of large objects alone, and a run that looks at AP_small."""
    large = "0 0.5 0.5 0.9 0.9"
    data = write_set(tmp_path / "set", [BOX] * 2, [large] * 2)
    said = train(
        1, tmp_path / "run", "--data", data, *OPTIONS, "--eval.metric", "AP_small",
        "--eval.patience", "1",
    )  # fmt: skip
    assert said.count("eval.metric AP_small is undefined: the val split has no objects for it") == 1
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    assert lines(tmp_path / "run", "eval")[-1]["AP_small"] is None
    assert lines(tmp_path / "run", "eval")[-1]["AP"] is not None


@pytest.mark.parametrize("split", ["train", "val"])
def test_check_calls_a_split_without_objects_an_error(tmp_path, split):
    labels = {"train": [BOX] * 2, "val": [BOX] * 2} | {split: [""] * 2}
    data = write_set(tmp_path / "set", labels["train"], labels["val"])
    done = run_job(1, ["-m", "hvd_yolo.data", "check", "--data", data])
    assert done.returncode == 1
    assert f"error: {split}: no object to " in done.stdout
