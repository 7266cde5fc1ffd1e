"""Mutations of a data.yaml, and of lists of images; see label_mutations for what they are."""

import json

import yaml

from tests.data.generated import NAMES
from tests.data.label_mutations import ANY, KEPT, LOST, pick


def edit_yaml(folder, change):
    file = folder / "data.yaml"
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))


def fewer_names(rng, folder, pictures):
    edit_yaml(folder, lambda c: c.update(names=list(NAMES[:-1]), nc=2))
    used = {item.name for picture in pictures for item in picture.objects}
    return LOST if NAMES[-1] in used else ANY


def other_nc(rng, folder, pictures):
    edit_yaml(folder, lambda c: c.update(nc=pick(rng, [0, 1, 2, 4, 80, "x", None, [3], 3.5])))


def names_twice(rng, folder, pictures):
    edit_yaml(folder, lambda c: c.update(names=[NAMES[0], NAMES[1], NAMES[0]]))


def names_of_another_kind(rng, folder, pictures):
    kinds = [
        {str(i): name for i, name in enumerate(NAMES)}, {i: n for i, n in enumerate(NAMES)},
        {i + 1: n for i, n in enumerate(NAMES)}, ", ".join(NAMES), None, [], 3,
        [[name] for name in NAMES],
    ]  # fmt: skip
    edit_yaml(folder, lambda c: c.update(names=pick(rng, kinds)))


def wrong_path(rng, folder, pictures):
    edit_yaml(folder, lambda c: c.update(path=pick(rng, ["..", "/data", "datasets/mine", "C:\\d"])))


def absolute_path(rng, folder, pictures):
    edit_yaml(folder, lambda c: c.update(path=str(folder)))


def other_train(rng, folder, pictures):
    values = [
        "images/train/", "./images/train", "images", ["images/train"], "../images/train", "train",
        "images/val", "labels/train", "data.yaml", "", None, 7, {"a": "images/train"},
        str(folder / "images/train"), "images\\train", ["images/train", "images/none"],
    ]  # fmt: skip
    edit_yaml(folder, lambda c: c.update(train=pick(rng, values)))


def other_kpt_shape(rng, folder, pictures):
    shapes = [[3, 3], [2, 2], "x", [2], [0, 3], 7, [2, 4], [[2, 3]], [1, 3]]
    edit_yaml(folder, lambda c: c.update(kpt_shape=pick(rng, shapes)))


def other_encoding_of_yaml(rng, folder, pictures):
    file = folder / "data.yaml"
    text = file.read_text()
    file.write_bytes(text.encode(pick(rng, ["utf-8-sig", "utf-16", "utf-32", "cp037"])))


YAML = {
    fewer_names: LOST, other_nc: KEPT, names_twice: LOST, names_of_another_kind: KEPT,
    wrong_path: KEPT, absolute_path: KEPT, other_train: KEPT, other_kpt_shape: LOST,
    other_encoding_of_yaml: KEPT,
}  # fmt: skip


def edit_list(folder, change):
    file = folder / "train.txt"
    lines = change(file.read_text().splitlines())
    text = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
    file.write_bytes(text)


def lines_of_another_place(rng, folder, pictures):
    places = ["/home/me/data/", "data/", "../", "C:/data/", "dataset/", "./", "data/data/", "/"]
    place = pick(rng, places)
    edit_list(folder, lambda lines: [place + line for line in lines])


def lines_with_backslashes(rng, folder, pictures):
    end = pick(rng, ["\r\n", "\n"])
    edit_list(folder, lambda lines: end.join(line.replace("/", "\\") for line in lines).encode())


def lines_with_more(rng, folder, pictures):
    form = pick(rng, ["{}  ", '"{}"', "'{}'", "{} 0", "{},0", "\ufeff{}", "{}\r", "# {}\n{}"])
    edit_list(folder, lambda lines: [form.format(line, line) for line in lines])


def lines_without_suffix(rng, folder, pictures):
    suffix = pick(rng, ["", ".bmp", ".jpg", ".JPEG", ".txt"])
    edit_list(folder, lambda lines: [line.rpartition(".")[0] + suffix for line in lines])


def lines_of_labels(rng, folder, pictures):
    def change(lines):
        texts = (line.replace("images/", "labels/") for line in lines)
        return [text.rpartition(".")[0] + ".txt" for text in texts]

    edit_list(folder, change)


def lines_that_are_not_there(rng, folder, pictures):
    edit_list(folder, lambda lines: [*lines[:1], *(f"{line}x.jpg" for line in lines[1:])])


def no_lines(rng, folder, pictures):
    edit_list(folder, lambda _: pick(rng, [[], ["", ""], ["# nothing"]]))


def list_in_json(rng, folder, pictures):
    edit_list(folder, lambda lines: json.dumps(lines).encode())


LISTS = {
    lines_of_another_place: KEPT, lines_with_backslashes: KEPT, lines_with_more: KEPT,
    lines_without_suffix: KEPT, lines_of_labels: LOST, lines_that_are_not_there: LOST,
    no_lines: LOST, list_in_json: LOST,
}  # fmt: skip
