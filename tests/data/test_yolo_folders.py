"""The folders of a YOLO text data set: which files are images and labels, and which are told."""

import shutil

import pytest

from hvd_yolo.data import find_splits, open_dataset
from hvd_yolo.data.__main__ import main
from hvd_yolo.doctor.data_sets import look
from hvd_yolo.errors import InputError
from tests.data.small_files import encode, make_yolo, picture

LABEL = "0 0.5 0.5 0.5 0.5\n"


def put(file, content=b""):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def make(folder, images="images/train", labels="labels/train", stems=("one", "two"), more=""):
    for stem in stems:
        put(folder / images / f"{stem}.png", encode(".png", picture()))
        put(folder / labels / f"{stem}.txt", LABEL)
    put(folder / "data.yaml", f"path: .\ntrain: {images}\nnames: [a]\n{more}")
    return folder / "data.yaml"


def problems(dataset):
    return {problem.what: sorted(problem.examples) for problem in dataset.problems}


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/train", "labels/train"),
        ("train/images", "train/labels"),
        ("Images/train", "Labels/train"),
        ("IMAGES/train", "LABELS/train"),
        ("IMAGES", "labels"),
        ("JPEGImages", "labels"),
        ("images/images", "images/labels"),
        ("images/train", "images/train"),
        ("obj_train_data", "obj_train_data"),
    ],
)
def test_labels_lie_in_a_twin_folder_or_beside_the_images(tmp_path, images, labels):
    dataset = open_dataset(str(make(tmp_path, images, labels)), "train")
    assert dataset.labels.tolist() == [0, 0]
    assert not dataset.problems


def test_files_that_are_no_images_are_told_once_by_suffix(tmp_path):
    file = make(tmp_path)
    images = tmp_path / "images" / "train"
    for name in ("a.heic", "b.HEIC", "c.avif", "clip.mp4", "noname"):
        put(images / name)
    for name in (".hidden.png", "._one.png", "Thumbs.db", "labels.cache", "one.json", "one.xml"):
        put(images / name)
    put(images / ".ipynb_checkpoints" / "one.png")
    put(tmp_path / "labels" / "train" / "._one.txt")
    dataset = open_dataset(str(file), "train")
    assert len(dataset) == 2
    found = problems(dataset)
    assert list(found) == [
        "images of a format that is not read (.avif 1, .heic 2), left out; convert them to JPEG "
        "or PNG",
        "files among the images that are none (.mp4 1, no suffix 1), passed over",
    ]
    assert [len(examples) for examples in found.values()] == [3, 2]
    assert {problem.severity for problem in dataset.problems} == {"warning"}


def test_a_folder_of_images_that_are_not_read_is_refused_with_the_remedy(tmp_path):
    file = make(tmp_path)
    for stem in ("one", "two"):
        image = tmp_path / "images" / "train" / f"{stem}.png"
        image.rename(image.with_suffix(".heic"))
    with pytest.raises(InputError, match=r"no images; .*\(\.heic 2\), left out; convert them to"):
        open_dataset(str(file), "train")


def test_labels_without_an_image_are_told(tmp_path):
    file = make(tmp_path)
    labels = tmp_path / "labels" / "train"
    put(tmp_path / "images" / "train" / "photo.heic")
    for name in ("photo.txt", "gone.txt", "below/one.txt", "one.TXT"):
        put(labels / name, LABEL)
    for name in ("classes.txt", "README.txt", ".gone.txt", "one.json"):
        put(labels / name)
    found = problems(open_dataset(str(file), "train"))
    strays = found["label files without an image that is read, left out"]
    expected = [labels / name for name in ("below/one.txt", "gone.txt", "one.TXT", "photo.txt")]
    assert strays == sorted(map(str, expected))


def test_labels_of_images_that_a_list_leaves_out_are_no_strays(tmp_path):
    file = make(tmp_path)
    put(tmp_path / "train.txt", "images/train/one.png\n")
    put(file, "train: train.txt\nnames: [a]\n")
    assert not open_dataset(str(file), "train").problems


def test_texts_beside_images_are_told_where_labels_lie_elsewhere(tmp_path):
    file = make(tmp_path)
    put(tmp_path / "images" / "train" / "one.txt", "a caption")
    (what,) = problems(open_dataset(str(file), "train"))
    assert "not read as labels" in what


def test_the_folder_beside_the_yaml_is_taken_before_a_neighbor(tmp_path):
    file = make(tmp_path / "project", "train/images", "train/labels")
    put(file, "train: ../train/images\nnames: [a]\n")
    assert not open_dataset(str(file), "train").problems
    make(tmp_path, "train/images", "train/labels", stems=("other",))
    dataset = open_dataset(str(file), "train")
    assert [name.rsplit("/", 1)[-1] for name in dataset.files.tolist()] == ["one.png", "two.png"]
    ((told,),) = problems(dataset).values()
    assert f"{tmp_path}/project/train/images is used, {tmp_path}/train/images is not" in told
    shutil.rmtree(tmp_path / "project" / "train")
    assert len(open_dataset(str(file), "train")) == 1


