import json
import logging
import re
import shutil

import cv2
import numpy as np
import pytest
import yaml

from hvd_yolo.data import UnreadableImage, open_dataset
from hvd_yolo.data.dataset import load_sample
from hvd_yolo.errors import InputError


def make_yolo(folder, labels, names=("a", "b"), size=(64, 48)):
    """A data.yaml with one training image per entry of `labels` (text, or None for background)."""
    (folder / "images" / "train").mkdir(parents=True)
    (folder / "labels" / "train").mkdir(parents=True)
    for i, text in enumerate(labels):
        image = np.full((size[1], size[0], 3), 20 * i, dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / "train" / f"im{i}.png"), image)
        if text is not None:
            (folder / "labels" / "train" / f"im{i}.txt").write_text(text)
    content = {"path": ".", "train": "images/train", "names": list(names)}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def refusal(path, split="train"):
    with pytest.raises(InputError) as caught:
        open_dataset(str(path), split)
    return str(caught.value)


def by_file(dataset):
    found = {}
    for i in range(len(dataset)):
        image = dataset.image(i)
        height, width = image.shape[:2]
        truth = dataset.annotations(i, width, height)
        names = [dataset.names[label] for label in truth.labels]
        rows = sorted(zip(truth.boxes.tolist(), names, strict=True))
        found[str(dataset.files[i]).rsplit("/", 1)[-1]] = rows
    return found


@pytest.mark.parametrize(
    ("split", "num_images", "num_boxes"), [("val", 87, 1137), ("train", 205, 2804)]
)
def test_three_readers_give_the_same_boxes(bccd, bccd_voc, split, num_images, num_boxes, caplog):
    with caplog.at_level(logging.WARNING):
        sets = [open_dataset(str(p), split) for p in (bccd / "data.yaml", bccd, bccd_voc)]
    yolo, coco, voc = (by_file(dataset) for dataset in sets)
    assert yolo.keys() == coco.keys() == voc.keys()
    assert len(yolo) == num_images
    # The publisher's box without area is told and left out.
    assert "boxes without area, left out: 1" in caplog.text
    assert sum(map(len, coco.values())) == num_boxes
    for name, rows in coco.items():
        assert [label for _, label in rows] == [label for _, label in voc[name]]
        assert [box for box, _ in rows] == [box for box, _ in voc[name]]
        # YOLO text is rounded to 1e-6 of the image.
        assert len(rows) == len(yolo[name])
        for box, label in rows:
            distances = [
                np.abs(np.array(box) - rounded).max()
                for rounded, rounded_label in yolo[name]
                if rounded_label == label
            ]
            assert min(distances) < 1e-6 * 640 * 1.5


def test_names_fix_the_order_of_voc_classes(bccd_voc, tmp_path):
    assert open_dataset(str(bccd_voc), "val").names == ("Platelets", "RBC", "WBC")
    content = {"path": str(bccd_voc), "format": "voc", "names": ["RBC", "WBC", "Platelets"]}
    file = tmp_path / "voc.yaml"
    file.write_text(yaml.safe_dump(content))
    assert open_dataset(str(file), "val").names == ("RBC", "WBC", "Platelets")


def test_yolo_text_boxes_polygons_and_background(tmp_path):
    file = make_yolo(tmp_path, ["0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.3 0.1 0.3 0.4\n", "", None])
    dataset = open_dataset(str(file), "train")
    assert len(dataset) == 3
    truth = dataset.annotations(0, 64, 48)
    assert np.allclose(truth.boxes, [[24, 12, 40, 36], [6.4, 4.8, 19.2, 19.2]])
    assert truth.labels.tolist() == [0, 1]
    assert np.allclose(truth.areas, [16 * 24, 12.8 * 14.4])
    assert (
        len(dataset.annotations(1, 64, 48).boxes) == len(dataset.annotations(2, 64, 48).boxes) == 0
    )


def test_yolo_image_lists_and_numbered_names(tmp_path):
    make_yolo(tmp_path, ["0 0.5 0.5 0.5 0.5", None])
    (tmp_path / "train.txt").write_text("./images/train/im1.png\n./images/train/im0.png\n")
    file = tmp_path / "list.yaml"
    file.write_text("train: train.txt\nnames:\n  0: a\n  1: b\nnc: 2\n")
    dataset = open_dataset(str(file), "train")
    assert [str(f).rsplit("/", 1)[-1] for f in dataset.files] == ["im0.png", "im1.png"]
    assert len(dataset.annotations(0, 64, 48).boxes) == 1


def test_a_yaml_of_roboflow_and_an_empty_path(tmp_path):
    make_yolo(tmp_path, ["0 0.5 0.5 0.5 0.5", None])
    file = tmp_path / "data.yaml"
    file.write_text("path:\ntrain: ../images/train\nnames: [a, b]\n")
    assert len(open_dataset(str(file), "train")) == 2


def test_boxes_outside_and_without_area_are_counted(tmp_path, caplog):
    lines = ["0 0.0 0.5 0.5 0.5", "0 0.5 0.5 0.0 0.5", "1 1.01 1.01 0.01 1", "1 0.5 0.5 0.1 0.1"]
    file = make_yolo(tmp_path, ["\n".join(lines)])
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(str(file), "train")
    assert np.allclose(dataset.annotations(0, 100, 100).boxes, [[0, 25, 25, 75], [45, 45, 55, 55]])
    for fault, line in (("clipped", 1), ("without area", 2), ("outside the image, left out", 3)):
        assert re.search(rf"{fault}.*: 1 \(.*im0.txt:{line}\)", caplog.text)


