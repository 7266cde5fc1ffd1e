"""COCO JSON: sizes that are not the images', values and layouts of other tools, category ids."""

import json
import re

import pytest

from hvd_yolo.data import UnreadableImage, open_dataset
from hvd_yolo.data.dataset import load_sample
from hvd_yolo.errors import InputError
from tests.cases.running import (
    assert_code,
    assert_reads,
    assert_refused,
    assert_same_boxes,
    assert_says,
    boxes_of,
)


@pytest.mark.parametrize("name", ["plain_coco", "roboflow_coco"])
def test_boxes_and_names_are_as_written(cases, name):
    check, train = cases.run(name)
    assert_code(check, 0)
    assert_code(train, 0)
    assert_reads(cases, name)
    assert open_dataset(cases.path(name), "train").category_ids == (1, 2, 3)


SIZES = (r"\b160 ?(x|by) ?120\b", r"\b320 ?(x|by) ?240\b", r"BloodImage_\d+\.(jpg|xml)")


@pytest.mark.parametrize("name", ["coco_half", "voc_half"])
def test_sizes_that_are_not_the_images_are_errors(cases, name):
    """That an image has another size than its entry is an error; no box is learned where it is
    not."""
    check, train = cases.run(name)
    assert_code(check, 1)
    for split, count in (("train", 8), ("val", 4)):
        finding = rf"(?m)^error: ({split}|train and val):.*\b({count}|12)\b(?:\n    .*)*"
        findings = [match.group() for match in re.finditer(finding, check.text)]
        naming = [text for text in findings if all(re.search(size, text) for size in SIZES)]
        assert naming, check.text
    if train.code == 2:
        # The last message may count the images that the lines above it name.
        assert_refused(train)
        assert_says(train, *SIZES)
        assert "done:" not in train.text
    else:
        assert_code(train, 0)
        assert_says(train, *SIZES, r"(?<!\d)8(?!\d)", text=train.before_first_update)
    expected = cases.expected(name)["splits"]["train"]
    for file, boxes in read_or_refused(cases.path(name)).items():
        as_stated = [
            clipped([label, *(2 * side for side in box)]) for label, *box in expected[file]
        ]
        as_stated = [row for row in as_stated if row[3] > row[1] and row[4] > row[2]]
        assert_same_boxes({file: boxes}, {file: expected[file] if train.code else as_stated})


def read_or_refused(path):
    """The boxes of the images that are neither refused nor unreadable."""
    try:
        dataset = open_dataset(path, "train")
        samples = {}
        for index in range(len(dataset)):
            try:
                sample = load_sample(dataset, index)
            except UnreadableImage:
                continue
            file = "/".join(str(dataset.files[index]).split("/")[-3:])
            samples[file] = [
                [label, *box]
                for label, box in zip(sample.labels.tolist(), sample.boxes.tolist(), strict=True)
            ]
    except InputError:
        return {}
    return samples


def clipped(row):
    label, x1, y1, x2, y2 = row
    return [label, min(x1, 160), min(y1, 120), min(x2, 160), min(y2, 120)]


def test_boxes_turn_with_the_picture_and_back_in_results(cases):
    check, train, evaluate = cases.run("coco_exif")
    for done in (check, train, evaluate):
        assert_code(done, 0)
    assert_says(check, r"(?m)^train .*\b120x160 \(8\)")
    assert_reads(cases, "coco_exif")
    boxes = [result["bbox"] for result in cases.results("coco_exif.json")]
    assert boxes
    assert max(x + w for x, _, w, _ in boxes) <= 160 + 1e-3
    assert max(y + h for _, y, _, h in boxes) <= 120 + 1e-3
    # A detector of two updates finds objects everywhere.
    assert max(x + w for x, _, w, _ in boxes) > 120


def test_one_split_of_another_name_is_read_and_can_be_split(cases):
    check, train, split = cases.run("cvat_coco")
    assert_code(check, 0)
    assert_says(check, r"(?m)^default +12 ")
    assert_refused(train, r"instances_default\.json", r"\bdata split\b")
    assert_reads(cases, "cvat_coco")
    assert_deals_all(cases, "cvat_coco", split)


def assert_deals_all(cases, name, split):
    """`data split` wrote each image to train or val, with its boxes."""
    assert_code(split, 0)
    folder = cases.run_folder(f"{name}_split")
    found = {}
    for part in ("train", "val"):
        dataset = open_dataset(str(folder / "data.yaml"), part)
        assert list(dataset.names) == cases.expected(name)["names"]
        own = boxes_of(dataset, folder)
        assert own
        found.update({f"images/{file.split('/')[-1]}": boxes for file, boxes in own.items()})
    (expected,) = cases.expected(name)["splits"].values()
    assert_same_boxes(found, expected)


def test_values_of_other_tools_are_read(cases):
    check, train = cases.run("coco_loose")
    assert_code(check, 0)
    assert_code(train, 0)
    file = cases.folder / "coco_loose" / "annotations" / "instances_train.json"
    last = len(json.loads(file.read_text())["annotations"]) - 1
    # The places of those without a box and of an unknown image, each counted.
    for number in (last - 1, last):
        place = rf"annotations\[{number}\]"
        assert_says(check, rf"(?m)^warning: train: .*\b1\b.*(\n    .*)*?{place}")
        assert_says(train, place, text=train.before_first_update)
    assert_reads(cases, "coco_loose")


def test_results_have_the_categories_of_the_data(cases):
    check, train, evaluate, predict = cases.run("coco_sparse_ids")
    for done in (check, train, evaluate, predict):
        assert_code(done, 0)
    assert_reads(cases, "coco_sparse_ids")
    for file in ("coco_sparse_ids.json", "coco_sparse_ids_out/detections.json"):
        found = {result["category_id"] for result in cases.results(file)}
        assert found and found <= {5, 17, 90}, f"{file}: {found}"


def test_a_split_without_annotations_gets_its_submission(cases):
    check, train, evaluate = cases.run("coco_no_annotations")
    assert_code(check, 0)
    for split, number in (("train", 8), ("val", 4), ("test", 4)):
        assert_says(check, rf"(?m)^{split} +{number} ")
    assert_code(train, 0)
    assert_code(evaluate, 0)
    assert_says(evaluate, r"ground truth|annotations|to score against")
    found = {result["image_id"] for result in cases.results("coco_no_annotations.json")}
    ids = cases.expected("coco_no_annotations")["test_image_ids"].values()
    assert found and found <= set(ids)
    assert_reads(cases, "coco_no_annotations")
