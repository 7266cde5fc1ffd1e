"""What texts of a data set may hold: values, encodings, entities, and paths that stay inside."""

import json
import os
import shutil
import time
from itertools import pairwise

import pytest

from hvd_yolo.data import open_dataset
from hvd_yolo.data.dataset import load_sample
from hvd_yolo.errors import InputError
from tests.data.small_files import VOC_XML, coco_content, make_coco, make_voc, make_yolo


def refusal(path, split="train"):
    with pytest.raises(InputError) as caught:
        open_dataset(str(path), split)
    return str(caught.value)


def test_byte_order_marks_and_line_ends_of_windows_are_read(tmp_path):
    label = b"\xef\xbb\xbf0 0.5 0.5 0.5 0.5\r\n1 0.5 0.5 0.5 0.5\r\n"
    file = make_yolo(tmp_path / "yolo", label=label)
    assert open_dataset(str(file), "train").labels.tolist() == [0, 1]
    text = json.dumps(coco_content())
    folder = make_coco(tmp_path / "coco", b"\xef\xbb\xbf" + text.encode())
    assert len(open_dataset(str(folder), "train")) == 2


def test_labels_in_another_encoding_are_refused(tmp_path):
    file = make_yolo(tmp_path, label="0 0.5 0.5 0.5 0.5".encode("utf-16"))
    assert "labels/im.txt: not a text in UTF-8, save it as such" in refusal(file)


def test_an_image_of_10000_boxes_is_read(tmp_path):
    file = make_yolo(tmp_path, label="0 0.5 0.5 0.5 0.5\n" * 10_000)
    assert len(load_sample(open_dataset(str(file), "train"), 0).boxes) == 10_000


def test_relative_paths_of_a_list_stay_in_the_data_set(tmp_path):
    file = make_yolo(tmp_path / "set", yaml_text="train: lists/train.txt\nnames: [a, b]\n")
    listing = tmp_path / "set" / "lists" / "train.txt"
    listing.parent.mkdir()
    image = tmp_path / "set" / "images" / "im.png"
    for allowed in ("../images/im.png", str(image)):
        listing.write_text(allowed)
        assert len(open_dataset(str(file), "train").image(0)) == 48
    (tmp_path / "im.png").write_bytes(image.read_bytes())
    for refused in ("../../im.png", "../images/../../im.png", "x" * 5000):
        listing.write_text(f"../images/im.png\n{refused}\n")
        assert f"{listing}:2" in refusal(file)
    # The data.yaml and the list are the user's own word.
    listing.write_text(f"{tmp_path / 'im.png'}\n../images/im.png")
    assert len(open_dataset(str(file), "train")) == 2


def test_dots_after_a_link_do_not_follow_the_link(tmp_path):
    file = make_yolo(tmp_path / "set", yaml_text="train: list.txt\nnames: [a, b]\n")
    (tmp_path / "outside" / "images").mkdir(parents=True)
    (tmp_path / "set" / "link").symlink_to(tmp_path / "outside" / "images")
    (tmp_path / "set" / "list.txt").write_text("images/im.png\nlink/../im.png\n")
    shutil.copy(tmp_path / "set" / "images" / "im.png", tmp_path / "set" / "im.png")
    assert str(tmp_path / "set" / "im.png") in open_dataset(str(file), "train").files


def test_links_that_lead_back_are_walked_once(tmp_path):
    file = make_yolo(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "images" / name).symlink_to(tmp_path / "images")
    assert len(open_dataset(str(file), "train")) == 1


def test_a_yaml_of_other_things_than_texts_is_refused(tmp_path):
    doubled = "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrstuvwxyz")
    )
    bomb = f"a: &a [x, x]\n{doubled}"
    texts = ["train: images\nnames: *z", "train: *z\nnames: [a]", "path: *z\ntrain: x\nnames: [a]"]
    texts += ["train: images\nnames: [a]\nnc: *z", "format: *z"]
    texts = [bomb + text for text in texts]
    texts += ["train: images\nnames: {0: a, x: b}", "day: 2024-99-99", "[" * 2000]
    for i, text in enumerate(texts):
        file = make_yolo(tmp_path / str(i), yaml_text=text)
        assert len(refusal(file)) < 1000
        assert str(file) in refusal(file)


BAD_COCO_VALUES = [
    *(("images", "id", value) for value in ("1", None, 1.5, True, 1 << 60, [])),
    *(("images", "width", value) for value in (-64, 10**400)),
    *(("images", "file_name", value) for value in (None, 7, "../../x", "/etc/x", "x" * 5000)),
    *(("categories", "id", value) for value in (None, "3")),
    *(("categories", "name", value) for value in (3, [])),
]  # fmt: skip

