"""Weights for other classes, or for the same ones in another order, go by name."""

import sys

import pytest
import torch

from hvd_yolo import checkpoint
from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model
from hvd_yolo.weights import load_weights, to_ultralytics
from tests.models.color_detector import build
from tests.weights.test_weights import pickled_model

FAMILIES = ("yolov5n", "yolov8n", "yolov10n", "yolo11n", "yolox-nano")
IMAGES = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def model_of(name, num_classes, seed):
    """One whose class outputs are not all alike, as they are at first."""
    torch.manual_seed(seed)
    model = build_model(name, num_classes).eval()
    with torch.no_grad():
        for rows in model.head.class_rows():
            rows.layer.bias.copy_(torch.randn_like(rows.layer.bias))
    return model


def save(model, names, file):
    content = {"config": "", "names": list(names), "weights": model.state_dict()}
    checkpoint.save(file, content)
    return file


@torch.no_grad()
def answers(model, names):
    """What the model says of each class, by its name, and its boxes."""
    outputs = {}
    for part in [model.head.many, model.head.one] if hasattr(model.head, "many") else [model.head]:
        prediction = model.predict(IMAGES)
        if hasattr(model.head, "many"):
            prediction = prediction.many if part is model.head.many else prediction.one
        boxes, scores = part.decode(prediction)
        for place, name in enumerate(names):
            outputs.setdefault(name, []).append(scores[..., place])
        outputs.setdefault("boxes", []).append(boxes)
    return {name: torch.stack(parts) for name, parts in outputs.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_class_says_what_it_said_in_another_order(tmp_path, family):
    theirs, ours = ("a", "b", "c"), ("c", "a", "b")
    source, target = model_of(family, 3, 0), model_of(family, 3, 1)
    told = str(load_weights(target, save(source, theirs, tmp_path / "a.pt"), ours))
    assert "its classes are a, b, c: their rows are put in the order of the data's" in told
    expected, found = answers(source, theirs), answers(target, ours)
    for name in (*theirs, "boxes"):
        assert torch.allclose(found[name], expected[name], atol=1e-6), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ours", [("x", "c", "a"), ("c", "x", "a", "y")])
def test_classes_of_other_sets_are_taken_where_the_name_is_known(tmp_path, family, ours):
    """As many, or more: the rest starts as the model was drawn."""
    theirs = ("a", "b", "c")
    source, target = model_of(family, 3, 0), model_of(family, len(ours), 1)
    fresh = [rows.layer.bias.clone() for rows in target.head.class_rows()]
    found = load_weights(target, save(source, theirs, tmp_path / "a.pt"), ours)
    assert "those of c, a are taken by name, and x" in str(found)
    assert found.kept == found.unused == []
    expected, said = answers(source, theirs), answers(target, ours)
    for name in ("a", "c", "boxes"):
        assert torch.allclose(said[name], expected[name], atol=1e-6), name
    new = [place for place, name in enumerate(ours) if name not in theirs]
    for before, rows in zip(fresh, target.head.class_rows(), strict=True):
        channels = rows.channels(len(ours))[0][:, new]
        assert torch.equal(rows.layer.bias[channels], before[channels])


def test_no_common_name_leaves_the_classes_untrained(tmp_path):
    file = save(model_of("yolov8n", 3, 0), ("a", "b", "c"), tmp_path / "a.pt")
    target = model_of("yolov8n", 3, 1)
    before = target.head.class_towers[0][-1].bias.clone()
    told = str(load_weights(target, file, ("x", "y", "z")))
    assert "its classes are a, b, c: none has a name of the data, and x, y, z start" in told
    assert torch.equal(target.head.class_towers[0][-1].bias, before)
    # Of another number the layers stay as before.
    assert "6 of the model's keep" in str(load_weights(build_model("yolov8n", 2), file, ("x", "y")))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({0: "b", 1: "a"}, "its classes are b, a: their rows are put in the order"),
        (["b", "a"], "its classes are b, a: their rows are put in the order"),
        ({0: "a", 1: "b"}, "6 tensors"),
        # What nobody has named, or cannot be told apart.
        ({0: "0", 1: "1"}, "it does not name its 2 classes: they are taken in their order"),
        (["class0", "class1"], "it does not name its 2 classes"),
        (["a", "a"], "it does not name its 2 classes"),
        (["a"], "it does not name its 2 classes"),
    ],
)
def test_pickled_models_name_their_classes(tmp_path, names, told):
    """As Ultralytics (a dict) and YOLOv5 (a list) write them."""
    source = model_of("yolov8n", 2, 0)
    pickled = pickled_model(to_ultralytics(source))
    pickled.names = names
    torch.save({"model": pickled, "ema": None}, tmp_path / "a.pt")
    del sys.modules["vanished_tasks"]
    target = model_of("yolov8n", 2, 1)
    found = load_weights(target, tmp_path / "a.pt", ("a", "b"))
    assert found.kept == []
    if told == "6 tensors":
        assert found.classes == ""
    else:
        assert told in found.classes
    swapped = tuple(dict(enumerate(names)).values() if isinstance(names, list) else names.values())
    order = swapped if set(swapped) == {"a", "b"} else ("a", "b")
    assert torch.allclose(answers(target, ("a", "b"))["a"], answers(source, order)["a"], atol=1e-6)


def test_a_foreign_model_is_refused_another_order_and_told_of_other_classes(tmp_path):
    """Which of its outputs belong to a class is not known."""
    file = save(build(2), ("a", "b"), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: its classes are a, b, those of the data b, a"):
        load_weights(build(2), file, ("b", "a"))
    told = str(load_weights(build(2), file, ("a", "x")))
    assert "its outputs are taken as they stand" in told
    assert load_weights(build(2), file, ("a", "b")).classes == ""
