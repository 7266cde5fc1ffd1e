"""`python -m hvd_yolo.data`: check, stats, convert, split and draw."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from hvd_yolo.data import Annotations, open_dataset
from hvd_yolo.data.__main__ import main
from hvd_yolo.data.dealing import deal
from hvd_yolo.data.label_text import yolo_text
from hvd_yolo.data.measures import measure
from hvd_yolo.data.survey import look_hash, pixel_hash, take_survey
from hvd_yolo.errors import InputError
from tests.conftest import needs_mpi, run_job

SPLITS = ("train", "val", "test")


def picture(seed, size=(64, 48)):
    """Smooth noise: no two look the same."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)


def make_yolo(folder, splits, names=("a", "b"), suffix=".png"):
    """A data.yaml with splits `{split: [(file stem, picture, label text)]}`."""
    content = {"path": ".", "names": list(names)}
    for split, images in splits.items():
        content[split] = f"images/{split}"
        for stem, image, text in images:
            for part, end in (("images", suffix), ("labels", ".txt")):
                file = folder / part / split / f"{stem}{end}"
                file.parent.mkdir(parents=True, exist_ok=True)
                if part == "labels":
                    file.write_text(text)
                else:
                    cv2.imwrite(str(file), image)
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def make_coco(folder, annotations, size=(100, 50)):
    """One training image named `my photo.png`, id 7, with categories late (9) and early (3)."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").mkdir()
    cv2.imwrite(str(folder / "train" / "my photo.png"), picture(0, size))
    content = {
        "images": [{"id": 7, "file_name": "my photo.png", "width": size[0], "height": size[1]}],
        "categories": [{"id": 9, "name": "late"}, {"id": 3, "name": "early"}],
        "annotations": [{"id": i, "image_id": 7, **row} for i, row in enumerate(annotations)],
    }
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return folder


def verb(*words):
    """Runs a verb in this process; returns its exit code."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return end.code
    return 0


def refusal(*words):
    with pytest.raises(InputError) as caught:
        main([str(word) for word in words])
    return str(caught.value)


def checked(data, tmp_path, code):
    """What check finds, `{what: finding}` of all splits in turn."""
    assert verb("check", "--data", data, "--output", tmp_path / "check.json") == code
    content = json.loads((tmp_path / "check.json").read_text())
    return {f"{f['split']}: {f['what']}": f for f in content["findings"]}


def truths(path, split):
    """`{file stem: Annotations}` with the boxes in a fixed order."""
    dataset = open_dataset(str(path), split)
    found = {}
    for i in range(len(dataset)):
        height, width = dataset.image(i).shape[:2]
        truth = dataset.annotations(i, width, height)
        order = np.lexsort((*truth.boxes.round(3).T, truth.labels))
        found[Path(str(dataset.files[i])).stem] = Annotations(*(c[order] for c in truth))
    return found


