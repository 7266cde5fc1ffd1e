"""Mutations of YOLO text labels: of their lines, files and folders.

A mutation changes a data set of tests.data.generated in place. The tables say what must come of it:

- KEPT: it means the same. All objects are read as they are, or something is reported.
- LOST: it means something else. Something is reported.
- ANY: it may be another valid data set, which no reader could tell from one that was meant. Only
  when fewer than half of the objects are left must something be reported.

A mutation may return one of these where it depends on what was drawn.
"""

from tests.data.generated import NAMES

KEPT, LOST, ANY = "kept", "lost", "any"


def pick(rng, values):
    return values[rng.integers(len(values))]


def label_files(folder):
    return sorted(file for place in ("labels", "obj_train_data")
                  for file in (folder / place).rglob("*.txt"))  # fmt: skip


def edit_rows(folder, change):
    """Rewrite each label line; change(fields, stem) returns fields or a text."""
    for file in label_files(folder):
        rows = [change(line.split(), file.stem) for line in file.read_text().splitlines()]
        texts = [row if isinstance(row, str) else " ".join(map(str, row)) for row in rows]
        file.write_text("".join(f"{text}\n" for text in texts))


def edit_texts(folder, change):
    for file in label_files(folder):
        text = change(file.read_text())
        file.write_bytes(text if isinstance(text, bytes) else text.encode())


def numbers_of(fields):
    return list(map(float, fields[1:]))


def scaled_by(folder, factor_of):
    """Numbers times (x, y) factors; factor_of(stem)."""

    def change(fields, stem):
        factors = factor_of(stem)
        return [fields[0], *(n * factors[i % 2] for i, n in enumerate(numbers_of(fields)))]

    edit_rows(folder, change)


def class_in_another_column(rng, folder, pictures):
    place = int(rng.integers(1, 5))
    edit_rows(folder, lambda f, _: [*f[1 : 1 + place], f[0], *f[1 + place :]])


def columns_swapped(rng, folder, pictures):
    order = rng.permutation(4)
    edit_rows(folder, lambda f, _: [f[0], *(f[1 + i] for i in order), *f[5:]])


def percent(rng, folder, pictures):
    scaled_by(folder, lambda _: (100, 100))


def thousandths(rng, folder, pictures):
    scaled_by(folder, lambda _: (1000, 1000))


def pixels(rng, folder, pictures):
    sizes = {picture.stem: picture.size for picture in pictures}
    scaled_by(folder, sizes.get)


def corners(rng, folder, pictures):
    def change(fields, _):
        cx, cy, w, h, *more = numbers_of(fields)
        return [fields[0], cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, *more]

    edit_rows(folder, change)


def corners_in_pixels(rng, folder, pictures):
    corners(rng, folder, pictures)
    pixels(rng, folder, pictures)


def classes_from_one(rng, folder, pictures):
    edit_rows(folder, lambda f, _: [int(f[0]) + 1, *f[1:]])
    used = {item.name for picture in pictures for item in picture.objects}
    return LOST if NAMES[-1] in used else ANY


def class_names(rng, folder, pictures):
    edit_rows(folder, lambda f, _: [NAMES[int(f[0])], *f[1:]])


def class_as_float(rng, folder, pictures):
    edit_rows(folder, lambda f, _: [f"{f[0]}.0", *f[1:]])


def class_out_of_range(rng, folder, pictures):
    other = pick(rng, ["-1", "3", "99", "1e9", "0.5", "nan", "x", "0x1", "1e400"])
    edit_rows(folder, lambda f, _: [other, *f[1:]])


def other_separator(rng, folder, pictures):
    mark = pick(rng, [",", ", ", ";", "\t", "   ", "|"])
    edit_rows(folder, lambda f, _: mark.join(f))


def decimal_commas(rng, folder, pictures):
    edit_rows(folder, lambda f, _: " ".join(f).replace(".", ","))


def score_behind(rng, folder, pictures):
    edit_rows(folder, lambda f, _: [*f, round(rng.uniform(0.1, 1), 2)])


def score_and_track_behind(rng, folder, pictures):
    edit_rows(folder, lambda f, _: [*f, round(rng.uniform(0.1, 1), 2), rng.integers(2, 99)])


