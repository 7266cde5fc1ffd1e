"""Lists of images as tools write them: where their paths count from, and what is not there."""

import pytest

from hvd_yolo.data import find_splits, open_dataset
from hvd_yolo.errors import InputError
from tests.data.small_files import encode, picture

NAMES = "names: [a, b]\n"
LABEL = "0 0.5 0.5 0.5 0.5\n"


def make(folder, lines, listing="train.txt", end="\n", beside=False):
    """Two labeled images and a list; `beside`: Darknet's folder, labels beside the images."""
    images, labels = ("obj", "obj") if beside else ("images/train", "labels/train")
    for stem in ("one", "two"):
        for place, suffix, content in ((images, ".png", encode(".png", picture())),
                                       (labels, ".txt", LABEL.encode())):  # fmt: skip
            file = folder / place / f"{stem}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    (folder / listing).parent.mkdir(parents=True, exist_ok=True)
    (folder / listing).write_text(end.join([*lines, ""]), newline="")
    (folder / "data.yaml").write_text(f"path: .\ntrain: {listing}\n{NAMES}")
    return folder / "data.yaml"


def found(dataset):
    return [file.rsplit("/", 1)[-1] for file in dataset.files.tolist()]


def problems(dataset):
    return {problem.what: (problem.severity, problem.examples) for problem in dataset.problems}