def test_faulty_labels_are_refused_by_file_and_line(tmp_path):
    bad = ["2 0.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1", "0 0.5 x 0.1 0.1", "0 0.5 0.5"]
    bad += ["0 0.5 nan 0.1 0.1", "0 0.5 0.5 inf 0.1", "nan 0.5 0.5 0.1 0.1", "inf 0.5 0.5 0.1 0.1"]
    for i, line in enumerate(bad):
        file = make_yolo(tmp_path / str(i), [f"0 0.5 0.5 0.1 0.1\n{line}\n"])
        assert "im0.txt:2" in refusal(file)
    assert "names has 2 classes, 0 to 1" in refusal(tmp_path / "0" / "data.yaml")


def test_missing_and_empty_data_are_refused(tmp_path):
    assert "no such file or folder" in refusal(tmp_path / "nowhere.yaml")
    assert "expected `shapes`" in refusal(tmp_path)
    file = make_yolo(tmp_path / "empty", [])
    assert "the train split has no images" in refusal(file)
    assert "no val split" in refusal(file, "val")
    unlabelled = make_yolo(tmp_path / "unlabelled", [None, None])
    assert "no image of the train split has a label file" in refusal(unlabelled)
    assert str(tmp_path / "unlabelled/labels/train/im0.txt") in refusal(unlabelled)
    file.write_text("train: missing\nnames: [a]\n")
    assert str(file.parent / "missing") in refusal(file)
    file.write_text("train: images/train\n")
    assert "names is missing" in refusal(file)
    file.write_text("train: [unclosed\n")
    assert "not a YAML file" in refusal(file)
    assert "shapes:N" in refusal("shapes:none")


def test_unreadable_images_are_named(tmp_path):
    dataset = open_dataset(str(make_yolo(tmp_path, ["", "", ""])), "train")
    broken, empty, missing = (str(f) for f in dataset.files)
    with open(broken, "r+b") as file:
        file.truncate(20)
    open(empty, "w").close()
    shutil.move(missing, missing + ".away")
    for i, name in enumerate(("im0.png", "im1.png", "im2.png")):
        with pytest.raises(UnreadableImage, match=name):
            dataset.image(i)


def make_coco(folder, **changes):
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").mkdir()
    cv2.imwrite(str(folder / "train" / "x.png"), np.zeros((50, 100, 3), dtype=np.uint8))
    content = {
        "images": [{"id": 7, "file_name": "x.png", "width": 100, "height": 50}],
        "categories": [{"id": 9, "name": "late"}, {"id": 3, "name": "early"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [10, 10, 20, 20], "area": 111.0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 90, 40], "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 3, "bbox": [90, 40, 30, 30]},
            {"id": 4, "image_id": 7, "category_id": 3, "bbox": [5, 5, 0, 3]},
        ],
    }
    content |= changes
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return folder


def test_coco_keeps_crowds_for_scoring_and_not_for_training(tmp_path):
    dataset = open_dataset(str(make_coco(tmp_path / "c")), "train")
    assert dataset.names == ("early", "late")
    assert dataset.category_ids == (3, 9)
    truth = dataset.annotations(0, 100, 50)
    assert truth.labels.tolist() == [1, 0, 0, 0]
    assert truth.is_crowd.tolist() == [False, True, False, False]
    assert truth.areas[0] == 111
    assert truth.boxes[2].tolist() == [90, 40, 120, 70]
    sample = load_sample(dataset, 0)
    assert sample.boxes.tolist() == [[10, 10, 30, 30], [90, 40, 100, 50]]
    assert sample.image_id == 7


def test_faulty_coco_files_are_refused(tmp_path):
    foreign = {"id": 1, "image_id": 7, "category_id": 4, "bbox": [0, 0, 1, 1]}
    assert "category_id 4" in refusal(make_coco(tmp_path / "a", annotations=[foreign]))
    foreign = {"id": 1, "image_id": 8, "category_id": 3, "bbox": [0, 0, 1, 1]}
    assert "image_id 8" in refusal(make_coco(tmp_path / "b", annotations=[foreign]))
    images = [{"id": 7, "file_name": "gone.png", "width": 1, "height": 1}]
    assert "gone.png is in none of" in refusal(make_coco(tmp_path / "c", images=images))
    folder = make_coco(tmp_path / "d")
    (folder / "annotations" / "instances_train.json").write_text("{")
    assert "not a JSON file" in refusal(folder)
    assert "instances_val.json" in refusal(folder, "val")


def test_drawn_images_are_functions_of_their_index():
    first, again = open_dataset("shapes:40", "train"), open_dataset("shapes:40", "train")
    validation = open_dataset("shapes:40", "val")
    assert (len(first), len(validation)) == (40, 10)
    for i in (3, 0):
        assert np.array_equal(first.image(i), again.image(i))
        assert not np.array_equal(first.image(i), first.image(i + 1))
        assert not np.array_equal(first.image(i), validation.image(i))
    assert {len(first.annotations(i, 0, 0).boxes) for i in range(40)} > {0, 1}


def test_drawn_boxes_are_tight_around_what_is_drawn():
    """A disc alone, say, changes pixels up to each side of its box and none outside."""
    from hvd_yolo.data import shapes

    rng = np.random.default_rng(0)
    for name in shapes.NAMES:
        polygon = shapes._figure(rng, name, 200, 200)
        left, top, right, bottom = shapes._hull(polygon, 200, 200)
        mask = np.zeros((200, 200), dtype=np.uint8)
        cv2.fillPoly(mask, polygon, 1)
        ys, xs = np.nonzero(mask)
        assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (left, top, right, bottom)
