"""Mutations of COCO JSON and VOC XML; see label_mutations for what they are."""

import json
import xml.etree.ElementTree as ET

from tests.data.label_mutations import ANY, KEPT, LOST, pick


def edit_json(folder, change):
    """Rewrite each JSON file of the data set; change(content) may return a text or bytes."""
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text())
        text = change(content)
        text = json.dumps(content) if text is None else text
        file.write_bytes(text if isinstance(text, bytes) else text.encode())


def edit_entries(folder, key, change):
    """change(entry) of each of the entries of a list."""

    def edit(content):
        for entry in content[key]:
            change(entry)

    edit_json(folder, edit)


def has_turned(pictures):
    return any(picture.orientation >= 5 for picture in pictures)


def json_doubled(rng, folder, pictures):
    """Sizes and boxes of images that have been resized to half since."""
    edit_entries(folder, "images", lambda e: e.update(width=2 * e["width"], height=2 * e["height"]))
    edit_entries(folder, "annotations", lambda e: e.update(bbox=[2 * n for n in e["bbox"]]))


def json_other_size(rng, folder, pictures):
    key, way = pick(rng, ["width", "height"]), pick(rng, [-5, 7, 100])
    edit_entries(folder, "images", lambda e: e.update({key: e[key] + way}))


def json_no_size(rng, folder, pictures):
    value = pick(rng, [0, None, -1, "x", ...])

    def change(entry):
        for key in pick(rng, [("width",), ("height",), ("width", "height")]):
            entry.pop(key) if value is ... else entry.update({key: value})

    edit_entries(folder, "images", change)
    # Without a size it cannot be told of which image the boxes are.
    return ANY if has_turned(pictures) else KEPT


def json_id_kinds(rng, folder, pictures):
    key, other = pick(rng, [("images", "image_id"), ("categories", "category_id")])
    kind = pick(rng, [float, str, lambda number: number + 0.5, lambda number: [number]])
    edit_entries(folder, key, lambda e: e.update(id=kind(e["id"])))
    edit_entries(folder, "annotations", lambda e: e.update({other: kind(e[other])}))


def json_ids_moved(rng, folder, pictures):
    """References by one too high; or all to what is not there."""
    key, way = pick(rng, ["image_id", "category_id"]), pick(rng, [1, 100_000])
    edit_entries(folder, "annotations", lambda e: e.update({key: e[key] + way}))


def json_corners(rng, folder, pictures):
    def change(entry):
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x, y, x + w, y + h]

    edit_entries(folder, "annotations", change)


def json_bbox_kinds(rng, folder, pictures):
    """Boxes that are none: left out and counted, or refused."""
    kinds = [
        lambda b: [], lambda b: None, lambda b: b[:3], lambda b: [*b, 1], lambda b: {"x": b[0]},
        lambda b: [*b[:2], 0, 0], lambda b: [*b[:2], -b[2], -b[3]], lambda b: [b],
        lambda b: [None] * 4, lambda b: [float("nan"), *b[1:]], lambda b: "",
    ]  # fmt: skip
    kind = pick(rng, kinds)
    edit_entries(folder, "annotations", lambda e: e.update(bbox=kind(e["bbox"])))


def json_bbox_text(rng, folder, pictures):
    kind = pick(rng, [lambda b: list(map(str, b)), lambda b: " ".join(map(str, b))])
    edit_entries(folder, "annotations", lambda e: e.update(bbox=kind(e["bbox"])))


def json_no_bbox(rng, folder, pictures):
    edit_entries(folder, "annotations", lambda e: e.pop("bbox"))


def json_far(rng, folder, pictures):
    way = pick(rng, [500, -500])
    edit_entries(
        folder, "annotations", lambda e: e.update(bbox=[e["bbox"][0] + way, *e["bbox"][1:]])
    )


def json_no_crowd(rng, folder, pictures):
    values = [None, False, "0", "false", "False", 0.0, ...]
    value = pick(rng, values)
    edit_entries(
        folder, "annotations",
        lambda e: e.pop("iscrowd") if value is ... else e.update(iscrowd=value),
    )  # fmt: skip


