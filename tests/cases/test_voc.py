"""VOC XML: sizes that are not there, file names of other kinds, folders without lists."""

import re

import pytest

from hvd_yolo.data import open_dataset
from tests.cases.running import (
    assert_code,
    assert_reads,
    assert_refused,
    assert_same_boxes,
    boxes_of,
)
from tests.cases.test_coco import assert_deals_all


@pytest.mark.parametrize(
    "name", ["plain_voc", "voc_zero_size", "voc_no_size", "voc_blank_in_name", "voc_png"]
)
def test_boxes_and_names_are_as_written(cases, name):
    check, train = cases.run(name)
    assert_code(check, 0)
    assert_code(train, 0)
    assert_reads(cases, name)


def test_a_folder_without_lists_is_one_split(cases):
    check, train, split = cases.run("voc_flat")
    assert_code(check, 0)
    (split_name,) = re.findall(r"(?m)^split .*\n(\w+) +12 ", check.text)
    assert_refused(train, r"\blists?\b|ImageSets", r"\bdata split\b")
    dataset = open_dataset(cases.path("voc_flat"), split_name)
    expected = cases.expected("voc_flat")
    assert list(dataset.names) == expected["names"]
    assert_same_boxes(boxes_of(dataset, cases.folder / "voc_flat"), expected["splits"]["all"])
    assert_deals_all(cases, "voc_flat", split)