@pytest.mark.parametrize("kind", ["folder", "list", "empty folder", "unlabeled", "absent images"])
def test_a_test_split_that_is_not_there_is_a_warning_unless_asked_for(tmp_path, kind, capsys):
    file = make(tmp_path, more="val: images/val\ntest: test/images\n")
    put(tmp_path / "images" / "val" / "three.png", encode(".png", picture(70)))
    put(tmp_path / "labels" / "val" / "three.txt", LABEL)
    if kind == "list":
        put(file, file.read_text().replace("test/images", "test.txt"))
    elif kind == "absent images":
        put(file, file.read_text().replace("test/images", "test.txt"))
        put(tmp_path / "test.txt", "./images/test/gone.png\n")
    elif kind != "folder":
        (tmp_path / "test" / "images").mkdir(parents=True)
    if kind == "unlabeled":
        put(tmp_path / "test" / "images" / "x.png", encode(".png", picture()))
    datasets, absent = find_splits(str(file))
    assert (list(datasets), list(absent)) == (["train", "val"], ["test"])
    main(["check", "--data", str(file), "--splits", ""])
    assert "warning: test: named, but not there" in capsys.readouterr().out
    with pytest.raises(InputError) as caught:
        main(["check", "--data", str(file), "--splits", "test"])
    assert "test" in str(caught.value)
    assert look(str(file)).absent == list(absent.values())


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_train_or_val_split_that_is_not_there_stays_an_error(tmp_path, split):
    file = make(tmp_path)
    put(file, "train: images/train\nval: images/train\nnames: [a]\n")
    put(file, file.read_text().replace(f"{split}: images/train", f"{split}: images/{split}_gone"))
    with pytest.raises(InputError, match=f"{split} is images/{split}_gone, but .* does not exist"):
        find_splits(str(file))


def test_a_data_set_without_splits_is_refused_by_its_train_split(tmp_path):
    file = make(tmp_path)
    put(file, "names: [a]\n")
    with pytest.raises(InputError, match="no train split"):
        find_splits(str(file))


def test_images_that_share_a_label_file_are_told(tmp_path):
    file = make(tmp_path)
    put(tmp_path / "images" / "train" / "one.jpg", encode(".jpg", picture()))
    ((what, (told,)),) = problems(open_dataset(str(file), "train")).items()
    assert "share the label file" in what
    assert told == str(tmp_path / "images" / "train" / "one.png")


def test_labels_may_have_a_suffix_in_capitals(tmp_path):
    file = make(tmp_path)
    (tmp_path / "labels/train/one.txt").rename(tmp_path / "labels/train/one.TXT")
    dataset = open_dataset(str(file), "train")
    assert (len(dataset.boxes), problems(dataset)) == (2, {})


def test_hidden_files_are_no_yaml_of_a_folder(tmp_path):
    make(tmp_path).rename(tmp_path / "mine.YAML")
    put(tmp_path / "._mine.yaml", b"\0\5\x16\7names: \xff")
    (tmp_path / "other.yaml").mkdir()
    assert len(open_dataset(str(tmp_path), "train")) == 2


def test_a_neighbor_beside_an_own_split_is_told(tmp_path):
    file = make(tmp_path / "own", "valid/images", "valid/labels")
    put(file, "train: ../train/images\nval: ../valid/images\nnames: [a]\n")
    make(tmp_path, "train/images", "train/labels")
    ((told, places),) = problems(open_dataset(str(file), "train")).items()
    assert told.startswith("folders beside the data set's own folder")
    assert f"{tmp_path}/train/images is used" in places[0]
    assert f"{tmp_path}/own/valid/images does" in places[0]
    shutil.rmtree(tmp_path / "own/valid")
    assert problems(open_dataset(str(file), "train")) == {}


def test_a_published_file_finds_the_folder_that_it_lies_in(tmp_path):
    """`path: ../datasets/NAME` inside NAME/, as Ultralytics publishes its data sets."""
    file = make_yolo(tmp_path / "coco8")
    text = file.read_text()
    for path in ("../datasets/coco8", "coco8", "/nowhere/coco8"):
        file.write_text(text.replace("path: .", f"path: {path}"))
        assert len(open_dataset(str(file), "train")) == 1
    file.write_text(text.replace("path: .", "path: ../datasets/other"))
    with pytest.raises(InputError, match="datasets/other"):
        open_dataset(str(file), "train")
