"""COCO and VOC as tools export them: where the files lie, and what they hold that is not by the
book."""

import json
import re
import shutil

import numpy as np
import pytest

from hvd_yolo.data import UnreadableImage, find_splits, open_dataset
from hvd_yolo.data.__main__ import main
from hvd_yolo.data.dataset import WHOLE, load_sample
from hvd_yolo.errors import InputError, MissingSplit
from tests.data import small_files as files

IMAGE = files.encode(".png", files.picture())
XML = files.VOC_XML


def save(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes | str) else json.dumps(content)
    file.write_bytes(data if isinstance(data, bytes) else data.encode())


def coco(json_file, place, **changes):
    """The JSON of small_files.coco_content, and its two images in the folder `place`."""
    content = files.coco_content() | changes
    save(json_file, content)
    for name in ("1.png", "2.png"):
        save(place / name, IMAGE)


def boxes(dataset):
    return [load_sample(dataset, i).boxes.tolist() for i in range(len(dataset))]


def what(dataset):
    return {problem.what: problem.count for problem in dataset.problems}


EXPECTED = [[[4.5, 5, 14.5, 25], [4.5, 5, 16.5, 25]], [[4.5, 5, 15.5, 25]]]


@pytest.mark.parametrize(
    ("file", "images", "split"),
    [
        ("annotations/instances_train.json", "images/train", "train"),
        ("annotations/instances_train2017.json", "train2017", "train"),
        ("annotations/instances_Train.json", "images/Train", "train"),
        ("annotations/instances_Validation.json", "images", "val"),
        ("annotations/instances_default.json", "images/default", "default"),
        ("annotations/instances_default.json", "images", "default"),
        ("annotations/person_keypoints_val2017.json", "val2017", "val"),
        ("annotations/image_info_test-dev2017.json", "test2017", "test-dev"),
        ("annotations/train.json", "images", "train"),
        ("Annotations/instances_train.json", "images", "train"),
        ("annotations/val_annotations.coco.json", "images", "val"),
        ("train_coco.json", "images", "train"),
        ("train/_annotations.coco.json", "train", "train"),
        ("valid/_annotations.coco.json", "valid", "val"),
        ("train/labels.json", "train/images", "train"),
        ("labels.json", "data", "all"),
        ("result.json", "images", "all"),
    ],
)
def test_coco_is_found_where_tools_put_it(tmp_path, file, images, split):
    content = files.coco_content()
    if split == "test-dev":
        for image in content["images"]:
            image["file_name"] = f"test2017/{image['file_name']}"
    coco(tmp_path / file, tmp_path / images, **content)
    assert boxes(open_dataset(str(tmp_path), split)) == EXPECTED
    if split not in ("train", "test-dev"):
        with pytest.raises(MissingSplit, match=f"it has .*{re.escape(file)}"):
            open_dataset(str(tmp_path), "train")
    if split != "test-dev":
        assert list(find_splits(str(tmp_path)).datasets) == [split]


def test_an_export_that_is_not_split_says_how_to_split_it(tmp_path):
    coco(tmp_path / "annotations/instances_default.json", tmp_path / "images")
    with pytest.raises(InputError, match=r"instances_default.json.*hvd_yolo.data split --data"):
        open_dataset(str(tmp_path), "train")


def test_a_json_file_is_answered_with_its_folder(tmp_path):
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "images")
    with pytest.raises(InputError, match="name the folder that holds the images"):
        open_dataset(str(tmp_path / "annotations/instances_train.json"), "train")


def test_files_that_can_be_the_same_split_are_refused(tmp_path):
    for year in (2014, 2017):
        coco(tmp_path / f"annotations/instances_train{year}.json", tmp_path / f"train{year}")
    coco(tmp_path / "annotations/instances_val2017.json", tmp_path / "val2017")
    with pytest.raises(InputError, match=r"train2014.json, .*train2017.json can all be the train"):
        open_dataset(str(tmp_path), "train")
    for split in ("val", "train2014", "val2017"):
        assert boxes(open_dataset(str(tmp_path), split)) == EXPECTED


def test_test_lists_of_coco_without_their_images_are_no_split(tmp_path):
    coco(tmp_path / "annotations/instances_train2017.json", tmp_path / "train2017")
    save(tmp_path / "annotations/image_info_test2017.json", files.coco_content())
    (tmp_path / "images").mkdir()
    shutil.move(tmp_path / "train2017", tmp_path / "images" / "train2017")
    assert list(find_splits(str(tmp_path)).datasets) == ["train"]


