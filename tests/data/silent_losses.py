"""Two thousand mutated data sets, of which none may lose its objects silently: `python -m
tests.data.silent_losses FOLDER`.

Each is a valid data set of 12 objects in 4 images that one mutation has changed; label_mutations
says what may come of it. Something is *reported* when

- opening it raises InputError that names the data set, or
- an image cannot be read, and the error names it, or
- a problem of the reader, or what it logs, has a count and names a place in the data set.

Left out are mutations that leave another valid data set: lines deleted from label files or lists,
empty label files (background), classes that change places or images that change names, and images
deleted from a folder whose images no file names. Prints a JSON line before and after each case.
"""

import json
import logging
import shutil
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hvd_yolo.data import UnreadableImage, open_dataset
from hvd_yolo.data.dataset import load_sample
from hvd_yolo.errors import InputError
from tests.data import generated, label_mutations, list_mutations
from tests.data.annotation_mutations import COCO, VOC
from tests.data.file_mutations import FILES, REFERENCES, SIZES
from tests.data.label_mutations import ANY, LOST

NUM_CASES = 2000
NUM_IMAGES, NUM_OBJECTS = 4, 3
TOLERANCE = 0.01

_WITH_YAML = (generated.yolo_folders, generated.yolo_polygons, generated.yolo_pose)
_WITH_LIST = (generated.yolo_lists, generated.darknet)
_COCO = (generated.coco, generated.coco_stored, generated.roboflow_coco, generated.cvat_coco)
_VOC = (generated.voc, generated.voc_stored, generated.roboflow_voc)
# The formats of each table of mutations.
TABLES = [
    (label_mutations.LINES, _WITH_YAML + _WITH_LIST),
    (label_mutations.LABEL_FILES, _WITH_YAML + _WITH_LIST),
    (label_mutations.LABEL_FOLDERS, (*_WITH_YAML, generated.yolo_lists)),
    (list_mutations.YAML, (*_WITH_YAML, generated.yolo_lists)),
    (list_mutations.LISTS, _WITH_LIST),
    (COCO, _COCO),
    (VOC, _VOC),
    (FILES, _WITH_YAML + _WITH_LIST + _COCO + _VOC),
    (REFERENCES, _WITH_LIST + _COCO + _VOC),
    (SIZES, _COCO + _VOC),
]
KINDS = [
    (writer, mutation, table[mutation])
    for table, writers in TABLES
    for mutation in table
    for writer in writers
]


class Reading(NamedTuple):
    """What training would learn, and what it would say before and while it does.

    objects: (stem of the image, name, box) of each; reports: what names the data set.
    """

    objects: list[tuple[str, str, list[float]]]
    reports: list[str]


class _Messages(logging.Handler):
    """Keeps what rank 0 shows: from INFO on."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def read(path, split, folder, stems):
    """Open the split and load each sample, as training does."""
    log, messages = logging.getLogger("hvd_yolo"), _Messages()
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(messages)
    objects = []
    try:
        dataset = open_dataset(str(path), split)
        for index in range(len(dataset)):
            objects += _objects_of(dataset, index, messages)
        for problem in dataset.problems:
            messages.texts.append(f"{problem.what}: {problem.count} {problem.examples}")
    except InputError as error:
        objects = []
        messages.texts.append(str(error))
    finally:
        log.removeHandler(messages)
    places = (str(folder), "annotations[", "images[", *stems)
    return Reading(objects, [t for t in messages.texts if any(place in t for place in places)])


def _objects_of(dataset, index, messages):
    try:
        sample = load_sample(dataset, index)
        assert sample.image.shape == (sample.height, sample.width, 3)
    except UnreadableImage as error:
        messages.texts.append(str(error))
        return []
    stem = Path(str(dataset.files[index])).stem
    return [
        (stem, dataset.names[label], box)
        for label, box in zip(sample.labels.tolist(), sample.boxes.tolist(), strict=True)
    ]


def num_right(objects, truth):
    """How many of the true objects are among those read."""
    left, count = list(objects), 0
    for stem, name, box in truth:
        for other in left:
            if other[:2] == (stem, name) and np.abs(np.subtract(other[2], box)).max() < TOLERANCE:
                left.remove(other)
                count += 1
                break
    return count


def outcome(expected, found, truth, is_reported):
    """reported, right, changed or empty; silent: what must not be.

    empty: no object is left, and opening says nothing of it; training must refuse it.
    """
    if is_reported:
        return "reported"
    if not found.objects:
        return "empty"
    if len(found.objects) == len(truth) == num_right(found.objects, truth):
        return "silent" if expected == LOST else "right"
    is_half = 2 * len(found.objects) >= len(truth)
    return "changed" if expected == ANY and is_half else "silent"


def try_case(number, folder):
    """Write, read, mutate and read again; the outcome, what it was reported by, and the path."""
    writer, mutation, expected = KINDS[number % len(KINDS)]
    rng = np.random.default_rng((2, number))
    pictures = generated.draw_pictures(rng, NUM_IMAGES, NUM_OBJECTS)
    truth = [(p.stem, name, box) for p in pictures for name, box in p.truth()]
    path, split = writer(rng, folder, pictures), generated.split_of(writer)
    stems = [picture.stem for picture in pictures]
    before = read(path, split, folder, stems)
    if num_right(before.objects, truth) < len(truth):
        return "not read before", before.reports, path
    expected = mutation(rng, folder, pictures) or expected
    found = read(path, split, folder, stems)
    reports = [text for text in found.reports if text not in before.reports]
    return outcome(expected, found, truth, bool(reports)), reports, path


def main(folder):
    cv2.setNumThreads(0)
    for number in range(NUM_CASES):
        writer, mutation, _ = KINDS[number % len(KINDS)]
        case = {"case": number, "format": writer.__name__, "mutation": mutation.__name__}
        print(json.dumps(case), flush=True)
        place = folder / f"case{number}"
        try:
            found, reports, path = try_case(number, place)
        except Exception:
            found, reports, path = "error", [traceback.format_exc()[-1500:]], place
        print(json.dumps({**case, "outcome": found, "reports": reports, "path": str(path)}))
        if found != "empty":
            shutil.rmtree(place)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
