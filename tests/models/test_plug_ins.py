"""Detectors of other makers: found, tried, named when they are wrong; freezing and recomputing."""

import importlib.util
import sys
import types

import pytest
import torch
from torch import nn

from hvd_yolo.errors import InputError
from hvd_yolo.models import LabelsFromOne, build_model
from hvd_yolo.models.freezing import freeze, keep_frozen_statistics
from hvd_yolo.models.trial import try_detector
from tests.models.plain_detector import PlainDetector
from tests.models.test_families import small_batch


class Faulty(nn.Module):
    """Right but for `losses` and `detections`, which a test puts in."""

    def __init__(self, losses=None, detections=None):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.losses, self.detections = losses, detections

    def forward(self, images, targets=None):
        if self.training:
            return {"a": self.scale * 2} if self.losses is None else self.losses(self.scale)
        boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0]])
        one = {"boxes": boxes, "scores": torch.ones(1), "labels": torch.zeros(1).long()}
        return [one | (self.detections or {}) for _ in images]


FAULTS = [
    (Faulty(losses=lambda s: s * 2), "gives a tensor .*expected a dict of losses"),
    (Faulty(losses=lambda s: {}), "gives a dict of 0, expected a dict of losses"),
    (Faulty(losses=lambda s: {"b": s * torch.ones(3)}), r"loss 'b' is \(3,\), expected a scalar"),
    (Faulty(losses=lambda s: {"b": 3.0}), "loss 'b' is a float, expected a scalar"),
    (Faulty(losses=lambda s: {"b": s / 0}), "loss 'b' is inf"),
    (Faulty(losses=lambda s: {"b": torch.ones(())}), "no loss depends on its parameters"),
    (
        Faulty(detections={"labels": torch.full((1,), 3)}),
        "labels 3 to 3, expected 0 to 2; one that",
    ),
    (Faulty(detections={"boxes": torch.tensor([[40.0, 40, 10, 10]])}), "as x, y, width, height"),
    (Faulty(detections={"boxes": torch.tensor([[0.1, 0.1, 0.5, 0.9]])}), "lie within 0 to 1"),
    (Faulty(detections={"scores": torch.ones(1, 3)}), r"shapes .*expected \(M, 4\), \(M\), \(M\)"),
]


@pytest.mark.parametrize(("model", "told"), FAULTS)
def test_faults_of_a_detector_are_named(model, told):
    with pytest.raises(InputError, match=f"model mine:build.*{told}"):
        try_detector(model, "mine:build", 3, 64)


def test_a_right_detector_passes_and_stays_as_it_is():
    model = nn.Sequential(PlainDetector(3), nn.BatchNorm2d(2))[0].train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    try_detector(model, "mine:build", 3, 64)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


class CountsFromOne(PlainDetector):
    """As the detectors of torchvision: label 0 is the background."""

    def __init__(self, num_classes):
        super().__init__(num_classes + 1)

    def forward(self, images, targets=None):
        images = torch.stack(list(images))
        if self.training and any((t["labels"] == 0).any() for t in targets):
            raise ValueError("label 0 is the background")
        return super().forward(images, targets)


def test_a_detector_that_counts_from_1_is_wrapped():
    with pytest.raises(InputError, match="LabelsFromOne"):
        try_detector(CountsFromOne(3), "mine:build", 3, 64)
    model = LabelsFromOne(CountsFromOne(3))
    try_detector(model, "mine:build", 3, 64)
    # It is sure of the background, and of class 2 after that.
    for bias, expected in (([9.0, 0, 0, 0], []), ([0.0, 0, 9, 0], [1])):
        with torch.no_grad():
            model.detector.label.bias.copy_(torch.tensor(bias))
            found = model.eval()(torch.rand(1, 3, 64, 64))
        assert found[0]["labels"].tolist() == expected
        assert len(found[0]["boxes"]) == len(expected)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(InputError, match="pip install ultralytics"):
        build_model("ultralytics:yolov8n.yaml", 3)


def test_a_builder_that_takes_no_classes_is_named(monkeypatch):
    module = types.ModuleType("a_module")
    module.no_classes, module.no_module = lambda: nn.Linear(1, 1), lambda num_classes: 3
    monkeypatch.setitem(sys.modules, "a_module", module)
    with pytest.raises(InputError, match="must take num_classes"):
        build_model("a_module:no_classes", 3)
    with pytest.raises(InputError, match=r"gave int, expected a torch.nn.Module"):
        build_model("a_module:no_module", 3)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="needs torchvision")
@pytest.mark.parametrize("name", ["fcos_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_torchvision_detectors(name):
    model = build_model(f"torchvision:{name}", 3)
    try_detector(model, f"torchvision:{name}", 3, 96)


@pytest.mark.parametrize("name", ["ultralytics:yolov8n.yaml", "libreyolo:yolo9t"])
def test_detectors_of_other_packages(name):
    package = name.partition(":")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    try_detector(build_model(name, 3), name, 3, 96)


def test_frozen_layers_do_not_move():
    images, targets = small_batch()
    model = build_model("yolov8n", 3).double().train()
    freeze(model, "backbone.stages.0, backbone.stages.1.")
    keep_frozen_statistics(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(images, targets).total().backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        is_frozen = name.startswith(("backbone.stages.0.", "backbone.stages.1."))
        if is_frozen:
            assert torch.equal(value, before[name]), name
        elif name.startswith(("backbone", "neck")) and name.endswith(("conv.weight", "_mean")):
            assert not torch.equal(value, before[name]), name


def test_freezing_what_is_not_there_or_everything_is_refused():
    with pytest.raises(InputError, match=r"no layer begins with backbon.stem; there are backbone"):
        freeze(build_model("yolov8n", 3), "backbon.stem")
    with pytest.raises(InputError, match="leaves nothing to train"):
        freeze(build_model("yolov8n", 3), "backbone,neck,head")


@pytest.mark.parametrize("name", ["yolov8n", "yolov10n"])
def test_recomputed_activations_change_nothing(name):
    images, targets = small_batch()
    states = []
    for is_recomputed in (False, True):
        torch.manual_seed(0)
        model = build_model(name, 3).double().train()
        if is_recomputed:
            model.recompute_activations()
        model(images, targets).total().backward()
        gradients = {f"{k}.grad": p.grad for k, p in model.named_parameters()}
        states.append(model.state_dict() | gradients)
    for key, value in states[0].items():
        assert torch.allclose(value, states[1][key], rtol=1e-12, atol=1e-12), key


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("yolov8n.pt", "--model yolov8n --weights yolov8n.pt"),
        ("weights/yolo11s.pt", "--model yolo11s --weights weights/yolo11s.pt"),
        ("yolov8n.yaml", "--model yolov8n?"),
    ],
)
def test_a_file_of_other_tools_as_model_gets_a_hint(name, hint):
    with pytest.raises(InputError) as error:
        build_model(name, 3)
    assert hint in str(error.value)
