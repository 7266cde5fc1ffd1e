"""YOLO text labels in the folders that an Ultralytics data.yaml describes, or a Darknet .data file.

data.yaml: `path` (relative to the file), `train`, `val`, `test` (a folder, a .txt list of images,
or a list of these) and `names` (yaml_names.py). An image under .../images/... has its labels under
.../labels/..., or else beside it, in a .txt of the same stem (label_rows.py). An image without such
a file is background.

The YAML is the user's own word: its folders and lists may lie anywhere, and so may the absolute
paths of a list. The relative ones stay inside the data set (image_lists.py).
"""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hvd_yolo.data.annotation_rows import AnnotationRows
from hvd_yolo.data.category_ids import category_ids_of
from hvd_yolo.data.darknet import is_data_file
from hvd_yolo.data.data_yaml import (
    Content,
    keypoint_shape,
    locate_source,
    root_folder,
    split_sources,
)
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.data.image_folders import UNREADABLE_SUFFIXES, list_images, path_parts
from hvd_yolo.data.image_lists import read_image_list
from hvd_yolo.data.label_files import LabelFiles, expected_file, is_label_name
from hvd_yolo.data.label_rows import LabelRows
from hvd_yolo.data.pixel_boxes import report_repeated
from hvd_yolo.data.problems import ProblemLog
from hvd_yolo.data.text_files import read_text
from hvd_yolo.data.yaml_names import class_names
from hvd_yolo.errors import SplitNotThere

logger = logging.getLogger(__name__)

# Ids travel as float64, with the boxes.
_LARGEST_ID = 1 << 53
# Of a file name that is a number: int() raises an error beyond 4300.
_MOST_DIGITS = 20

# Files that lie among images and are meant to be no images.
_USUAL_SUFFIXES = {
    ".cache", ".cfg", ".csv", ".data", ".db", ".html", ".ini", ".json", ".log", ".md", ".names",
    ".npy", ".pdf", ".txt", ".weights", ".xml", ".yaml", ".yml", ".zip",
}  # fmt: skip


def open_split(file: Path, content: Content, split: str) -> ImageFiles:
    """The split that the YAML `file`, read as `content`, names; raises InputError for what it
    cannot use."""
    names = class_names(file, content)
    rows = AnnotationRows(f"{file} {split}", keypoint_shape(file, content))
    labels = LabelFiles()
    images = sorted(_images(file, content, split, labels, rows.problems), key=path_parts)
    report_repeated(images, rows.problems)
    if not images and (problems := rows.problems.problems()):
        reasons = "; ".join(map(str, problems))
        raise SplitNotThere(f"data {file}: the {split} split has no images; {reasons}")
    labeled = LabelRows(len(names), rows)
    unlabelled = []
    for image, image_id in zip(images, image_ids(images), strict=True):
        rows.start_image(image, image_id)
        label_file, is_there = labels.of(image)
        if is_there:
            labeled.add(read_text(label_file), label_file)
        else:
            unlabelled.append(image)
    labeled.finish()
    for image in labels.sharing:
        rows.problems.add("images that share the label file of another, by their stem", image)
    for stray in labels.strays():
        rows.problems.add("label files without an image that is read, left out", stray)
    if images and len(unlabelled) == len(images):
        raise SplitNotThere(
            f"data {file}: no image of the {split} split has a label file; the first that was "
            f"looked for is {expected_file(images[0])}"
        )
    if unlabelled:
        logger.info(
            "%s %s: %d of %d images have no label file and are background (the first: %s)",
            file, split, len(unlabelled), len(images), unlabelled[0],
        )  # fmt: skip
    return rows.finish(names, category_ids_of(names), is_normalized=True)


