"""Classes of a checkpoint and of the data it is scored on, by name, through the command."""

import json

import pytest

from hvd_yolo.data import open_dataset
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate.__main__ import main
from tests.colored import make_coco, make_yolo, some_rows, write_checkpoint

NAMES = ("red", "green", "blue")
IMAGES = [some_rows(seed) for seed in range(6)]


@pytest.fixture
def weights(tmp_path):
    return write_checkpoint(tmp_path / "best.pt", NAMES, "none")


def run(capsys, caplog, weights, data, *options):
    """The metrics, and what was logged."""
    caplog.clear()
    with caplog.at_level("WARNING"):
        main(["--weights", weights, "--data", str(data), "--workers", "0", *options])
    return json.loads(capsys.readouterr().out.splitlines()[-1]), caplog.text


def refusal(weights, data, *options):
    with pytest.raises(InputError) as caught:
        main(["--weights", weights, "--data", str(data), "--workers", "0", *options])
    return str(caught.value)


def check_overall_is_mean_of_classes(metrics):
    found = [numbers["AP"] for numbers in metrics["per_class"].values()]
    known = [ap for ap in found if ap is not None]
    assert metrics["AP"] == pytest.approx(sum(known) / len(known), abs=1e-12)


def test_classes_in_another_order_are_matched_by_name(tmp_path, capsys, caplog, weights):
    same = make_yolo(tmp_path / "same", list(NAMES), IMAGES)
    metrics, told = run(capsys, caplog, weights, same)
    assert metrics["AP"] == 1
    assert "matched by name" not in told
    assert "val_loss" in metrics
    data = make_yolo(tmp_path / "set", ["blue", "red", "green"], IMAGES, label_of=(1, 2, 0))
    results = tmp_path / "results.json"
    metrics, told = run(capsys, caplog, weights, data, "--results", str(results))
    assert metrics["AP"] == 1
    assert "red, green, blue in the checkpoint, blue, red, green in the data" in told
    check_overall_is_mean_of_classes(metrics)
    # A file of results has the numbers of the data.
    dataset = open_dataset(str(data), "val")
    ids, first_image = dataset.category_ids, dataset.image_id(0)
    written = json.loads(results.read_text())
    first = [r["category_id"] for r in written if r["image_id"] == first_image]
    assert sorted(first) == sorted(ids[(1, 2, 0)[row[0]]] for row in IMAGES[0])


def test_data_with_fewer_classes_drops_detections_of_the_others(tmp_path, capsys, caplog, weights):
    without_green = [[row for row in rows if row[0] != 1] for rows in IMAGES]
    data = make_yolo(tmp_path / "set", ["blue", "red"], without_green, label_of=(1, None, 0))
    metrics, told = run(capsys, caplog, weights, data)
    assert metrics["AP"] == 1
    assert list(metrics["per_class"]) == ["blue", "red"]
    assert "2 of the data's 2 and the checkpoint's 3: blue, red" in told
    check_overall_is_mean_of_classes(metrics)


def test_asked_for_classes_are_scored_alone_and_the_rest_is_counted(
    tmp_path, capsys, caplog, weights
):
    """Also of data with a class that the checkpoint does not know, here what is red."""
    data = make_yolo(tmp_path / "set", ["rouge", "green", "blue"], IMAGES)
    told = refusal(weights, data)
    assert "classes that the checkpoint does not know: rouge; it knows red, green, blue" in told
    assert "--classes green,blue" in told
    results = tmp_path / "results.json"
    options = ("--classes", "blue, green", "--results", str(results))
    metrics, told = run(capsys, caplog, weights, data, *options)
    assert metrics["AP"] == 1
    assert list(metrics["per_class"]) == ["green", "blue"]
    check_overall_is_mean_of_classes(metrics)
    num_red = sum(row[0] == 0 for rows in IMAGES for row in rows)
    assert f"{num_red} objects and {num_red} detections, left out" in told
    ids = open_dataset(str(data), "val").category_ids
    assert {r["category_id"] for r in json.loads(results.read_text())} == set(ids[1:])
    assert "has no class rot" in refusal(weights, data, "--classes", "rot")
    assert "the checkpoint has no class rouge" in refusal(weights, data, "--classes", "rouge")
    assert "names no class" in refusal(weights, data, "--classes", ",")


def test_the_remedy_is_that_of_the_format(tmp_path, weights):
    make_coco(tmp_path / "coco", ("cat", "dog"), (1, 2), [some_rows(1, 2)])
    told = refusal(weights, tmp_path / "coco")
    assert f"`format: coco` (or voc), `path: {tmp_path / 'coco'}` and `names`" in told
    data = make_yolo(tmp_path / "yolo", ["cat", "dog"], [some_rows(1, 2)])
    assert f"`names` of {data}" in refusal(weights, data)


def test_two_classes_of_one_name_are_refused(tmp_path):
    twice = write_checkpoint(tmp_path / "twice.pt", ("red", "red", "blue"), "none")
    data = make_yolo(tmp_path / "set", ["red", "blue"], [some_rows(1, 2)])
    assert "the checkpoint has several classes called red" in refusal(twice, data)


def test_a_split_without_annotations_is_detected_on_and_not_scored(tmp_path, capsys, weights):
    folder, ids = tmp_path / "coco", (5, 17, 90)
    make_coco(folder, NAMES, ids, IMAGES, split="test", has_annotations=False)
    options = ("--data", str(folder), "--split", "test")
    told = refusal(weights, folder, "--split", "test")
    assert "the test split has no annotations" in told
    assert "--results" in told
    results = tmp_path / "results.json"
    main(["--weights", weights, *options, "--workers", "0", "--results", str(results)])
    told = capsys.readouterr().out
    assert "no ground truth to score against" in told
    found = json.loads(results.read_text())
    assert len(found) == sum(map(len, IMAGES))
    assert {r["category_id"] for r in found} == set(ids)
    gone = refusal(weights, folder, "--split", "test", "--results", str(tmp_path / "no" / "r.json"))
    assert "there is no folder" in gone


def test_images_with_more_objects_than_are_counted(tmp_path, capsys, caplog):
    """300 perfect detections of 300 objects."""
    cells = [(3 * i, 3 * j) for i in range(20) for j in range(15)]
    data = make_yolo(tmp_path / "set", ["red"], [[(0, x, y, 2, 2) for x, y in cells]])
    weights = write_checkpoint(tmp_path / "best.pt", ["red"], data)
    metrics, told = run(capsys, caplog, weights, data)
    assert metrics["AP"] < 0.34
    assert "1 images hold more than 100 objects of one class, up to 300" in told
    assert '--eval.max_dets "[1,10,300]"' in told
    for scorer in ("pycocotools", "faster-coco-eval"):
        if scorer != "pycocotools":
            pytest.importorskip("faster_coco_eval")
        options = ("--eval.max_dets", "[1,10,300]", "--eval.scorer", scorer)
        metrics, told = run(capsys, caplog, weights, data, *options)
        assert metrics["AP"] == metrics["AP_small"] == metrics["AR_100"] == 1
        assert metrics["AR_1"] == pytest.approx(1 / 300)
        assert metrics["AR_10"] == pytest.approx(10 / 300)
        assert "hold more" not in told
    _, told = run(capsys, caplog, weights, data, "--eval.max_detections", "50")
    assert "1 images hold more than 50 objects, up to 300" in told
    assert "--eval.max_detections 300" in told
    assert "eval.max_dets is [10, 1, 100]" in refusal(
        weights, data, "--eval.max_dets", "[10,1,100]"
    )
