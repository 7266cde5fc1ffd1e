"""predict, export, soup and ensembles, on a detector that has learnt a little."""

import json
import math

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hvd_yolo import checkpoint, soup
from hvd_yolo.data import open_dataset
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate import __main__ as evaluate
from hvd_yolo.models.ensemble import Ensemble
from hvd_yolo.soup import mean_state
from hvd_yolo.weights.trained import open_trained
from tests.colored import make_yolo, some_rows, write_checkpoint
from tests.conftest import needs_mpi, run_job, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs of YOLOv8n from one seed with different augmentation."""
    folder = tmp_path_factory.mktemp("trained")
    options = ("--data", "shapes:48", "--imgsz", "96", "--epochs", "8", "--batch_size", "8",
               "--optim.lr", "0.003", "--eval.every", "0")  # fmt: skip
    files = []
    for name, scale in (("a", "0.5"), ("b", "0.3")):
        train(1, folder / name, *options, "--augment.scale", scale)
        files.append(folder / name / "checkpoints" / "last.pt")
    return files


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deeper").mkdir()
    dataset = open_dataset("shapes:20", "val")
    for index in range(5):
        name = f"deeper/{index}.png" if index == 4 else f"{index}.png"
        cv2.imwrite(str(folder / name), dataset.image(index))
    return folder


def verb(name, *options, num_ranks=1, code=0):
    done = run_job(num_ranks, ["-m", f"hvd_yolo.{name}", *map(str, options)])
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout if code == 0 else done.stderr


def rows_of(file):
    return [
        [r["image_id"], r["category_id"], r["score"], *r["bbox"]]
        for r in json.loads(file.read_text())
    ]


@needs_mpi
def test_predict_on_two_ranks_is_predict_on_one(trained, pictures, tmp_path):
    for size in (1, 2):
        options = ("--weights", trained[0], "--source", pictures, "--output", tmp_path / str(size))
        verb("predict", *options, "--conf", "0.001", num_ranks=size)
    one, two = (rows_of(tmp_path / str(size) / "detections.json") for size in (1, 2))
    assert len(one) > 5
    assert np.allclose(one, two, rtol=0, atol=1e-4)
    files = json.loads((tmp_path / "1" / "detections.json").read_text())
    assert {r["file_name"] for r in files} <= {"0.png", "1.png", "2.png", "3.png", "deeper/4.png"}
    for part, suffix in (("images", "png"), ("labels", "txt")):
        written = tmp_path / "2" / part
        names = sorted(str(file.relative_to(written)) for file in written.rglob(f"*.{suffix}"))
        assert names == [*(f"{i}.{suffix}" for i in range(4)), f"deeper/4.{suffix}"]
    drawn = cv2.imread(str(tmp_path / "1" / "images" / "0.png"))
    assert drawn.shape == cv2.imread(str(pictures / "0.png")).shape
    assert not np.array_equal(drawn, cv2.imread(str(pictures / "0.png")))


def test_predict_text_is_the_json_in_shares_of_the_sides(trained, pictures, tmp_path):
    options = ("--weights", trained[0], "--source", pictures / "0.png", "--output", tmp_path)
    verb("predict", *options, "--conf", "0.001")
    height, width = cv2.imread(str(pictures / "0.png")).shape[:2]
    lines = [line.split() for line in (tmp_path / "labels" / "0.txt").read_text().splitlines()]
    rows = rows_of(tmp_path / "detections.json")
    assert len(lines) == len(rows) > 0
    for (label, *numbers), (_, category, score, left, top, w, h) in zip(lines, rows, strict=True):
        expected = [(left + w / 2) / width, (top + h / 2) / height, w / width, h / height, score]
        assert int(label) == category - 1
        assert [float(n) for n in numbers] == pytest.approx(expected, abs=1e-6)


def test_predict_on_a_video(trained, pictures, tmp_path):
    video = cv2.VideoWriter(
        str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (128, 96)
    )
    for index in range(3):
        video.write(cv2.resize(cv2.imread(str(pictures / f"{index}.png")), (128, 96)))
    video.release()
    source = ("--source", tmp_path / "film.avi", "--output", tmp_path / "out")
    told = verb("predict", "--weights", trained[0], *source)
    assert "on 3 images" in told
    names = sorted(file.name for file in (tmp_path / "out" / "images").iterdir())
    assert names == ["film_000001.jpg", "film_000002.jpg", "film_000003.jpg"]


def test_predict_names_what_is_missing(trained, tmp_path):
    told = verb("predict", "--weights", trained[0], "--source", tmp_path, code=2)
    assert "no picture" in told
    assert "weights is missing" in verb("predict", "--source", tmp_path, code=2)


@pytest.mark.parametrize("form", ["onnx", "openvino", "torchscript"])
def test_exports_agree_with_torch_on_real_images(trained, form):
    told = verb("export", "--weights", trained[0], "--format", form)
    assert "the largest difference from torch is" in told
    pixels, score = (
        float(part.split()[-1]) for part in (told.split(" pixels")[0], told.split(" in score")[0])
    )
    assert pixels < 1e-3
    assert score < 1e-4


def test_onnx_holds_its_metadata_and_suppression(trained, tmp_path):
    copy = tmp_path / "best.pt"
    copy.write_bytes(trained[0].read_bytes())
    limits = {"conf": 0.05, "iou": 0.5, "max_detections": 10}
    options = [word for key, value in limits.items() for word in (f"--{key}", value)]
    verb("export", "--weights", copy, "--nms", "true", *options)
    metadata = {p.key: p.value for p in onnx.load(tmp_path / "best.onnx").metadata_props}
    assert json.loads(metadata["names"])["0"] == "disc"
    assert (metadata["imgsz"], metadata["stride"]) == ("96", "32")
    session = onnxruntime.InferenceSession(tmp_path / "best.onnx")
    images = torch.rand(2, 3, 96, 160)
    image, label, score, box = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = open_trained(copy, **limits).model(images)
    for i, detections in enumerate(expected):
        chosen = image == i
        order = np.argsort(-score[chosen], kind="stable")[: len(detections["scores"])]
        assert np.allclose(score[chosen][order], detections["scores"], atol=1e-4)
        assert np.allclose(box[chosen][order], detections["boxes"], atol=0.05)
        assert label[chosen][order].tolist() == detections["labels"].tolist()


def test_suppression_inside_is_for_onnx_alone(trained):
    options = ("--weights", trained[0], "--format", "openvino", "--nms", "true")
    assert "nms is for format onnx" in verb("export", *options, code=2)


def test_ultralytics_export_is_a_plain_state_dict(trained):
    told = verb("export", "--weights", trained[0], "--format", "ultralytics")
    state = torch.load(told.split(":")[0], weights_only=True)
    assert state["model.0.conv.weight"].shape == (16, 3, 3, 3)
    assert "model.22.dfl.conv.weight" in state


class Says(torch.nn.Module):
    def __init__(self, box, score, label=0):
        super().__init__()
        self.found = {
            "boxes": torch.tensor([box]), "scores": torch.tensor([score]),
            "labels": torch.tensor([label]),
        }  # fmt: skip

    def forward(self, images):
        return [self.found for _ in images]


def test_weighted_boxes_fusion_by_hand():
    """Two boxes of one object become their mean, weighted by score; the higher score stays."""
    models = [Says([10.0, 10, 50, 50], 0.9), Says([12.0, 10, 54, 50], 0.6)]
    found = Ensemble(models, "wbf", [1.0, 1.0], 0.5, 10)(torch.zeros(1, 3, 100, 100))[0]
    right = (50 * 0.9 + 54 * 0.6) / 1.5
    assert found["boxes"][0].tolist() == pytest.approx([10.8, 10, right, 50], abs=1e-4)
    assert found["scores"].tolist() == pytest.approx([0.9])


def test_soft_suppression_lowers_the_weaker():
    models = [Says([10.0, 10, 50, 50], 0.6), Says([12.0, 10, 52, 50], 0.9)]
    found = Ensemble(models, "soft_nms", [1.0, 1.0], 0.5, 10)(torch.zeros(1, 3, 100, 100))[0]
    iou = 38 * 40 / (2 * 40 * 40 - 38 * 40)
    assert found["scores"].tolist() == pytest.approx([0.9, 0.6 * math.exp(-(iou**2) / 0.5)])
    assert found["boxes"][1].tolist() == [10, 10, 50, 50]


def test_suppression_keeps_the_surer_and_other_classes():
    models = [
        Says([10.0, 10, 50, 50], 0.6),
        Says([12.0, 10, 52, 50], 0.9),
        Says([10.0, 10, 50, 50], 0.5, 1),
    ]
    found = Ensemble(models, "nms", [1.0, 1.0, 1.0], 0.5, 10)(torch.zeros(1, 3, 100, 100))[0]
    assert found["scores"].tolist() == pytest.approx([0.9, 0.5])
    assert found["labels"].tolist() == [0, 1]


def test_evaluate_takes_an_ensemble(trained):
    both = f"{trained[0]},{trained[1]}"
    for options in (("--fuse.method", "nms"), ("--fuse.weights", "2,1")):
        told = verb("evaluate", "--weights", both, "--data", "shapes:16", *options)
        assert 0 <= json.loads(told.splitlines()[-1])["AP"] <= 1
    told = verb("evaluate", "--weights", both, "--fuse.weights", "2,x", code=2)
    assert "fuse.weights is '2,x'" in told


def test_soups_and_ensembles_of_other_classes_are_refused_by_name(tmp_path):
    names = ("red", "green", "blue")
    a = write_checkpoint(tmp_path / "a.pt", names, "none")
    b = write_checkpoint(tmp_path / "b.pt", ("green", "red", "blue"), "none")
    for command in (evaluate.main, soup.main):
        with pytest.raises(InputError) as caught:
            command(["--weights", f"{a},{b}"])
        assert "its classes are green, red, blue, those of the first are red" in str(caught.value)
        assert "class 0 was red, is green" in str(caught.value)


def test_a_soup_is_tasted_on_classes_by_name(tmp_path, capsys):
    """The data's may have changed places since the trainings."""
    names = ("red", "green", "blue")
    images = [some_rows(seed) for seed in range(4)]
    data = make_yolo(tmp_path / "set", ["blue", "red", "green"], images, label_of=(1, 2, 0))
    files = [write_checkpoint(tmp_path / name, names, data) for name in ("a.pt", "b.pt")]
    soup.main([*files, "--output", str(tmp_path / "soup.pt"), "--workers", "0"])
    assert "AP 1.0000" in capsys.readouterr().out