def roboflow(folder, used_in=()):
    root = [{"id": 0, "name": "cells", "supercategory": "none"}]
    others = [{"id": i, "name": n, "supercategory": "cells"} for i, n in ((3, "a"), (9, "b"))]
    for split in ("train", "valid"):
        content = files.coco_content()
        if split in used_in:
            content["annotations"][0]["category_id"] = 0
        coco(folder / split / "_annotations.coco.json", folder / split,
             annotations=content["annotations"], categories=root + others)  # fmt: skip
    return folder


def test_a_root_category_without_annotations_is_no_class(tmp_path):
    sets = find_splits(str(roboflow(tmp_path))).datasets
    assert {split: d.names for split, d in sets.items()} == {"train": ("a", "b"), "val": ("a", "b")}
    assert sets["train"].category_ids == (3, 9)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_root_category_that_one_split_uses_is_a_class_of_all(tmp_path, split):
    sets = find_splits(str(roboflow(tmp_path, {split}))).datasets
    assert all(dataset.names == ("cells", "a", "b") for dataset in sets.values())


def test_a_root_category_may_have_the_name_of_a_class(tmp_path):
    categories = [
        {"id": 0, "name": "a", "supercategory": "none"},
        {"id": 3, "name": "a", "supercategory": "a"},
    ]
    coco(tmp_path / "train/_annotations.coco.json", tmp_path / "train", categories=categories)
    assert open_dataset(str(tmp_path), "train").names == ("a",)


def changed(entries, **changes):
    return [entry | changes for entry in entries]


@pytest.mark.parametrize(
    "changes",
    [
        {"iscrowd": "false"}, {"iscrowd": "0"}, {"iscrowd": None}, {"iscrowd": False},
        {"area": None}, {"area": "200.0"}, {"category_id": 3.0}, {"category_id": "3"}, {"id": 1},
    ],
)  # fmt: skip
def test_values_of_annotations_that_tools_write(tmp_path, changes):
    annotations = changed(files.coco_content()["annotations"], **changes)
    if "area" not in changes:
        for annotation in annotations:
            del annotation["area"]
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train", annotations=annotations)
    dataset = open_dataset(str(tmp_path), "train")
    assert (boxes(dataset), what(dataset)) == (EXPECTED, {})
    assert not dataset.is_crowd.any()
    areas = [200, 240, 220] if changes.get("area") is None else [200] * 3
    assert dataset.areas.tolist() == areas


@pytest.mark.parametrize("value", [1, True, "1", "1.0", "true", "True"])
def test_crowds_that_tools_write(tmp_path, value):
    annotations = changed(files.coco_content()["annotations"], iscrowd=value)
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train", annotations=annotations)
    assert open_dataset(str(tmp_path), "train").is_crowd.all()


@pytest.mark.parametrize("bbox", [[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 0.5]])
def test_shares_are_not_taken_for_pixels(tmp_path, bbox):
    content = files.coco_content()
    annotations = [one | {"bbox": bbox} for one in content["annotations"]]
    coco(tmp_path / "annotations/instances_train.json", tmp_path, annotations=annotations)
    with pytest.raises(InputError, match=r"look like shares.*where pixels are expected"):
        open_dataset(str(tmp_path), "train")


def test_voc_shares_are_not_taken_for_pixels(tmp_path):
    save(
        tmp_path / "x.xml",
        re.sub(r"(<[xy]m\w+>)([\d.]+)", r"\g<1>0.0\g<2>", XML.replace("1.5", "1")),
    )
    save(tmp_path / "x.png", IMAGE)
    with pytest.raises(InputError, match=r"look like shares.*where pixels are expected"):
        open_dataset(str(tmp_path), "all")


def test_ids_with_a_point_and_ids_as_text(tmp_path):
    content = files.coco_content()
    for number, entries in enumerate((content["images"], content["categories"])):
        for entry in entries:
            entry["id"] = [float, str][number](entry["id"])
    for annotation in content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
        annotation["bbox"] = list(map(str, annotation["bbox"]))
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train", **content)
    dataset = open_dataset(str(tmp_path), "train")
    assert (boxes(dataset), dataset.ids.tolist()) == (EXPECTED, [1, 2])


@pytest.mark.parametrize(
    "name",
    [
        "{}", "./{}", "train\\{}", "images\\train\\{}", "images/train/{}", "./images/train/{}",
        "/home/x/set/images/train/{}", "C:\\set\\train\\{}",
        "../../label-studio/data/media/upload/1/{}", "..\\..\\images\\train\\{}",
    ],
)  # fmt: skip
def test_file_names_of_other_systems(tmp_path, name):
    images = [
        image | {"file_name": name.format(image["file_name"])}
        for image in files.coco_content()["images"]
    ]
    coco(
        tmp_path / "annotations/instances_train.json", tmp_path / "images" / "train", images=images
    )
    assert boxes(open_dataset(str(tmp_path), "train")) == EXPECTED


