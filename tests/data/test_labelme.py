"""LabelMe files as they are found: sizes, labels and shapes of other tools, other files beside
them."""

import json

import pytest

from hvd_yolo.data import UnreadableImage, find_splits, open_dataset
from hvd_yolo.data.dataset import WHOLE, load_sample
from hvd_yolo.errors import InputError
from tests.data.small_files import encode, picture

WIDTH, HEIGHT = 64, 48
SHAPE = {"label": "a", "points": [[30, 24], [6, 8]], "shape_type": "rectangle"}
BOX = [6, 8, 30, 24]


def put(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def make(folder, labels="train", images="train", first=None, shapes=(SHAPE,), **changes):
    """Two images with a file each; `changes` and `first` are keys of the first one's."""
    for stem in "12":
        content = {"imagePath": f"{stem}.png", "imageWidth": WIDTH, "imageHeight": HEIGHT}
        content |= {"shapes": list(shapes)} | (changes if stem == "1" else {})
        put(folder / labels / f"{stem}.json", (first or {}) | content)
        put(folder / images / f"{stem}.png", encode(".png", picture(WIDTH, HEIGHT)))
    return str(folder)


def boxes(dataset):
    return [load_sample(dataset, i).boxes.tolist() for i in range(len(dataset))]


def what(dataset):
    return {problem.what: problem.count for problem in dataset.problems}


@pytest.mark.parametrize(("width", "height"), [(32.0, 24.0), ("32", "24"), (65, 48), (48, 64)])
def test_a_stated_size_is_compared_whatever_its_type(tmp_path, width, height):
    dataset = open_dataset(make(tmp_path, imageWidth=width, imageHeight=height), "train")
    with pytest.raises(UnreadableImage, match="its annotations are of"):
        dataset.scaled(0, WHOLE)
    assert load_sample(dataset, 1).boxes.tolist() == [BOX]


@pytest.mark.parametrize("size", [None, 0, "", "null", 64.0, "64"])
def test_a_size_that_is_right_or_not_stated_is_the_images(tmp_path, size):
    height = {64.0: 48.0, "64": "48"}.get(size, size)
    dataset = open_dataset(make(tmp_path, imageWidth=size, imageHeight=height), "train")
    assert boxes(dataset) == [[BOX], [BOX]]


def test_a_size_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"1\.json: imageWidth is 'wide'"):
        open_dataset(make(tmp_path, imageWidth="wide"), "train")


def test_image_data_may_come_first(tmp_path):
    assert boxes(open_dataset(make(tmp_path, first={"imageData": "x" * 9000}), "train"))[0] == [BOX]


def test_another_json_does_not_hide_a_split(tmp_path):
    put(tmp_path / "train" / "0.json", {"info": 1})
    make(tmp_path)
    make(tmp_path, "val", "val")
    with pytest.raises(InputError, match=r"train/0\.json: not a LabelMe file"):
        find_splits(str(tmp_path))


def test_a_split_may_have_its_files_in_folders(tmp_path):
    make(tmp_path, "train/one", "train/one")
    make(tmp_path, "train/two", "train/two")
    make(tmp_path, "val", "val")
    splits = find_splits(str(tmp_path)).datasets
    assert {split: boxes(found) for split, found in splits.items()} == {
        "train": [[BOX]] * 4, "val": [[BOX]] * 2
    }  # fmt: skip


@pytest.mark.parametrize("labels", ["images", "labels", "annotations", "json"])
def test_images_may_lie_in_a_folder_beside_the_labels(tmp_path, labels):
    assert boxes(open_dataset(make(tmp_path, labels, "images"), "all")) == [[BOX], [BOX]]


@pytest.mark.parametrize("label", [None, "", "  ", ["a"]])
def test_a_shape_without_a_class_is_refused(tmp_path, label):
    with pytest.raises(InputError, match=r"1\.json: shapes\[0\] has label .*expected a name"):
        open_dataset(make(tmp_path, shapes=[SHAPE | {"label": label}]), "train")


def test_blanks_around_a_label_are_no_part_of_it(tmp_path):
    folder = make(tmp_path, shapes=[SHAPE, SHAPE | {"label": " a "}])
    assert open_dataset(folder, "train").names == ("a",)


def test_a_rotated_box_is_the_box_around_it(tmp_path):
    points = [[18, 8], [30, 16], [18, 24], [6, 16]]
    folder = make(tmp_path, shapes=[SHAPE | {"shape_type": "rotation", "points": points}])
    assert boxes(open_dataset(folder, "train")) == [[BOX], [BOX]]


def test_boxes_beyond_the_image_and_repeated_images_are_counted(tmp_path):
    shapes = [SHAPE, SHAPE | {"points": [[-4, 8], [9, 9]]}, SHAPE | {"points": [[90, 8], [99, 9]]}]
    make(tmp_path, shapes=shapes)
    put(tmp_path / "train/3.json", {"imagePath": "1.png", "shapes": [SHAPE]})
    dataset = open_dataset(str(tmp_path), "train")
    assert what(dataset) == {
        "boxes partly outside the image, clipped": 2,
        "boxes outside the image, left out": 2,
        "images named more than once, used as often": 1,
    }
    assert boxes(dataset) == [[BOX, [0, 8, 9, 9]]] * 2 + [[BOX]]


def test_an_image_path_that_names_another_image_is_told(tmp_path):
    dataset = open_dataset(make(tmp_path, imagePath="2.png"), "train")
    assert what(dataset) == {
        "files whose imagePath is another image than their own, used": 1,
        "images named more than once, used as often": 1,
        "images without a LabelMe file, left out": 1,
    }