def json_all_crowds(rng, folder, pictures):
    value = pick(rng, [1, True, "1", "true", 2, "yes"])
    edit_entries(folder, "annotations", lambda e: e.update(iscrowd=value))


def json_area(rng, folder, pictures):
    value = pick(rng, [None, 0, -1, "", "12.5", ...])
    edit_entries(
        folder, "annotations", lambda e: e.pop("area") if value is ... else e.update(area=value)
    )


def json_file_name(rng, folder, pictures):
    forms = [
        "images\\train\\{}", "./{}", "images/train/{}", "train/{}", "/home/me/{}", "C:\\d\\{}",
        "https://x.org/{}", "{}.txt", "{} ", "../images/{}", "x{}",
    ]  # fmt: skip
    form = pick(rng, forms)
    edit_entries(folder, "images", lambda e: e.update(file_name=form.format(e["file_name"])))


def json_suffix(rng, folder, pictures):
    suffix = pick(rng, [".JPG", ".jpg", ".PNG", ".png", "", ".bmp"])
    edit_entries(
        folder, "images",
        lambda e: e.update(file_name=e["file_name"].rpartition(".")[0] + suffix),
    )  # fmt: skip


def json_lists(rng, folder, pictures):
    """A list that is empty, away or called otherwise."""
    key = pick(rng, ["images", "annotations", "categories"])
    way = pick(rng, ["empty", "away", "renamed", "null"])

    def change(content):
        entries = content.pop(key)
        new = {
            "empty": {key: []},
            "away": {},
            "renamed": {key.title(): entries},
            "null": {key: None},
        }
        content.update(new[way])

    edit_json(folder, change)


def json_names(rng, folder, pictures):
    value = pick(rng, ["cell", None, 7, ""])
    edit_entries(folder, "categories", lambda e: e.update(name=value))


def json_ids_twice(rng, folder, pictures):
    key = pick(rng, ["images", "categories"])
    edit_entries(folder, key, lambda e: e.update(id=7))


def json_text(rng, folder, pictures):
    def change(content):
        text = json.dumps(content)
        cut = text[: int(rng.integers(len(text)))]
        texts = [cut, json.dumps([content]), json.dumps(text), "", "\n".join(text.split(",")), "{}"]
        return pick(rng, texts)

    edit_json(folder, change)