def test_a_suffix_in_letters_of_another_case(tmp_path):
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train")
    for name in ("1", "2"):
        (tmp_path / "train" / f"{name}.png").rename(tmp_path / "train" / f"{name}.PNG")
    assert boxes(open_dataset(str(tmp_path), "train")) == EXPECTED


FAULTY = [
    ({"bbox": []}, "without a box"), ({"bbox": None}, "without a box"),
    ({"bbox": [1, 2, 3, float("nan")]}, "without a box"), ({"bbox": [1, 2, 3]}, "without a box"),
    ({"bbox": {}}, "without a box"), ({"image_id": 99}, "of an image that is not listed"),
    ({"image_id": None}, "of an image that is not listed"),
    ({"image_id": [1]}, "of an image that is not listed"),
    ({"category_id": 99}, "of a category that is not listed"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "fault"), FAULTY)
def test_an_annotation_that_cannot_be_used_is_counted(tmp_path, changes, fault):
    annotations = files.coco_content()["annotations"]
    annotations += [annotations[0] | changes]
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train", annotations=annotations)
    dataset = open_dataset(str(tmp_path), "train")
    assert boxes(dataset) == EXPECTED
    (problem,) = dataset.problems
    assert (problem.what, problem.count) == (f"annotations {fault}, left out", 1)
    assert "annotations[3]" in problem.examples[0]
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train",
         annotations=changed(annotations, **changes))  # fmt: skip
    with pytest.raises(InputError, match=f"none of its 4 annotations can be used.*{fault}"):
        open_dataset(str(tmp_path), "train")


def test_a_segmentation_alone_is_no_box(tmp_path):
    annotations = files.coco_content()["annotations"]
    del annotations[0]["bbox"]
    annotations[0]["segmentation"] = [[1, 1, 5, 1, 5, 5]]
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train", annotations=annotations)
    assert what(open_dataset(str(tmp_path), "train")) == {"annotations without a box, left out": 1}


def test_the_same_file_twice_and_names_that_are_left_out_are_counted(tmp_path):
    images = changed(files.coco_content()["images"], file_name="1.png")
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train", images=images)
    assert what(open_dataset(str(tmp_path), "train")) == {
        "entries of images that name the same file": 1
    }
    save(tmp_path / "b.yaml", "path: .\nformat: coco\nnames: [b]\n")
    found = what(open_dataset(str(tmp_path / "b.yaml"), "train"))
    assert found["objects of categories that `names` does not have, left out"] == 3


def test_two_categories_of_one_name_are_refused(tmp_path):
    categories = changed(files.coco_content()["categories"], name="a")
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train", categories=categories)
    with pytest.raises(InputError, match=r"categories\[1\] has the name of categories\[0\], 'a'"):
        open_dataset(str(tmp_path), "train")


def test_a_file_without_annotations_is_a_split_without_truth(tmp_path):
    content = files.coco_content()
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train")
    del content["annotations"]
    save(tmp_path / "annotations/instances_test.json", content)
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    sets = find_splits(str(tmp_path)).datasets
    assert [dataset.has_truth for dataset in sets.values()] == [True, False]
    assert (len(sets["test"]), sets["test"].image_id(1)) == (2, 2)


def test_images_whose_truth_is_withheld_are_not_written_as_background(tmp_path, capsys):
    content = files.coco_content()
    coco(tmp_path / "c/annotations/instances_train.json", tmp_path / "c/train")
    del content["annotations"]
    save(tmp_path / "c/annotations/instances_test.json", content)
    shutil.copytree(tmp_path / "c/train", tmp_path / "c/test")
    main(["convert", "--data", str(tmp_path / "c"), "--output", str(tmp_path / "out")])
    assert "test: left out" in capsys.readouterr().out
    assert list(find_splits(str(tmp_path / "out" / "data.yaml")).datasets) == ["train"]


VOC_BOXES = [[[1.5, 2, 9, 8], [4, 5, 30, 40]]]


def voc_boxes(dataset):
    return [sorted(rows) for rows in boxes(dataset)]