# What is read as it is meant, and what is reported of it otherwise.
LOOSE_COCO_VALUES = [
    *(("images", "width", value, "") for value in (0, "64", None, float("nan"))),
    ("annotations", "bbox", [1, 2, 3, "4"], ""),
    *(("annotations", "area", value, "") for value in (None, "1")),
    *(("annotations", "iscrowd", value, "") for value in ("0", None)),
    ("annotations", "image_id", "1", ""),
    *(("annotations", "bbox", value, "without a box") for value in (None, "box", [1, 2, 3])),
    *(("annotations", "bbox", [1, 2, 3, value], "without a box")
      for value in (None, float("inf"), 1e300, True)),
    ("annotations", "area", float("nan"), "areas that are not numbers"),
    ("annotations", "iscrowd", 2, "iscrowd that is neither 0 nor 1"),
    ("annotations", "category_id", {}, "of a category that is not listed"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "field", "value"), BAD_COCO_VALUES)
def test_coco_entries_of_another_type_are_refused_by_place(tmp_path, key, field, value):
    content = coco_content()
    content[key][1][field] = value
    found = refusal(make_coco(tmp_path, content))
    assert f"instances_train.json: {key}[1]" in found
    assert len(found) < 1000


@pytest.mark.parametrize(("key", "field", "value", "what"), LOOSE_COCO_VALUES)
def test_loose_coco_entries_are_read_or_reported_by_place(tmp_path, key, field, value, what):
    content = coco_content()
    content[key][1][field] = value
    dataset = open_dataset(str(make_coco(tmp_path, content)), "train")
    is_left_out = "without" in what or "not listed" in what
    assert len(dataset.boxes) == 3 - is_left_out
    assert [what in problem.what for problem in dataset.problems] == [True] * bool(what)
    assert all(problem.examples[0].startswith(f"{key}[1]") for problem in dataset.problems)


def test_coco_files_of_another_shape_are_refused(tmp_path):
    content = coco_content()
    bad = [["not JSON", text] for text in ("", "[" * 100_000, "9" * 5000)]
    bad += [["no list 'images'", text] for text in ("[]", "null", "7", '{"categories": {}}')]
    bad += [["images[1] is None", {**content, "images": [content["images"][0], None]}]]
    bad += [["images[1] has no 'id'", {**content, "images": [content["images"][0], {}]}]]
    for key in ("images", "categories"):
        twice = {**content, key: [*content[key], content[key][0]]}
        bad.append([f"{key}[2] has the id of {key}[0]", twice])
    for i, (expected, broken) in enumerate(bad):
        found = refusal(make_coco(tmp_path / str(i), broken))
        assert "instances_train.json: " in found
        assert expected.removeprefix("not JSON") in found


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("<xmax>30", "<xmax>nan", "bndbox xmax is 'nan', expected a number"),
        ("<xmax>30", "<xmax>1e999", "bndbox xmax is '1e999'"),
        ("<xmax>30</xmax>", "", "bndbox xmax is None"),
        ("<width>64", "<width>-64", "its size has width -64"),
        ("</annotation>", "", "not XML"),
        ("<annotation>", '<?xml version="1.0" encoding="gb2312"?><annotation>', "not XML in UTF-8"),
    ],
)
def test_faulty_voc_annotations_are_refused_by_file(tmp_path, old, new, expected):
    found = refusal(make_voc(tmp_path, VOC_XML.replace(old, new)))
    assert str(tmp_path / "Annotations" / "1.xml") in found
    assert expected in found


@pytest.mark.parametrize("name", ["../../1.png", "/etc/passwd"])
def test_a_file_name_in_voc_does_not_lead_out_of_the_folder(tmp_path, name):
    for i, stem in enumerate(("1", "2")):
        folder = make_voc(tmp_path / str(i), VOC_XML.replace("1.png", name), f"{stem}\n")
        shutil.copy(folder / "Annotations" / "1.xml", folder / "Annotations" / "2.xml")
        try:
            (file,) = open_dataset(str(folder), "train").files
        except InputError as error:
            assert "leads out of" in str(error)
        else:
            assert file.startswith(str(folder))


def test_voc_listings_stay_in_the_folder(tmp_path):
    for i, stem in enumerate(("../../x", "/etc/passwd", "../" * 50 + "x")):
        folder = make_voc(tmp_path / str(i), listing=f"1\n{stem}\n")
        dataset = open_dataset(str(folder), "train")
        (problem,) = dataset.problems
        assert problem.severity == "error" and "train.txt:2" in problem.examples[0]
        assert [os.path.basename(file) for file in dataset.files] == ["1.png"]


@pytest.mark.parametrize(
    "declared",
    [
        "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12)),
        '<!ENTITY e11 SYSTEM "file:///etc/passwd">',
        f'<!ENTITY e11 "{"x" * 100_000}">',
    ],
)
def test_xml_that_declares_entities_is_refused_at_once(tmp_path, declared):
    body = VOC_XML.replace("<name>a", "<name>" + "&e11;" * 10_000)
    folder = make_voc(tmp_path, f'<!DOCTYPE x [<!ENTITY e0 "x">{declared}]>{body}')
    start = time.perf_counter()
    assert "1.xml: not XML in UTF-8: remove its <!DOCTYPE x>" in refusal(folder)
    assert time.perf_counter() - start < 1