def test_the_mean_of_states_by_hand():
    a, b = (
        {"w": torch.tensor([1.0, 2]), "n": torch.tensor(3)},
        {"w": torch.tensor([5.0, 2]), "n": torch.tensor(9)},
    )
    mixed = mean_state([a, b], [3.0, 1.0])
    assert mixed["w"].tolist() == [2.0, 2.0]
    assert mixed["n"].item() == 3


@needs_mpi
def test_a_soup_is_a_checkpoint_with_statistics_of_its_own(trained, tmp_path):
    for size in (1, 2):
        told = verb("soup", *trained, "--output", tmp_path / f"{size}.pt", num_ranks=size)
        assert "AP 0." in told
    one, two = (checkpoint.load(tmp_path / f"{size}.pt")["weights"] for size in (1, 2))
    states = [checkpoint.load(file)["weights"] for file in trained]
    kernel, mean = "backbone.stages.1.0.conv.weight", "backbone.stages.1.0.bn.running_mean"
    assert torch.allclose(one[kernel], (states[0][kernel] + states[1][kernel]) / 2)
    assert not torch.allclose(one[mean], (states[0][mean] + states[1][mean]) / 2, rtol=1e-3)
    assert torch.allclose(one[mean], two[mean], rtol=0.1, atol=0.02)
    assert "AP 0." in verb("soup", *trained, "--method", "greedy", "--output", tmp_path / "g.pt")
    told = verb("soup", trained[0], code=2)
    assert "name two or more checkpoints" in told
