"""YOLO text: lists of images and folders that are found, or named when they are not."""

import pytest

from hvd_yolo.data import open_dataset
from tests.cases.running import (
    assert_code,
    assert_reads,
    assert_refused,
    assert_same_boxes,
    assert_says,
    boxes_of,
)


@pytest.mark.parametrize("name", ["lists_relative", "lists_windows", "lists_darknet"])
def test_lists_of_other_tools_are_read(cases, name):
    check, train = cases.run(name)
    assert_code(check, 0)
    assert_code(train, 0)
    assert_says(train, r"\b8 images to train on, 4 to evaluate")
    assert_reads(cases, name)


def test_lines_that_are_no_images_are_named(cases):
    check, train = cases.run("list_gone")
    lines = (r"train\.txt:10\b", r"train\.txt:11\b")
    assert_code(check, 1)
    assert_says(check, r"(?m)^error: train", *lines)
    assert_code(train, 0)
    assert_says(train, *lines, text=train.before_first_update)
    assert "train.txt:1 " not in train.text and "pictures of the first day" not in train.text
    assert_reads(cases, "list_gone")


def test_a_test_split_that_is_not_there_is_a_warning(cases):
    check, train, doctor, evaluate = cases.run("test_missing")
    assert_code(check, 0)
    assert_says(check, r"(?m)^.*warning.*\btest\b.*(missing|not there|not exist|not found)")
    assert_code(train, 0)
    # Other findings are of the machine that the test runs on.
    assert "error: data" not in doctor.text
    assert doctor.code == 0 or "error:" in doctor.text
    assert_says(doctor, r"(?m)^.*warning.*(\n    .*)*\btest\b")
    assert_refused(evaluate, r"\btest\b", r"images/test\b")
    assert_reads(cases, "test_missing")


def test_a_neighbors_images_are_not_taken_silently(cases):
    check, train = cases.run("neighbour")
    path = str(cases.folder / "neighbour" / "project" / "data.yaml")
    found = boxes_of(open_dataset(path, "train"), cases.folder / "neighbour")
    expected = cases.expected("neighbour")["splits"]
    if all(name.startswith("project/") for name in found):
        assert_code(check, 0)
        assert_code(train, 0)
        assert_says(train, r"\b8 images to train on")
        assert_same_boxes(found, expected["train"])
    else:
        both = (r"neighbour/train/images\b", r"(project/train/images|project/\.\./train/images)\b")
        assert_says(check, *both)
        assert_says(train, *both, text=train.before_first_update)
    assert_same_boxes(
        boxes_of(open_dataset(path, "val"), cases.folder / "neighbour"), expected["val"]
    )
