"""Class names are the text that was typed, each of them once, whatever YAML would make of them."""

import time
from itertools import pairwise

import pytest

from hvd_yolo.data import open_dataset
from hvd_yolo.data.__main__ import main
from hvd_yolo.errors import InputError
from tests.data.small_files import coco_content, make_coco, make_voc, make_yolo

# YAML 1.1 makes booleans, null, numbers and dates of these.
WORDS = [
    "yes", "No", "ON", "off", "y", "true", "null", "~", "010", "8", "1e3", "1_000", "0x1F", "0o17",
    "1:30", ".5", "1.0", ".inf", ".nan", "2024-01-01", "2024-01-01T00:00:00Z", "+1", "=", "<<",
]  # fmt: skip
STYLES = {
    "flow list": lambda names: f"names: [{', '.join(names)}]\n",
    "block list": lambda names: "names:\n" + "".join(f"  - {name}\n" for name in names),
    "map": lambda names: "names:\n" + "".join(f"  {i}: {name}\n" for i, name in enumerate(names)),
    "flow map": lambda names: (
        "names: {" + ", ".join(f"{i}: {name}" for i, name in enumerate(names)) + "}\n"
    ),
    "quoted keys": lambda names: (
        "names:\n" + "".join(f"  '{i}': {name}\n" for i, name in enumerate(names))
    ),
    "quoted": lambda names: f"names: {names!r}\n",
}


def opened(folder, text, **files):
    file = make_yolo(folder, yaml_text=f"path: .\ntrain: images\n{text}")
    for name, content in files.items():
        (folder / name).write_text(content)
    return open_dataset(str(file), "train")


def refusal(folder, text, **files):
    with pytest.raises(InputError) as caught:
        opened(folder, text, **files)
    assert str(folder / "data.yaml") in str(caught.value) or files
    return str(caught.value)


@pytest.mark.parametrize("style", STYLES)
def test_names_are_kept_as_typed(tmp_path, style):
    text = STYLES[style](WORDS)
    assert opened(tmp_path, f"{text}nc: '{len(WORDS)}'\n").names == tuple(WORDS)


def test_written_names_are_read_back_as_they_were(tmp_path):
    names = [*WORDS, "caf\u00e9", "\u7ea2\u7ec6\u80de", " a b ", "a: b", "#c", "'d'", '"e"', "-"]
    opened(tmp_path / "from", f"names: {names!r}\n")
    for to in ("yolo", "webdataset", "coco", "voc"):
        target = tmp_path / to
        source = str(tmp_path / "from" / "data.yaml")
        main(["convert", "--data", source, "--to", to, "--output", str(target)])
        assert open_dataset(str(target / "data.yaml"), "train").names == tuple(names)


@pytest.mark.parametrize(("format_name", "make"), [("coco", make_coco), ("voc", make_voc)])
def test_a_yaml_over_another_format_keeps_names_as_typed(tmp_path, format_name, make):
    names = ("010", "yes") if format_name == "coco" else ("b", "a")
    if format_name == "coco":
        content = coco_content()
        for category, name in zip(content["categories"], names, strict=True):
            category["name"] = name
        make(tmp_path, content)
    else:
        make(tmp_path)
    text = f"format: {format_name}\npath: .\nnames: [{', '.join(names)}]\n"
    (tmp_path / "set.yaml").write_text(text)
    assert open_dataset(str(tmp_path / "set.yaml"), "train").names == names


def test_nc_alone_numbers_the_classes(tmp_path):
    assert opened(tmp_path, "nc: '3'\n").names == ("class_0", "class_1", "class_2")


@pytest.mark.parametrize("name", ["obj.names", "data/obj.names", "data\\\\obj.names"])
def test_names_may_lie_in_a_file(tmp_path, name):
    dataset = opened(tmp_path, f'names: "{name}"\n', **{"obj.names": "yes\r\n no entry \n010\n\n"})
    assert dataset.names == ("yes", "no entry", "010")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("names: [a, b, a]", "names[2] is names[0] again, a"),
        ("names: {0: a, 1: ' a '}", "names[1] is names[0] again"),
        ("names: [caf\u00e9, cafe\u0301]", "names[1] is names[0] again"),
        ("names: [a, b]\nnames: [c, d]", "data.yaml:4: the key 'names' is there twice"),
        ("names: [a, b]\ntrain: other", "data.yaml:4: the key 'train' is there twice"),
        ("names:\n  0: a\n  1: b\n  0: c", "data.yaml:6: the key '0' is there twice"),
        ("names: {0: a, '0': b}", "the key '0' is there twice"),
        ("names: {0: a, 00: b}", "names has the number 0 twice"),
        ("names: [a, '']", "names[1] is blank"),
        ("names: ['  ', a]", "names[0] is blank"),
        ("names: [a, [b]]", "names[1] is [b], expected a text"),
        ("names: {0: a, 2: b}", "numbered 0 to 1 without gaps"),
        ("names: {1: a, 2: b}", "numbered 0 to 1 without gaps"),
        ("names: {a: 0, b: 1}", "names has the key 'a', expected the number of a class"),
        ("names: [a, b]\nnc: 3", "nc is '3', but names has 2 classes"),
        ("names: [a, b]\nnc: two", "nc is 'two', expected the number of classes"),
        ("nc: 0", "nc is '0', expected"),
        ("nc: 99999999", "expected the number of classes"),
        ("names: gone.names", "names is 'gone.names', expected a list"),
        ("names:", "names is missing"),
        ("names: []", "names is missing"),
    ],
)
def test_names_that_cannot_be_used_are_refused(tmp_path, text, expected):
    assert expected in refusal(tmp_path, text)


@pytest.mark.parametrize("lines", ["a\nb\na\n", "a\n\nb\n", "\n"])
def test_a_names_file_that_cannot_be_used_is_named(tmp_path, lines):
    found = refusal(tmp_path, "names: obj.names", **{"obj.names": lines})
    assert str(tmp_path / "obj.names") in found


def test_names_that_differ_in_case_are_two_classes(tmp_path):
    assert opened(tmp_path, "names: [Car, car]").names == ("Car", "car")


def test_every_reader_refuses_two_classes_of_one_name(tmp_path):
    content = coco_content()
    content["categories"][1]["name"] = content["categories"][0]["name"]
    coco = make_coco(tmp_path / "coco", content)
    with pytest.raises(InputError, match="categories"):
        open_dataset(str(coco), "train")
    for format_name in ("yolo", "webdataset", "coco", "voc"):
        file = tmp_path / f"{format_name}.yaml"
        file.write_text(f"format: {format_name}\ntrain: images\nnames: [a, b, a]\n")
        with pytest.raises(InputError, match=r"names\[2\] is names\[0\] again, a"):
            open_dataset(str(file), "train")


def test_merged_mappings_do_not_fill_the_memory(tmp_path):
    letters = "abcdefghijklmnopqrstuvwxyz"
    doubled = (f"{b}: &{b} {{<<: [*{a}, *{a}, *{a}, *{a}]}}\n" for a, b in pairwise(letters))
    text = "a: &a {x: 1, y: 2}\n" + "".join(doubled) + "names: [a, b]\n"
    start = time.perf_counter()
    assert opened(tmp_path, text).names == ("a", "b")
    assert time.perf_counter() - start < 1


def test_keys_may_be_merged_and_given_anew(tmp_path):
    text = "usual: &usual {names: [a, b], nc: 2}\n<<: *usual\nnames: [c, d]\n"
    assert opened(tmp_path, text).names == ("c", "d")