def column_away(rng, folder, pictures):
    edit_rows(folder, lambda f, _: f[:-1])


def only_classes(rng, folder, pictures):
    edit_rows(folder, lambda f, _: f[:1])


def header_line(rng, folder, pictures):
    edit_texts(folder, lambda text: "class x_center y_center width height\n" + text)


def comment_line(rng, folder, pictures):
    edit_texts(folder, lambda text: "# labelled by hand\n" + text)


def line_ends(rng, folder, pictures):
    end = pick(rng, ["\r\n", "\r", "\n\n", " \n", "\t\r\n"])
    edit_texts(folder, lambda text: text.replace("\n", end))


def encoding(rng, folder, pictures):
    name = pick(rng, ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
    edit_texts(folder, lambda text: text.encode(name))


def no_finite_numbers(rng, folder, pictures):
    place, word = int(rng.integers(1, 5)), pick(rng, ["nan", "inf", "-inf", "None", "-", "1e999"])
    edit_rows(folder, lambda f, _: [*f[:place], word, *f[place + 1 :]])


def no_area(rng, folder, pictures):
    is_pose = any("kpt_shape" in file.read_text() for file in folder.glob("*.yaml"))

    def change(fields, _):
        x, y, *_ = numbers_of(fields)
        if is_pose or len(fields) == 5:
            return [fields[0], x, y, 0.0, pick(rng, [0.0, -0.1]), *fields[5:]]
        return [fields[0], *[x, y] * (len(fields) // 2)]

    edit_rows(folder, change)


def outside(rng, folder, pictures):
    away = pick(rng, [-3, 2, 7])
    edit_rows(folder, lambda f, _: [f[0], *(n + away for n in numbers_of(f))])


def cut_off(rng, folder, pictures):
    edit_texts(folder, lambda text: text[: int(rng.integers(len(text) * 3 // 4, len(text)))])


def one_file_in_pixels(rng, folder, pictures):
    sizes = {pictures[rng.integers(len(pictures))].stem: (24, 24)}
    scaled_by(folder, lambda stem: sizes.get(stem, (1, 1)))


LINES = {
    class_in_another_column: LOST, columns_swapped: ANY, percent: LOST, thousandths: LOST,
    pixels: LOST, corners: ANY, corners_in_pixels: LOST, classes_from_one: LOST, class_names: LOST,
    class_as_float: KEPT, class_out_of_range: LOST, other_separator: KEPT, decimal_commas: LOST,
    score_behind: LOST, score_and_track_behind: LOST, column_away: LOST, only_classes: LOST,
    header_line: LOST, comment_line: KEPT, line_ends: KEPT, encoding: KEPT,
    no_finite_numbers: LOST, no_area: LOST, outside: LOST, cut_off: ANY, one_file_in_pixels: LOST,
}  # fmt: skip


def some_label_files_deleted(rng, folder, pictures):
    """An image without one is background; that it is so for most is told."""
    for file in label_files(folder)[1:]:
        file.unlink()


def label_suffix(rng, folder, pictures):
    suffix = pick(rng, [".Txt", ".label", ".txt.bak", ".csv", ""])
    for file in label_files(folder)[int(rng.integers(2)) :]:
        file.rename(file.with_name(file.stem + suffix))


def label_stem(rng, folder, pictures):
    prefix = pick(rng, ["label_", "gt_", "x"])
    for file in label_files(folder)[int(rng.integers(2)) :]:
        file.rename(file.with_name(prefix + file.name))


LABEL_FILES = {some_label_files_deleted: LOST, label_suffix: LOST, label_stem: LOST}


def labels_folder_renamed(rng, folder, pictures):
    place = folder / "labels"
    place.rename(folder / pick(rng, ["Labels", "label", "annotations", "txt", "labels_old"]))


def labels_split_renamed(rng, folder, pictures):
    (folder / "labels/train").rename(folder / pick(rng, ["labels/training", "labels/0", "train"]))


def labels_beside_images(rng, folder, pictures):
    for file in label_files(folder):
        file.rename(folder / "images/train" / file.name)


LABEL_FOLDERS = {
    labels_folder_renamed: KEPT, labels_split_renamed: KEPT, labels_beside_images: KEPT
}  # fmt: skip