@pytest.mark.parametrize(
    ("xml", "image"),
    [
        ("annotations/x.xml", "images/x.png"), ("Annotations/x.xml", "JPEGImages/x.PNG"),
        ("annots/x.xml", "images/x.png"), ("labels/x.xml", "images/x.png"), ("x.xml", "x.png"),
        ("images/x.xml", "images/x.png"), ("annotations/a/x.xml", "images/a/x.png"),
    ],
)  # fmt: skip
def test_voc_without_lists_is_one_split(tmp_path, xml, image):
    save(tmp_path / xml, XML)
    save(tmp_path / image, IMAGE)
    sets = find_splits(str(tmp_path)).datasets
    assert list(sets) == ["all"]
    assert voc_boxes(sets["all"]) == VOC_BOXES
    with pytest.raises(InputError, match=r"one split, `all`.*hvd_yolo.data split --data"):
        open_dataset(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("xml", "image"),
    [
        ("{}/x.xml", "{}/x.png"), ("{}/Annotations/x.xml", "{}/JPEGImages/x.png"),
        ("annotations/{}/x.xml", "images/{}/x.png"), ("{}/annotations/x.xml", "{}/images/x.png"),
    ],
)  # fmt: skip
def test_voc_with_a_folder_a_split(tmp_path, xml, image):
    for folder in ("train", "valid"):
        save(tmp_path / xml.format(folder), XML.replace(">b<", f">{folder}<"))
        save(tmp_path / image.format(folder), IMAGE)
    sets = find_splits(str(tmp_path)).datasets
    assert list(sets) == ["train", "val"]
    assert all(dataset.names == ("a", "train", "valid") for dataset in sets.values())
    assert voc_boxes(sets["val"]) == VOC_BOXES
    with pytest.raises(MissingSplit, match="it has train, val"):
        open_dataset(str(tmp_path), "test")


def test_an_image_without_an_xml_is_counted(tmp_path):
    for name in ("x", "y"):
        save(tmp_path / f"{name}.png", IMAGE)
    save(tmp_path / "x.xml", XML)
    assert what(open_dataset(str(tmp_path), "all")) == {"images without an XML, left out": 1}


@pytest.mark.parametrize(
    ("stem", "line"),
    [
        ("Blood Image 1", "Blood Image 1"), ("x", "x 1"), ("x", "x -1"), ("x", "x.jpg"),
        ("x", "JPEGImages/x.png"), ("x", "/home/me/VOC/JPEGImages/x.jpg"),
        ("x", "../../JPEGImages/x.jpg"), ("x", "x.xml"),
        ("a/x", "a/x"), ("x.1", "x.1"), ("x", "JPEGImages\\x.jpg"),
    ],
)  # fmt: skip
def test_lines_of_lists(tmp_path, stem, line):
    save(tmp_path / f"Annotations/{stem}.xml", XML)
    save(tmp_path / f"JPEGImages/{stem}.png", IMAGE)
    save(tmp_path / "ImageSets/Main/train.txt", f"{line}\n\n")
    assert voc_boxes(open_dataset(str(tmp_path), "train")) == VOC_BOXES


def test_the_lists_of_cvat_and_of_single_classes(tmp_path):
    folder = files.make_voc(tmp_path)
    lists = folder / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "default.txt")
    save(lists / "a_default.txt", "1 1\n")
    assert list(find_splits(str(folder)).datasets) == ["default"]
    with pytest.raises(MissingSplit, match=r"it has default; .*data split"):
        open_dataset(str(folder), "train")


def test_a_listed_image_without_an_xml_is_an_error_that_is_counted(tmp_path):
    folder = files.make_voc(tmp_path, listing="gone\n1\n")
    dataset = open_dataset(str(folder), "train")
    (problem,) = dataset.problems
    assert (problem.severity, problem.count, len(dataset)) == ("error", 1, 1)
    assert problem.examples[0].endswith("train.txt:1")
    save(folder / "ImageSets/Main/train.txt", "gone\n")
    with pytest.raises(InputError, match=r"no images; listed images without an XML.*train.txt:1"):
        open_dataset(str(folder), "train")


@pytest.mark.parametrize(
    ("file_name", "image"),
    [
        ("1.jpg", "1.png"), ("other.jpg", "other.png"), ("1", "1.webp"), ("1.JPG", "1.jpeg"),
        ("C:\\data\\1.jpg", "1.png"), ("/home/me/1.jpg", "1.png"), ("", "1.bmp"),
        ("photo 7.jpg", "photo 7.jpg"),
    ],
)  # fmt: skip
def test_the_image_of_an_xml(tmp_path, file_name, image):
    folder = files.make_voc(tmp_path, XML.replace(">1.png<", f">{file_name}<"))
    (folder / "JPEGImages" / "1.png").unlink()
    save(folder / "JPEGImages" / image, files.encode(image[image.rindex(".") :], files.picture()))
    dataset = open_dataset(str(folder), "train")
    assert voc_boxes(dataset) == VOC_BOXES
    assert dataset.files[0].endswith(image)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".JPG", ".webp"])
