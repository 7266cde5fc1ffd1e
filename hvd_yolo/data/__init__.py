"""Data sets, and how their images reach the ranks. open_dataset() tells the formats apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hvd_yolo.data import coco, labelme, shards, voc, yolo_txt
from hvd_yolo.data.darknet import is_data_file, read_data_file
from hvd_yolo.data.data_yaml import read_yaml, root_folder, short
from hvd_yolo.data.dataset import Annotations, Dataset, Sample
from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.data.image_folders import is_hidden
from hvd_yolo.data.problems import Problem, log_problems
from hvd_yolo.data.shapes import Shapes
from hvd_yolo.data.text_files import read_text
from hvd_yolo.data.yaml_names import class_names, refuse_equal_names
from hvd_yolo.errors import InputError, MissingSplit, SplitNotThere

__all__ = [
    "Annotations", "Dataset", "Sample", "Splits", "UnreadableImage", "different_names",
    "find_splits", "open_dataset",
]  # fmt: skip

_FORMS = (
    "expected `shapes`, a data.yaml of Ultralytics or of tar shards, Darknet's obj.data, a COCO "
    "folder (annotations/instances_SPLIT.json, or SPLIT/_annotations.coco.json), a Pascal VOC "
    "folder (Annotations/ and ImageSets/Main/SPLIT.txt, or an XML per image) or a LabelMe folder "
    "(a JSON per image)"
)


def open_dataset(path: str, split: str) -> Dataset:
    """The data set's `split`: train, val or test.

    path: `shapes` or `shapes:N` (N drawn training images), a YAML file, Darknet's .data file, a
    folder of COCO, VOC or LabelMe. A YAML file may name `format: coco`, `voc` or `labelme` beside
    `path` and `names`, to fix the order of the classes, or `format: webdataset` for YOLO text in
    tar shards. Raises InputError when there is nothing of that kind, or nothing in it.
    """
    if path == "shapes" or path.startswith("shapes:"):
        return Shapes.from_name(path, split)
    location = Path(path)
    if not location.exists():
        raise InputError(f"data {path}: no such file or folder; {_FORMS}")
    if location.suffix.lower() == ".json" and location.is_file():
        raise InputError(
            f"data {path}: name the folder that holds the images and their JSON, or a YAML file "
            f"with `format: coco`, `path` and `names`; {_FORMS}"
        )
    described = location if location.is_file() else None
    if described:
        dataset = _open_yaml(described, split)
    elif labelme.is_folder(location):
        dataset = labelme.open_split(location, split)
    elif coco.is_folder(location):
        dataset = coco.open_split(location, split)
    elif voc.is_folder(location):
        dataset = voc.open_split(location, split)
    elif described := yaml_of_folder(location):
        dataset = _open_yaml(described, split)
    else:
        raise InputError(f"data {path}: {_FORMS}; it holds {_first_names(location)}")
    if len(dataset) == 0:
        raise SplitNotThere(f"data {path}: the {split} split has no images")
    refuse_equal_names(f"data {path}", dataset.names)
    if not described and (location / "data.yaml").is_file():
        _report_yaml(location / "data.yaml", dataset)
    return dataset


def _report_yaml(file: Path, dataset: Dataset) -> None:
    """Adds to the problems of a folder of another format that its data.yaml is not read: it may
    name other classes, or other labels."""
    if isinstance(dataset, ImageFiles) and b"names:" in file.read_bytes():
        what = "a data.yaml beside the annotations, not read; name that file to read what it says"
        problem = Problem("warning", what, 1, [str(file)])
        dataset.problems.append(problem)
        log_problems(str(file.parent), [problem])


class Splits(NamedTuple):
    """The splits of a data set that are there, and, of each that it names and that is not, why."""

    datasets: dict[str, Dataset]
    absent: dict[str, str]


def find_splits(path: str, splits: Sequence[str] = ()) -> Splits:
    """The splits named, each of which must be there, or those of train, val and test that are.

    Of the latter, a test split that is named and not there is absent: training needs none. All have
    the same classes. Raises InputError as open_dataset does, and when there is no split.
    """
    if splits:
        found = Splits({split: open_dataset(path, split) for split in splits}, {})
    else:
        found = _splits_there(path)
    first, names = next((split, dataset.names) for split, dataset in found.datasets.items())
    for split, dataset in found.datasets.items():
        if dataset.names != names:
            what = f"the {split} split, beside the {first} split,"
            raise InputError(different_names(what, dataset.names, names))
    return found


def _splits_there(path: str) -> Splits:
    found = Splits({}, {})
    missing: list[MissingSplit] = []
    for split in ("train", "val", "test"):
        try:
            found.datasets[split] = open_dataset(path, split)
        except MissingSplit as error:
            missing.append(error)
        except SplitNotThere as error:
            if split != "test" or not found.datasets:
                raise
            found.absent[split] = str(error)
    if not found.datasets:
        # An export that is not split yet: CVAT's `default`, say.
        found.datasets.update({split: open_dataset(path, split) for split in _other_splits(path)})
    if not found.datasets:
        raise missing[0]
    return found


def _other_splits(path: str) -> list[str]:
    folder = Path(path)
    if not folder.is_dir():
        return []
    return labelme.split_names(folder) or coco.split_names(folder) or voc.split_names(folder)


def _first_names(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown or "nothing"


def yaml_of_folder(folder: Path) -> Path | None:
    """The data.yaml of a folder, the one YAML file with `names` that lies in it, or the one of
    Darknet."""
    exact = folder / "data.yaml"
    if exact.is_file():
        return exact
    files = [f for f in folder.iterdir() if not is_hidden(f.name) and f.is_file()]
    yamls = [file for file in files if file.suffix.lower() in (".yaml", ".yml")]
    yamls = [file for file in yamls if "names:" in read_text(file)]
    found = yamls or [file for file in files if is_data_file(file)]
    return found[0] if len(found) == 1 else None


def different_names(what: str, found: tuple[str, ...], expected: tuple[str, ...]) -> str:
    """What to say when a data set's classes are not those that are expected, in their order."""
    return (
        f"the classes of {what} are {', '.join(found)}, expected {', '.join(expected)} in this "
        f"order; a YAML file "
        "with `format`, `path` and `names` fixes the classes of a COCO or VOC folder"
    )


def _open_yaml(file: Path, split: str) -> Dataset:
    content = read_data_file(file) if is_data_file(file) else read_yaml(file)
    if content is None:
        raise InputError(f"data {file}: {_FORMS}")
    kind = content.get("format") or "yolo"
    folder = root_folder(file, content)
    if kind == "yolo":
        return yolo_txt.open_split(file, content, split)
    if kind == "webdataset":
        return shards.open_split(file, content, split)
    if kind == "coco":
        return coco.open_split(folder, split, class_names(file, content))
    if kind == "voc":
        return voc.open_split(folder, split, class_names(file, content))
    if kind == "labelme":
        return labelme.open_split(folder, split, class_names(file, content))
    raise InputError(
        f"data {file}: format is {short(kind)}, it must be yolo, coco, voc, labelme or webdataset"
    )