def assert_same(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for stem, truth in expected.items():
        assert found[stem].labels.tolist() == truth.labels.tolist()
        assert np.abs(found[stem].boxes - truth.boxes).max(initial=0) <= tolerance


def test_bccd_comes_round_through_every_format(bccd, tmp_path, capsys):
    """From one format to the next, YOLO text to YOLO text: the boxes are those of the start at each
    stop, and each folder also opens without its data.yaml."""
    expected = truths(bccd / "data.yaml", "test")
    source, options = bccd / "data.yaml", ("--splits", "test", "--images", "link")
    for to, tolerance in (
        ("coco", 1e-12), ("voc", 1e-12), ("labelme", 1e-12), ("roboflow_coco", 1e-12),
        ("roboflow_voc", 1e-12), ("darknet", 1e-6), ("yolo", 1e-5),
    ):  # fmt: skip
        folder = tmp_path / to
        assert verb("convert", "--data", source, "--to", to, "--output", folder, *options) == 0
        source = folder / "data.yaml"
        plain = {"yolo": source, "darknet": folder / "obj.data"}.get(to, folder)
        assert len(open_dataset(str(plain), "test")) == len(expected)
        assert open_dataset(str(source), "test").names == ("RBC", "WBC", "Platelets")
        assert_same(truths(source, "test"), expected, tolerance)
    assert "cannot be read" not in capsys.readouterr().out
    first = next((tmp_path / "yolo" / "images" / "test").iterdir())
    assert first.is_symlink()


def test_coco_keeps_everything_and_others_say_what_they_cannot(tmp_path, capsys):
    rows = [
        {"category_id": 9, "bbox": [10.1, 10.2, 20.3, 20.7], "area": 111.5},
        {"category_id": 3, "bbox": [0, 0, 90, 40], "iscrowd": 1},
        {"category_id": 3, "bbox": [90, 40, 30, 30]},
        {"category_id": 3, "bbox": [5, 5, 0, 3]},
    ]
    source = make_coco(tmp_path / "source", rows)
    expected = open_dataset(str(source), "train")
    for to in ("coco", "voc", "yolo"):
        verb("convert", "--data", source, "--to", to, "--output", tmp_path / to)
    written = open_dataset(str(tmp_path / "coco" / "data.yaml"), "train")
    assert np.array_equal(written.boxes, expected.boxes)
    assert np.array_equal(written.areas, expected.areas)
    assert np.array_equal(written.is_crowd, expected.is_crowd)
    assert (written.ids.tolist(), written.category_ids) == ([7], (3, 9))
    assert written.names == expected.names == ("early", "late")

    voc = truths(tmp_path / "voc" / "data.yaml", "train")["my_photo"]
    assert voc.boxes.tolist() == [[0, 0, 90, 40], [90, 40, 100, 50], expected.boxes[0].tolist()]
    assert voc.is_crowd.tolist() == [True, False, False]
    yolo = truths(tmp_path / "yolo" / "data.yaml", "train")["my photo"]
    assert np.allclose(yolo.boxes, [[90, 40, 100, 50], expected.boxes[0]], rtol=0, atol=1e-6)
    told = capsys.readouterr().out
    for to in ("voc", "yolo"):
        for what in (
            "boxes without area in the image, left out: 1", "cut to it: 1", "boxes: 1",
            "image ids", "category ids",
        ):  # fmt: skip
            assert f"not held by {to}: " in told
            assert what in told.split(f"not held by {to}: ", 1)[1]
    assert "crowds, left out: the format has no mark for them: 1" in told
    assert "not held by coco" not in told


def test_yolo_text_holds_boxes_to_a_millionth(tmp_path):
    rng = np.random.default_rng(0)
    lows = rng.uniform(0, 0.5, (200, 2)) * (4000, 3000)
    boxes = np.concatenate((lows, lows + rng.uniform(1, 1000, (200, 2))), axis=1)
    truth = Annotations(boxes, np.zeros(200, dtype=np.int64), boxes[:, 0], boxes[:, 0] < 0)
    rows = [[float(v) for v in line.split()] for line in yolo_text(truth, 4000, 3000).splitlines()]
    centres, sides = np.array(rows)[:, 1:3], np.array(rows)[:, 3:]
    read = np.concatenate((centres - sides / 2, centres + sides / 2), axis=1)
    assert np.abs(read - boxes / (4000, 3000, 4000, 3000)).max() < 1e-8


def test_drawn_images_become_files(tmp_path):
    verb("convert", "--data", "shapes:12", "--to", "yolo", "--output", tmp_path / "out")
    for split in SPLITS:
        drawn = open_dataset("shapes:12", split)
        written = open_dataset(str(tmp_path / "out" / "data.yaml"), split)
        assert written.names == drawn.names
        for i in range(len(drawn)):
            image = drawn.image(i)
            assert np.array_equal(written.image(i), image)
            assert written.image_id(i) == drawn.image_id(i)
            height, width = image.shape[:2]
            boxes = (d.annotations(i, width, height).boxes for d in (drawn, written))
            assert np.allclose(*boxes, rtol=0, atol=1e-6 * width)


def test_file_names_are_unique_and_stay_in_the_folder(tmp_path, capsys):
    text = "0 0.5 0.5 0.5 0.5\n"
    file = make_yolo(
        tmp_path / "source",
        {s: [("x", picture(i), text)] for i, s in enumerate(("train", "val"))},
    )
    verb("convert", "--data", file, "--to", "voc", "--output", tmp_path / "voc")
    names = sorted(os.listdir(tmp_path / "voc" / "JPEGImages"))
    assert names == ["x.png", "x_2.png"]
    assert "file names: 1 (the first is now x_2.png)" in capsys.readouterr().out
    assert list(truths(tmp_path / "voc" / "data.yaml", "val")) == ["x_2"]

    coco = make_coco(tmp_path / "coco", [{"category_id": 3, "bbox": [1, 1, 5, 5]}])
    annotations = coco / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    content["images"][0]["file_name"] = "../outside.png"
    (coco / "train" / "my photo.png").rename(coco / "outside.png")
    annotations.write_text(json.dumps(content))
    verb("convert", "--data", coco, "--to", "coco", "--output", tmp_path / "out")
    assert list(truths(tmp_path / "out", "train")) == ["outside"]
    assert not (tmp_path / "out" / "images" / "outside.png").exists()
    assert "not a name that a split" in refusal("check", "--data", coco, "--splits", "../train")


def test_what_would_be_overwritten_is_refused(tmp_path):
    file = make_yolo(tmp_path / "source", {"train": [("x", picture(0), "0 .5 .5 .1 .1")]})
    told = refusal("convert", "--data", file, "--output", file.parent)
    assert "not empty" in told
    assert "output is missing" in refusal("convert", "--data", file)


def faulty(folder):
    """Leaks, duplicates, a broken file and every fault of a box."""
    good = "0 0.5 0.5 0.5 0.5\n"
    leaked = picture(1)
    train = [
        ("leak", leaked, good),
        ("twice", picture(2), good),
        ("again", picture(2), good),
        ("empty", picture(3), ""),
        ("boxes", picture(4), good * 2 + "0 0.5 0.5 0.01 0.3\n0 0.5 0.5 0 0.1\n0 0 0.5 0.5 0.5\n"),
        ("broken", picture(5), good),
    ]
    larger = cv2.resize(leaked, (128, 96), interpolation=cv2.INTER_CUBIC)
    val = [("same", leaked, good + "1 0.5 0.5 0.2 0.2\n"), ("larger", larger, good)]
    file = make_yolo(folder, {"train": train, "val": val})
    (folder / "images" / "train" / "broken.png").write_bytes(b"no image")
    return file


def test_check_finds_what_is_wrong(tmp_path, capsys):
    found = checked(faulty(tmp_path), tmp_path, 1)
    counts = {what: finding["count"] for what, finding in found.items()}
    assert counts == {
        "train and val: the same image in more than one split": 1,
        "train: images that cannot be read": 1,
        "train and val: images that look the same in more than one split": 1,
        "train: the same image twice": 1,
        "train: images without objects": 1,
        "train: classes without objects": 1,
        "train: boxes less than 2 pixels wide or high": 1,
        "train: boxes that repeat another of the same class": 1,
        "train: reading: boxes partly outside the image, clipped": 1,
        "train: reading: boxes without area, left out": 1,
    }
    errors = [what for what, finding in found.items() if finding["severity"] == "error"]
    assert errors == list(counts)[:2]
    told = capsys.readouterr().out
    for what, name in (
        ("same image twice", "train: im/again.png = train: im/twice.png"),
        ("more than one split", "train: im/leak.png = val: im/same.png"),
        ("cannot be read", "im/broken.png: not a JPEG, PNG, BMP, TIFF or WebP image"),
        ("2 pixels", "im/boxes.png: a (31.68, 16.8, 32.32, 31.2)"),
        ("without objects", "im/empty.png"),
        ("without area", "boxes.txt:4"),
    ):
        example = next(f["examples"][0] for key, f in found.items() if what in key)
        assert f"    {example}\n" in told
        for split in ("train", "val"):
            example = example.replace(f"{tmp_path}/images/{split}", "im")
        assert example.endswith(name)


def test_check_judges_boxes_by_the_image_that_is_there(tmp_path):
    """Where the JSON states no size; one that is not the image's is an error of its own."""
    rows = [{"category_id": 9, "bbox": box} for box in ([60, 5, 9, 9], [45, 5, 9, 9])]
    folder = make_coco(tmp_path, [*rows, {"category_id": 3, "bbox": [0, 0, 50, 50]}])
    cv2.imwrite(str(folder / "train" / "my photo.png"), picture(0, (50, 50)))
    found = checked(folder, tmp_path, 1)
    assert found["train: images whose size differs from the annotations'"]["count"] == 1
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["width"] = image["height"] = None
    file.write_text(json.dumps(content))
    found = checked(folder, tmp_path, 0)
    assert found["train: boxes outside the image"]["count"] == 1
    assert found["train: boxes partly outside the image"]["count"] == 1


def test_a_clean_set_has_no_finding_and_refused_labels_are_an_error(tmp_path):
    images = [("x", picture(0), "0 .5 .5 .5 .5\n"), ("y", picture(1), "1 .5 .5 .5 .5\n")]
    file = make_yolo(tmp_path, {"train": images})
    assert checked(file, tmp_path, 0) == {}
    assert "no val split" in refusal("check", "--data", file, "--splits", "train,val")
    (tmp_path / "labels" / "train" / "y.txt").write_text("2 .5 .5 .5 .5\n")
    assert "y.txt:1" in refusal("check", "--data", file)


def test_hashes_tell_pixels_and_looks():
    image = picture(0)
    changed = image.copy()
    changed[0, 0, 0] ^= 1
    assert pixel_hash(image) == pixel_hash(image.copy()) != pixel_hash(changed)
    flat = np.zeros((4, 6, 3), dtype=np.uint8)
    assert pixel_hash(flat) != pixel_hash(flat.transpose(1, 0, 2))
    assert look_hash(image) == look_hash(changed) != look_hash(picture(1))
    jpeg = cv2.imdecode(cv2.imencode(".jpg", picture(0, (640, 480)))[1], cv2.IMREAD_COLOR)
    assert look_hash(jpeg) == look_hash(picture(0, (320, 240)))


def test_measures_by_hand(tmp_path):
    rows = [
        {"category_id": 3, "bbox": [0, 0, 20, 10]},
        {"category_id": 9, "bbox": [0, 0, 100, 100], "area": 1024},
        {"category_id": 9, "bbox": [0, 0, 96, 96]},
        {"category_id": 9, "bbox": [0, 0, 5, 5], "iscrowd": 1},
    ]
    dataset = open_dataset(str(make_coco(tmp_path, rows, (200, 100))), "train")
    found = measure(dataset.names, take_survey(dataset, range(1)))
    assert found["areas"] == {"small": 1, "medium": 1, "large": 1}
    assert (found["objects"], found["crowds"], found["background"]) == (3, 1, 0)
    assert found["aspect_ratios"]["max"] == 2
    assert found["classes"]["late"] == {"objects": 2, "images": 1}
    assert found["image_sizes"] == {"200x100": 1}


def test_deal_divides_classes_and_keeps_identical_images_together():
    rng = np.random.default_rng(0)
    labels = [np.array([0] + [1] * (i % 5 == 0) + [2] * (i % 20 == 0)) for i in range(1000)]
    pixels = rng.integers(0, 900, 1000)
    shares = dict(zip(SPLITS, (0.7, 0.2, 0.1), strict=True))
    found = np.array(deal(pixels, labels, shares, 3))
    assert found.tolist() == deal(pixels, labels, shares, 3)
    assert found.tolist() != deal(pixels, labels, shares, 4)
    of_hash = {}
    for key, name in zip(pixels.tolist(), found, strict=True):
        assert of_hash.setdefault(key, name) == name
    for label in range(3):
        with_class = np.array([label in own for own in labels])
        for name, share in shares.items():
            assert abs((found[with_class] == name).mean() - share) < 0.06
    with pytest.raises(InputError, match="the test split of 3 images would be empty"):
        deal(np.arange(3), [np.zeros(0, dtype=np.int64)] * 3, shares, 0)


def test_split_is_disjoint_complete_and_repeatable(tmp_path):
    for run in ("one", "two"):
        options = ("--shares", "0.5,0.25,0.25", "--seed", "5", "--to", "coco")
        verb("split", "--data", "shapes:40", "--output", tmp_path / run, *options)
    found = {s: truths(tmp_path / "one" / "data.yaml", s) for s in SPLITS}
    assert [len(found[split]) for split in SPLITS] == [30, 15, 15]
    for split in SPLITS:
        text = f"annotations/instances_{split}.json"
        assert (tmp_path / "one" / text).read_bytes() == (tmp_path / "two" / text).read_bytes()
    written = [open_dataset(str(tmp_path / "one" / "data.yaml"), split).ids for split in SPLITS]
    assert sorted(np.concatenate(written).tolist()) == list(range(1, 61))
    written = {p.read_bytes() for p in (tmp_path / "one" / "images").rglob("*.png")}
    assert len(written) == 60
    for shares in ("0.8,0.1", "1", "a,b", "1.5,-0.5", ".25,.25,.25,.25"):
        assert "shares" in refusal("split", "--data", "shapes:40", "--shares", shares)


def test_an_unreadable_image_is_left_out_and_told(tmp_path, capsys):
    verb("convert", "--data", faulty(tmp_path / "in"), "--to", "voc", "--output", tmp_path / "out")
    told = capsys.readouterr().out
    assert "images that cannot be read, left out: 1 (the first: " in told
    assert "broken" not in truths(tmp_path / "out", "train")
    assert len(truths(tmp_path / "out", "train")) == 5


def test_contact_sheets_show_every_image_once(tmp_path):
    file = faulty(tmp_path / "in")
    options = ("--images", "4", "--sheets", "9", "--size", "100", "--output", tmp_path / "out")
    verb("draw", "--data", file, *options)
    assert sorted(os.listdir(tmp_path / "out")) == ["train_001.png", "train_002.png"]
    sheet = cv2.imread(str(tmp_path / "out" / "train_001.png"))
    assert sheet.shape[1] == 2 * (100 + 8)
    verb("draw", "--data", file, *options[:-1], tmp_path / "again")
    assert np.array_equal(sheet, cv2.imread(str(tmp_path / "again" / "train_001.png")))


def test_verbs_are_listed_when_none_fits(capsys):
    for words in ((), ("chekc",)):
        assert "check, stats, convert, split, draw" in refusal(*words)
    assert "data is missing" in refusal("stats")
    done = run_job(1, ["-m", "hvd_yolo.data", "chekc"])
    assert (done.returncode, done.stdout) == (2, "")
    assert "the verb 'chekc' is not known" in done.stderr
    assert verb("--help") == 0
    assert "draw" in capsys.readouterr().out
    assert "images" in refusal("draw", "--data", "shapes", "--images", "0")


@needs_mpi
def test_two_ranks_write_what_one_writes(tmp_path):
    file = faulty(tmp_path / "in")
    jobs = {
        "check": (["--data", str(file), "--output", "check.json"], 1),
        "convert": (["--data", str(file), "--to", "coco", "--output", "coco"], 0),
    }
    for name, ((*options, output), code) in jobs.items():
        for size in (1, 2):
            (tmp_path / str(size)).mkdir(exist_ok=True)
            words = [name, *options, str(tmp_path / str(size) / output)]
            if size == 1:
                assert verb(*words) == code
            else:
                done = run_job(size, ["-m", "hvd_yolo.data", *words])
                assert done.returncode == code, done.stdout + done.stderr
    one, two = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (tmp_path / "1", tmp_path / "2")
    )
    assert one == two
    # check.json, data.yaml, two instances files and seven images.
    assert len(one) == 11