def test_an_image_of_the_stem_comes_before_the_name_inside(tmp_path, suffix):
    folder = files.make_voc(tmp_path, XML.replace(">1.png<", ">2.png<"))
    (folder / "JPEGImages/1.png").rename(folder / f"JPEGImages/1{suffix}")
    save(folder / "JPEGImages/2.png", IMAGE)
    (file,) = open_dataset(str(folder), "train").files
    assert file.endswith(f"/1{suffix}")


def test_an_image_of_a_format_that_is_not_read_is_named(tmp_path):
    folder = files.make_voc(tmp_path)
    (folder / "JPEGImages/1.png").unlink()
    save(folder / "JPEGImages/1.HEIC", b"\0\0\0\x18ftypheic")
    with pytest.raises(UnreadableImage, match=r"1\.HEIC: .*convert it"):
        open_dataset(str(folder), "train").scaled(0, WHOLE)


def test_a_missing_split_of_roboflow_is_expected_where_it_writes_it(tmp_path):
    coco(tmp_path / "train/_annotations.coco.json", tmp_path / "train")
    with pytest.raises(MissingSplit, match=r"expected \S+/valid/_annotations\.coco\.json"):
        open_dataset(str(tmp_path), "val")


def test_xml_in_a_namespace(tmp_path):
    files.make_voc(tmp_path, XML.replace("<annotation>", '<annotation xmlns="http://a.b/c">'))
    assert voc_boxes(open_dataset(str(tmp_path), "train")) == VOC_BOXES


def test_an_xml_of_all_images_is_refused_with_the_remedy(tmp_path):
    save(tmp_path / "annotations.xml", '<annotations><image name="1.png"/></annotations>')
    save(tmp_path / "1.png", IMAGE)
    with pytest.raises(InputError, match=r"annotations\.xml: .*export them as COCO"):
        open_dataset(str(tmp_path), "all")


def test_voc_objects_that_are_no_boxes_are_counted(tmp_path):
    turned = "<object><name>a</name><robndbox><cx>5</cx><cy>5</cy></robndbox></object>"
    xml = XML.replace("</annotation>", f"{turned}<object><name>a</name></object></annotation>")
    folder = files.make_voc(tmp_path, xml.replace(">a<", "> a <"))
    save(folder / "Annotations" / "unlisted.xml", "not XML")
    dataset = open_dataset(str(folder), "train")
    assert (voc_boxes(dataset), dataset.names) == (VOC_BOXES, ("a", "b"))
    assert what(dataset) == {
        "objects with a turned box, left out": 1, "objects with no bndbox, left out": 1,
    }  # fmt: skip


def test_folders_of_yolo_text_are_not_taken_for_voc(tmp_path):
    files.make_yolo(tmp_path)
    save(tmp_path / "train.txt", "images/im.png\n")
    assert len(open_dataset(str(tmp_path), "train")) == 1


def test_a_folder_with_a_data_yaml_is_what_that_describes(tmp_path):
    files.make_yolo(tmp_path)
    dataset = open_dataset(str(tmp_path), "train")
    assert np.allclose(dataset.annotations(0, 64, 48).boxes, [[16, 12, 48, 36]])
    assert dataset.scaled(0, WHOLE).orientation == 1


def test_a_data_yaml_that_is_not_read_is_told(tmp_path):
    file = files.make_yolo(tmp_path)
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train")
    told = "a data.yaml beside the annotations, not read; name that file to read what it says"
    assert what(open_dataset(str(tmp_path), "train")) == {told: 1}
    assert what(open_dataset(str(file), "train")) == {}


def test_names_in_a_yaml_may_be_those_of_another_split(tmp_path):
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train")
    content = files.coco_content()
    (first, second), annotations = content["categories"], content["annotations"]
    own = [one for one in annotations if one["category_id"] == second["id"]]
    file = tmp_path / "annotations/instances_val.json"
    coco(file, tmp_path / "val", categories=[second], annotations=own)
    names = [first["name"], second["name"]]
    (tmp_path / "my.yaml").write_text(f"format: coco\npath: .\nnames: {names}\n")
    sets = find_splits(str(tmp_path / "my.yaml")).datasets
    assert sets["val"].category_ids == sets["train"].category_ids == (first["id"], second["id"])
    assert sets["val"].labels.tolist() == [1] * len(own)
    (tmp_path / "my.yaml").write_text(f"format: coco\npath: .\nnames: {[*names, 'other']}\n")
    with pytest.raises(InputError, match="no category is named other"):
        find_splits(str(tmp_path / "my.yaml"))
