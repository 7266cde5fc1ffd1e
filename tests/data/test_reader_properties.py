"""Each reader against data sets whose boxes are known in pixels of the displayed image."""

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from hvd_yolo.data import open_dataset
from hvd_yolo.data.dataset import load_sample
from tests.data import generated

NUM_DATA_SETS = 40
TOLERANCE = 1e-6

WRITERS = [
    generated.yolo_folders,
    generated.yolo_polygons,
    generated.yolo_pose,
    generated.yolo_lists,
    generated.darknet,
    generated.coco,
    generated.coco_stored,
    generated.roboflow_coco,
    generated.cvat_coco,
    generated.voc,
    generated.voc_stored,
    generated.roboflow_voc,
    generated.labelme,
]
# Formats that can mark what is neither learned nor scored.
WITH_CROWDS = {generated.coco, generated.coco_stored, generated.cvat_coco, generated.voc}


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_boxes_are_those_of_the_displayed_image(writer, tmp_path):
    for seed in range(NUM_DATA_SETS):
        rng = np.random.default_rng((seed, 7))
        pictures = generated.draw_pictures(rng, rng.integers(1, 4), crowds=writer in WITH_CROWDS)
        path = writer(rng, tmp_path / str(seed), pictures)
        assert_read(path, generated.split_of(writer), pictures, f"{writer.__name__} {seed}")


def assert_read(path, split, pictures, case):
    dataset = open_dataset(str(path), split)
    found = {Path(str(dataset.files[index])).name: index for index in range(len(dataset))}
    assert len(found) == len(dataset)
    assert found.keys() == {picture.file for picture in pictures}, case
    for picture in pictures:
        sample = load_sample(dataset, found[picture.file])
        where = f"{case}: {picture}"
        assert (sample.width, sample.height) == picture.size, where
        assert sample.image.shape == (sample.height, sample.width, 3), where
        names = [dataset.names[label] for label in sample.labels]
        rows = list(zip(names, sample.boxes.tolist(), strict=True))
        assert are_same(rows, picture.truth()), f"{where}\n{rows}\n{picture.truth()}"
        assert_shows_first_object(sample, picture, where)


def are_same(found, expected):
    """Whether both hold the same (name, box), in any order."""
    left = list(found)
    for name, box in expected:
        near = [
            place
            for place, (other, corners) in enumerate(left)
            if other == name and np.abs(np.subtract(corners, box)).max() <= TOLERANCE
        ]
        if not near:
            return False
        del left[near[0]]
    return not left


def assert_shows_first_object(sample, picture, where):
    """It is white where its box is, and nothing else is."""
    x1, y1, x2, y2 = (round(side) for side in picture.displayed(picture.objects[0].box))
    is_white = sample.image.mean(2) > 160
    assert is_white[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].all(), where
    assert is_white.sum() <= (y2 - y1 + 4) * (x2 - x1 + 4), where


def test_the_boxes_of_coco_files_are_those_that_pycocotools_reads(tmp_path):
    for seed in range(NUM_DATA_SETS):
        rng = np.random.default_rng((seed, 8))
        pictures = generated.draw_pictures(rng, 3, crowds=True)
        folder = generated.coco(rng, tmp_path / str(seed), pictures)
        with redirect_stdout(StringIO()):
            truth = COCO(str(folder / "annotations" / "instances_train.json"))
        dataset = open_dataset(str(folder), "train")
        for index in range(len(dataset)):
            sample = load_sample(dataset, index)
            ids = truth.getAnnIds([sample.image_id], iscrowd=False)
            expected = [
                (truth.cats[annotation["category_id"]]["name"], corners(annotation["bbox"]))
                for annotation in truth.loadAnns(ids)
            ]
            names = [dataset.names[label] for label in sample.labels]
            assert are_same(list(zip(names, sample.boxes, strict=True)), expected), seed


def corners(bbox):
    x, y, w, h = bbox
    return x, y, x + w, y + h