def _images(
    file: Path, content: Content, split: str, labels: LabelFiles, problems: ProblemLog
) -> list[str]:
    """The images of all sources of the split. Their folders are listed in `labels`, unless some
    sources are lists: the others' labels may be of images that are in no list."""
    root = root_folder(file, content)
    sources = split_sources(file, content, split, "a folder or a list of images")
    locations = [_location(file, content, split, source, problems) for source in sources]
    images: list[str] = []
    others: list[str] = []
    for location in locations:
        if os.path.isdir(location):
            found, passed_over = list_images(location)
            images += found
            others += passed_over
        else:
            images += read_image_list(location, root, problems)
    if all(map(os.path.isdir, locations)):
        for location in locations:
            labels.list_below(str(location))
    _report_others(others, labels, problems)
    return images


def _location(file: Path, content: Content, split: str, source: str, problems: ProblemLog) -> Path:
    """The folder or list of a source. Roboflow writes ../train/images into a data.yaml that lies
    beside train/."""
    root = root_folder(file, content)
    own = root / source.replace("\\", "/").removeprefix("../")
    if own == root / source or not os.path.exists(own):
        # Darknet counts from the working directory, a YAML file never does: another data set may
        # lie there.
        folders = [root, Path()] if is_data_file(file) else [root]
        found = locate_source(file, folders, split, source)
        if source.startswith("../") and (own := _own_split(root, content)):
            problems.add(
                "folders beside the data set's own folder, though another split lies inside it",
                f"{split} is {source}: {os.path.normpath(found)} is used, as "
                f"{root / source.removeprefix('../')} does not exist, but {own} does",
            )
        return found
    other = root / source
    if os.path.exists(other) and not os.path.samefile(own, other):
        problems.add(
            "folders that are there twice, beside the YAML file and beside its folder; the first "
            "is used",
            f"{split} is {source}: {own} is used, {os.path.normpath(other)} is not",
        )
    return own


def _own_split(root: Path, content: Content) -> Path | None:
    """The folder of a split that is written as ../FOLDER and lies in the data set's own folder."""
    for split in ("train", "val", "test"):
        source = content.get(split)
        if isinstance(source, str) and source.startswith("../"):
            own = root / source.removeprefix("../")
            if own.exists():
                return own
    return None


def _report_others(others: Sequence[str], labels: LabelFiles, problems: ProblemLog) -> None:
    """Counts, by suffix, the files among the images that are none."""
    suffixes = [os.path.splitext(file)[1].lower() for file in others]
    pairs = list(zip(others, suffixes, strict=True))
    unreadable = [file for file, suffix in pairs if suffix in UNREADABLE_SUFFIXES]
    known = UNREADABLE_SUFFIXES | _USUAL_SUFFIXES
    unknown = [file for file, suffix in pairs if suffix not in known]
    _add_all(
        problems, unreadable, "images of a format that is not read ({}), left out; convert them to "
        "JPEG or PNG",
    )  # fmt: skip
    _add_all(problems, unknown, "files among the images that are none ({}), passed over")
    for file in others:
        folder, _, name = file.rpartition("/")
        if is_label_name(name) and labels.folder_of(folder) != folder:
            problems.add(
                "text files beside the images, not read as labels: these are in a labels folder",
                file,
            )


def _add_all(problems: ProblemLog, files: Sequence[str], what: str) -> None:
    counts = Counter(os.path.splitext(file)[1].lower() or "no suffix" for file in files)
    told = ", ".join(f"{suffix} {count}" for suffix, count in sorted(counts.items()))
    for file in files:
        problems.add(what.format(told), file)


def image_ids(images: Sequence[Path | str]) -> list[int]:
    """COCO's file names are its image ids, and results must use them; other names are numbered from
    1."""
    stems = [os.path.splitext(os.path.basename(image))[0] for image in images]
    numbers = [
        int(stem)
        for stem in stems
        if stem.isascii() and stem.isdigit() and len(stem) <= _MOST_DIGITS
    ]
    fit = max(numbers, default=0) < _LARGEST_ID
    if fit and len(numbers) == len(stems) == len(set(numbers)):
        return numbers
    return list(range(1, len(images) + 1))
