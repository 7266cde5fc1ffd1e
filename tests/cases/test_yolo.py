"""YOLO text: labels of other tasks and in other units, and files that are no labels or images."""

import math
import re

import pytest

from hvd_yolo.data import open_dataset
from tests.cases.running import assert_code, assert_reads, assert_refused, assert_says


@pytest.mark.parametrize(
    "name", ["plain_yolo", "pose_k2", "pose_k3", "labels_segment_vs_box", "quoted_keys"]
)
def test_boxes_and_names_are_as_written(cases, name):
    check, train = cases.run(name)
    assert_code(check, 0)
    assert_code(train, 0)
    assert_reads(cases, name)


def test_yaml_words_are_names_as_typed(cases):
    check, train = cases.run("yaml_words")
    assert_code(check, 0)
    assert_code(train, 0)
    for name in ("yes", "no", "010"):
        assert_says(check, rf"(?m)^{name}\s+\d+ \(\d+\)")
    assert_reads(cases, "yaml_words")


def test_track_rows_are_refused(cases):
    for done in cases.run("track_rows"):
        assert_refused(done, r"labels/train/BloodImage_00001\.txt:1\b", r"\b(7|seven)\b")


SHARES = r"\b0 (to|and) 1\b|\b0\.\.1\b|shares|normali[sz]ed|fractions"


@pytest.mark.parametrize("name", ["pixel_labels", "pixel_labels_one"])
def test_labels_in_pixels_are_refused(cases, name):
    check, train = cases.run(name)
    patterns = (r"labels/train/BloodImage_00001\.txt:1\b", "pixel", SHARES)
    assert_code(check, 1, 2)
    assert_says(check, "error:", *patterns)
    assert_refused(train, *patterns)


def test_duplicate_names_are_refused(cases):
    for done in cases.run("duplicate_names"):
        assert_refused(done, r"\bRBC\b", r"\b0\b", r"\b2\b")


def test_hidden_files_are_passed_over(weights):
    check, train, predict = weights.run("hidden_files")
    for done in (check, train, predict):
        assert_code(done, 0)
    for fault in ("cannot be read", "images without objects", "twice"):
        assert fault not in check.text
    assert_says(train, r"\b8 images to train on")
    assert_reads(weights, "hidden_files")
    assert num_annotated(weights, "hidden_files_out") == 8


def test_odd_suffixes_are_read_or_counted(weights):
    check, train, predict = weights.run("odd_suffixes")
    for done in (check, train, predict):
        assert_code(done, 0)
    for done in (check, train):
        for suffix in (".heic", ".avif"):
            assert_says(done, COUNT_AND + re.escape(suffix), text=done.before_first_update)
    assert_says(train, r"\b6 images to train on")
    assert_reads(weights, "odd_suffixes")
    assert num_annotated(weights, "odd_suffixes_out") == 6


# In a line that has a count as a word of its own, or in a line below one.
COUNT_AND = r"(?m)^(?=.*(?<![\w.])[12](?![\w.]))(.*|.*\n(    .*\n)*?    .*)"


def num_annotated(cases, name):
    """How many annotated images `predict` wrote."""
    return sum(file.is_file() for file in (cases.run_folder(name) / "images").rglob("*"))


def test_nothing_but_unreadable_images_is_refused(cases):
    check, train = cases.run("all_bad_images")
    assert_code(check, 1)
    assert_says(check, "error:.*(read|decode)")
    assert_refused(train, r"\b(none|not|no|cannot)\b.*\bread\b")
    assert not (cases.run_folder("all_bad_images") / "checkpoints" / "best.pt").exists()


def test_12_bits_in_16_are_as_bright_as_8(cases):
    check, train = cases.run("u16_12bit")
    assert_code(check, 0)
    assert_code(train, 0)
    assert_reads(cases, "u16_12bit")
    levels = cases.expected("u16_12bit")["grey_levels"]
    if any(difference > 2 for difference in level_differences(cases, levels)):
        for done in (check, train):
            assert_says(done, r"BloodImage_\d+\.png", r"\b[34]\d\d\d\b", text=warnings_of(done))


def level_differences(cases, levels):
    """By how much the mean level of each image is not that of its 8 bits."""
    for split in ("train", "val"):
        dataset = open_dataset(cases.path("u16_12bit"), split)
        for index in range(len(dataset)):
            file = str(dataset.files[index]).split("u16_12bit/")[-1]
            yield abs(dataset.image(index).mean() - levels[file])


def warnings_of(done):
    """The lines that are warnings, and those below them."""
    return "".join(re.findall(r"^.*warning.*\n(?:    .*\n)*", done.text, re.M | re.I))


def test_a_val_split_without_objects_selects_nothing(cases):
    check, train = cases.run("empty_val")
    assert_code(check, 1)
    assert_says(check, r"error: val.*objects?")
    assert_code(train, 0)
    assert_says(
        train,
        r"\bval\b.*\b(no|without)\b.*\bobjects?\b|nothing to score",
        text=train.before_first_update,
    )
    assert_reads(cases, "empty_val")
    folder = cases.run_folder("empty_val")
    assert not (folder / "checkpoints" / "best.pt").exists()
    for score in re.findall(r"(?m)^epoch .*?\bAP (\S+)", train.text):
        assert score.strip(".,:;") in {"-1", "-1.0000", "nan", "None", "none", "undefined"}


def test_small_maps_train_or_are_refused_before(cases):
    for done in cases.run("small_val"):
        assert_code(done, 0, 2)
        if done.code == 2:
            assert_refused(done, "imgsz", "batch_size")
            assert done.before_first_update == done.text
        else:
            assert_says(done, r"done: 4 updates")
            losses = re.findall(r"loss (\S+)", done.text)
            assert losses and all(math.isfinite(float(loss)) for loss in losses)
    assert_reads(cases, "small_val")
