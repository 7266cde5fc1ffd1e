"""What pycocotools makes of detections.json is what evaluate says, on the same images."""

import contextlib
import io
import json

import cv2
import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.conftest import needs_mpi, run_job
from tests.predict.conftest import NAMES, picture, write_checkpoint

# evaluate's own.
LIMITS = ("--conf", "0.001", "--iou", "0.7", "--max_detections", "300")


def job(verb, num_ranks, *options):
    words = ["-m", f"hvd_yolo.{verb}", *map(str, options), "--device", "cpu", "--batch_size", "4"]
    done = run_job(num_ranks, words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def found(weights, tmp_path_factory):
    """Images, and what the detector finds on each: some of it will be the truth."""
    folder = tmp_path_factory.mktemp("found")
    (folder / "in").mkdir()
    for seed in range(10):
        # Wide enough for boxes of different sizes; not all of one shape.
        image = picture(seed, 160, 120 if seed % 2 else 96)
        cv2.imwrite(str(folder / "in" / f"image_{seed}.png"), image)
    job("predict", 1, "--weights", weights, "--source", folder / "in", "--output", folder / "out",
        *LIMITS)  # fmt: skip
    return folder / "in", json.loads((folder / "out" / "detections.json").read_text())


def truth_of(found, category_ids):
    """A COCO file whose objects are every fifth detection, moved and smaller."""
    folder, results = found
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number, file in enumerate(sorted(folder.iterdir())):
        height, width = cv2.imread(str(file)).shape[:2]
        image_id = 1000 - number
        images.append({"id": image_id, "file_name": file.name, "width": width, "height": height})
        own = [result for result in results if result["file_name"] == file.name]
        for result in own[::5]:
            x, y, w, h = (np.array(result["bbox"]) * rng.uniform(0.6, 1, 4)).round(1).tolist()
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0, "area": w * h,
                 "category_id": category_ids[result["category_id"] - 1], "bbox": [x, y, w, h]}
            )  # fmt: skip
    categories = [{"id": i, "name": n} for i, n in zip(category_ids, NAMES, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder, truth, images):
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(truth))
    (folder / "val").symlink_to(images)
    return folder, folder / "val"


def write_yolo(folder, truth, images):
    (folder / "labels" / "val").mkdir(parents=True)
    (folder / "images").mkdir()
    (folder / "images" / "val").symlink_to(images)
    for image in truth["images"]:
        lines = []
        for row in (a for a in truth["annotations"] if a["image_id"] == image["id"]):
            x, y, w, h = row["bbox"]
            sides = (image["width"], image["height"])
            shares = ((x + w / 2) / sides[0], (y + h / 2) / sides[1], w / sides[0], h / sides[1])
            label = row["category_id"] - 1
            lines.append(f"{label} " + " ".join(f"{share:.12f}" for share in shares) + "\n")
        name = image["file_name"].replace(".png", ".txt")
        (folder / "labels" / "val" / name).write_text("".join(lines))
    content = {"path": ".", "val": "images/val", "names": list(NAMES)}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml", folder / "images" / "val"


def coco_ap(truth, results):
    """pycocotools' AP of results, whose images go by file name."""
    id_of_name = {image["file_name"]: image["id"] for image in truth["images"]}
    rows = [{**result, "image_id": id_of_name[result["file_name"]]} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


@needs_mpi
@pytest.mark.parametrize(
    ("write", "category_ids"), [(write_coco, (5, 17, 90)), (write_yolo, (1, 2, 3))]
)
def test_pycocotools_scores_the_results_as_evaluate_does(found, tmp_path, write, category_ids):
    truth = truth_of(found, category_ids)
    data, images = write(tmp_path / "data", truth, found[0])
    weights = ("--weights", write_checkpoint(tmp_path / "best.pt", category_ids))
    results = tmp_path / "results.json"
    told = job("evaluate", 1, *weights, "--data", data, "--results", results)
    ap = json.loads(told.splitlines()[-1])["AP"]
    assert 0.05 < ap < 0.95
    submitted = json.loads(results.read_text())
    assert {row["category_id"] for row in submitted} <= set(category_ids)
    for num_ranks in (1, 2):
        output = tmp_path / str(num_ranks)
        job("predict", num_ranks, *weights, "--source", images, "--output", output, *LIMITS)
        rows = json.loads((output / "detections.json").read_text())
        assert coco_ap(truth, rows) == pytest.approx(ap, rel=0, abs=1e-9)
        if write is write_yolo:
            # The images have the same ids, too.
            keys = ("image_id", "category_id", "bbox", "score")
            assert sorted([[r[k] for k in keys] for r in rows]) == sorted(
                [[r[k] for k in keys] for r in submitted]
            )