@pytest.mark.parametrize(
    ("first", "listing"),
    [
        ("images/train/", "train.txt"),
        ("./images/train/", "train.txt"),
        ("../images/train/", "lists/train.txt"),
        ("images/train/", "lists/train.txt"),
        ("./images/train/", "lists/deep/train.txt"),
        ("images\\train\\", "train.txt"),
        (".\\images\\train\\", "lists/train.txt"),
        ("data/images/train/", "train.txt"),
        ("data\\images\\train\\", "lists/train.txt"),
        ("ROOT/images/train/", "train.txt"),
        ("set/images/train/", "lists/train.txt"),
        ("data/set/images/train/", "train.txt"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_paths_count_from_the_list_the_data_set_or_the_working_directory(
    tmp_path, monkeypatch, first, listing, end
):
    monkeypatch.chdir(tmp_path)
    first = first.replace("ROOT", str(tmp_path / "set"))
    lines = ["\ufeff# a comment", f"  {first}two.png ", "", f"{first}one.png"]
    dataset = open_dataset(str(make(tmp_path / "set", lines, listing, end)), "train")
    assert found(dataset) == ["one.png", "two.png"]
    assert len(dataset.image(1)) == 48
    assert dataset.labels.tolist() == [0, 0]
    assert not dataset.problems


def test_a_file_of_the_name_as_written_comes_first(tmp_path):
    file = make(tmp_path, ["images/train/one.png", "#two.png", "a\\b.png"])
    for name in ("#two.png", "a\\b.png", "a/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(".png", picture()))
    files = open_dataset(str(file), "train").files.tolist()
    assert {file[len(str(tmp_path)) + 1 :] for file in files} == {
        "images/train/one.png", "#two.png", "a\\b.png",
    }  # fmt: skip


def test_what_is_no_image_is_an_error_with_its_line_and_the_others_are_read(tmp_path):
    lines = ["images/train/one.png", "labels/train/one.txt", "images/train/gone.png", "C:\\x.jpg"]
    dataset = open_dataset(str(make(tmp_path, lines)), "train")
    assert found(dataset) == ["one.png"]
    listing = tmp_path / "train.txt"
    assert problems(dataset) == {
        "listed files that are not images": ("error", [f"{listing}:2: labels/train/one.txt"]),
        "listed images that do not exist": (
            "error", [f"{listing}:3: images/train/gone.png", f"{listing}:4: C:\\x.jpg"],
        ),
    }  # fmt: skip


def test_a_list_without_any_image_is_refused_with_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = make(tmp_path / "set", ["gone/one.png", "gone/two.png"])
    with pytest.raises(InputError, match=r"train\.txt:1: gone/one\.png; .* looked for in") as told:
        open_dataset(str(file), "train")
    assert str(tmp_path / "set") in str(told.value)
    assert "label" not in str(told.value)


def test_an_image_listed_twice_is_told(tmp_path):
    lines = ["images/train/one.png", "./images/train/../train/one.png"]
    dataset = open_dataset(str(make(tmp_path, lines)), "train")
    assert found(dataset) == ["one.png", "one.png"]
    assert len(set(dataset.ids.tolist())) == 2
    ((what, (severity, examples)),) = problems(dataset).items()
    assert "more than once" in what
    assert severity == "warning"
    assert examples == [str(tmp_path / "images/train/one.png")]


def test_relative_paths_do_not_leave_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "out.png").write_bytes(encode(".png", picture()))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    file = make(tmp_path / "work/set", ["images/train/one.png", "../../out.png"])
    with pytest.raises(InputError, match=r"train\.txt:2: .* leads out of"):
        open_dataset(str(file), "train")


@pytest.mark.parametrize("first", ["data/obj/", "obj/", "obj\\"])
def test_darknet_exports_are_read_by_their_data_file(tmp_path, first):
    make(tmp_path, [f"{first}one.png", f"{first}two.png"], beside=True)
    (tmp_path / "obj.names").write_text("yes\n010\n")
    data = "# made\nclasses = 2\ntrain  = data/train.txt\nvalid=train.txt\nnames = data/obj.names\n"
    (tmp_path / "obj.data").write_text(data + "backup = backup/\n")
    splits = find_splits(str(tmp_path / "obj.data")).datasets
    assert list(splits) == ["train", "val"]
    for dataset in splits.values():
        assert dataset.names == ("yes", "010")
        assert found(dataset) == ["one.png", "two.png"]
        assert len(dataset.boxes) == 2
    for broken, expected in (
        (data.replace("= 2", "= 3"), "nc is '3', but names has 2 classes"),
        (data + "train = other.txt\n", "obj.data:6: the key 'train' is there twice"),
        (data + "train\n", "obj.data:6: expected `key = value`"),
        (data.replace("obj.names", "gone.names"), "names is 'data/gone.names'"),
    ):
        (tmp_path / "obj.data").write_text(broken)
        with pytest.raises(InputError) as caught:
            open_dataset(str(tmp_path / "obj.data"), "train")
        assert expected in str(caught.value)


def test_a_list_that_counts_from_two_folders_is_told(tmp_path, monkeypatch):
    """The second image is of another data set, which lies in the working directory."""
    make(tmp_path / "other", [])
    monkeypatch.chdir(tmp_path / "other")
    file = make(tmp_path / "set", ["images/train/one.png", "images/train/two.png"])
    assert not open_dataset(str(file), "train").problems
    (tmp_path / "set" / "images" / "train" / "two.png").unlink()
    ((what, (severity, (told,))),) = problems(open_dataset(str(file), "train")).items()
    assert "more than one folder" in what
    assert severity == "warning"
    assert f"{tmp_path}/other ({tmp_path}/set/train.txt:2)" in told


def test_folders_of_a_yaml_do_not_count_from_the_working_directory(tmp_path, monkeypatch):
    make(tmp_path / "other", [])
    monkeypatch.chdir(tmp_path / "other")
    file = make(tmp_path / "set", [])
    file.write_text(f"train: images/val\nval: images/train\n{NAMES}")
    (tmp_path / "other/images/train").rename(tmp_path / "other/images/val")
    with pytest.raises(InputError, match=r"train is images/val, but .*set/images/val does not"):
        open_dataset(str(file), "train")


@pytest.mark.parametrize("key", ["valid", "Validation", "val"])
def test_a_folder_with_a_darknet_file_is_what_that_describes(tmp_path, key):
    for split in ("train", "valid"):
        folder = tmp_path / f"obj_{split}_data"
        folder.mkdir()
        (folder / "1.png").write_bytes(encode(".png", picture()))
        (folder / "1.txt").write_text(LABEL)
        (tmp_path / f"{split}.txt").write_text(f"data/{folder.name}/1.png\n")
    (tmp_path / "obj.names").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    text = f"classes = 2\ntrain = data/train.txt\n{key} = data/valid.txt\nnames = data/obj.names\n"
    (tmp_path / "obj.data").write_text(text)
    datasets = find_splits(str(tmp_path)).datasets
    assert {split: len(found.boxes) for split, found in datasets.items()} == {"train": 1, "val": 1}
    assert datasets["val"].names == ("a", "b")