def json_encoding(rng, folder, pictures):
    name = pick(rng, ["utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
    edit_json(folder, lambda content: json.dumps(content).encode(name))


COCO = {
    json_doubled: LOST, json_other_size: LOST, json_no_size: KEPT, json_id_kinds: KEPT,
    json_ids_moved: LOST, json_corners: ANY, json_bbox_kinds: LOST, json_bbox_text: KEPT,
    json_no_bbox: LOST, json_far: LOST, json_no_crowd: KEPT, json_all_crowds: LOST, json_area: KEPT,
    json_file_name: KEPT, json_suffix: KEPT, json_lists: LOST, json_names: LOST,
    json_ids_twice: LOST, json_text: KEPT, json_encoding: KEPT,
}  # fmt: skip

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def edit_xml(folder, change):
    """change(root) of each XML file; it may return a text or bytes."""
    for file in sorted(folder.rglob("*.xml")):
        root = ET.parse(file).getroot()
        text = change(root)
        text = ET.tostring(root) if text is None else text
        file.write_bytes(text if isinstance(text, bytes) else text.encode())


def edit_numbers(folder, tags, change):
    """change(text) of the text of each element of the tags."""

    def edit(root):
        for element in root.iter():
            if element.tag in tags:
                element.text = str(change(element.text))

    edit_xml(folder, edit)


def rename_tags(folder, names):
    def edit(root):
        for element in root.iter():
            element.tag = names.get(element.tag, element.tag)

    edit_xml(folder, edit)


def xml_doubled(rng, folder, pictures):
    edit_numbers(folder, (*CORNERS, "width", "height"), lambda text: 2 * float(text))


def xml_other_size(rng, folder, pictures):
    way = pick(rng, [-5, 7, 100])
    edit_numbers(folder, pick(rng, [("width",), ("height",)]), lambda text: int(text) + way)


def xml_no_size(rng, folder, pictures):
    def edit(root):
        size = root.find("size")
        for tag in ("width", "height"):
            if way == "away":
                size.remove(size.find(tag))
            else:
                size.find(tag).text = way
        if way == "":
            root.remove(size)

    way = pick(rng, ["0", "", "away", "None", "-1"])
    edit_xml(folder, edit)
    return ANY if has_turned(pictures) else KEPT


def xml_tags(rng, folder, pictures):
    names = [{"object": "Object"}, {"bndbox": "bbox"}, {"name": "label"}, {"xmin": "x1"},
             {"object": "item"}, {"annotation": "annotations", "object": "objects"}]  # fmt: skip
    rename_tags(folder, pick(rng, names))


def xml_corners_exchanged(rng, folder, pictures):
    rename_tags(
        folder, pick(rng, [{"xmin": "xmax", "xmax": "xmin"}, {"ymin": "ymax", "ymax": "ymin"}])
    )


def xml_corner_text(rng, folder, pictures):
    value = pick(rng, ["", "nan", "inf", "x", "1,5", "0x10", "None", "1e400"])
    edit_numbers(folder, (pick(rng, CORNERS),), lambda _: value)


def xml_far(rng, folder, pictures):
    way = pick(rng, [500, -500])
    edit_numbers(folder, ("xmin", "xmax"), lambda text: float(text) + way)


def xml_difficult(rng, folder, pictures):
    value = pick(rng, ["0", "", "Unspecified", "false"])
    edit_numbers(folder, ("difficult",), lambda _: value)


def xml_all_difficult(rng, folder, pictures):
    edit_numbers(folder, ("difficult",), lambda _: "1")


def xml_file_name(rng, folder, pictures):
    form = pick(rng, ["{}", "/home/me/{}", "C:\\d\\{}", "x{}", "", "{}.png", "../{}"])
    edit_numbers(folder, ("filename",), form.format)


def xml_text(rng, folder, pictures):
    def change(root):
        text = ET.tostring(root, encoding="unicode")
        cut = text[: int(rng.integers(len(text)))]
        return pick(
            rng, [cut, "", text.replace("</object>", ""), json.dumps({"a": 1}), text + text]
        )

    edit_xml(folder, change)


def xml_encoding(rng, folder, pictures):
    name = pick(rng, ["utf-8-sig", "utf-16", "cp1252"])
    head = '<?xml version="1.0" encoding="{}"?>'.format(name.replace("-sig", ""))
    edit_xml(folder, lambda root: (head + ET.tostring(root, encoding="unicode")).encode(name))


def xml_some_deleted(rng, folder, pictures):
    for file in sorted(folder.rglob("*.xml"))[1:]:
        if "valid" not in file.parts:
            file.unlink()


def voc_list(rng, folder, pictures):
    """Lines of the list with suffixes, folders, numbers and other ends."""
    forms = ["{}.jpg", "{}.xml", "JPEGImages/{}", "{} 1", "{}  ", "{}\r", "\ufeff{}", "{}\n", "x{}"]
    form = pick(rng, forms)
    for file in (folder / "ImageSets").rglob("train.txt"):
        lines = file.read_text().splitlines()
        file.write_text("".join(f"{form.format(line)}\n" for line in lines))


VOC = {
    xml_doubled: LOST, xml_other_size: LOST, xml_no_size: KEPT, xml_tags: LOST,
    xml_corners_exchanged: LOST, xml_corner_text: LOST, xml_far: LOST, xml_difficult: KEPT,
    xml_all_difficult: LOST, xml_file_name: KEPT, xml_text: KEPT, xml_encoding: KEPT,
    xml_some_deleted: LOST, voc_list: KEPT,
}  # fmt: skip
