"""What holds for every built-in family."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from hvd_yolo.models import build_model
from hvd_yolo.models.blocks import ConvNormAct
from hvd_yolo.models.distances import DISTANCE_BINS
from hvd_yolo.models.heads import DetectHead, DualHead
from hvd_yolo.models.losses import aligned_losses
from hvd_yolo.models.operations import count_operations
from hvd_yolo.weights.names import to_ours, to_ultralytics
from tests.models.filled import OBJECTS, fill, picture, samples

NANO = ("yolov5n", "yolov5nu", "yolov8n", "yolov10n", "yolo11n", "yolox-nano")
P6 = ("yolov5n6", "yolov5n6u", "yolov8n-p6")

# Parameters and GFLOPs at 640 pixels: the table of YOLOv5's release 6; parameters in millions and
# GFLOPs (nano and tiny at 416 pixels): the table of YOLOX.
YOLOV5 = {
    "yolov5n": (1_872_157, 4.6), "yolov5s": (7_235_389, 16.6), "yolov5m": (21_190_557, 49.2),
    "yolov5l": (46_563_709, 109.6), "yolov5x": (86_749_405, 206.3),
}  # fmt: skip
YOLOX = {
    "yolox-nano": (0.91, 1.08), "yolox-tiny": (5.06, 6.45), "yolox-s": (9.0, 26.8),
    "yolox-m": (25.3, 73.8), "yolox-l": (54.2, 155.6), "yolox-x": (99.1, 281.9),
}  # fmt: skip

# What the ultralytics package computes from the weights of filled.py; see make_reference.py.
REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text())


def on_meta(name):
    with torch.device("meta"):
        return build_model(name, 80)


def num_parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", REFERENCE)
def test_counts_are_those_of_the_ultralytics_package(name):
    model = on_meta(name)
    # The package counts the fixed weights of the distance decoder, which is arithmetic here.
    assert num_parameters(model) + DISTANCE_BINS == REFERENCE[name]["parameters"]
    assert round(count_operations(model, 640) / 1e9, 1) == REFERENCE[name]["gflops"]


@pytest.mark.parametrize("name", YOLOV5)
def test_counts_of_yolov5_are_the_published_ones(name):
    model = on_meta(name)
    parameters, gflops = YOLOV5[name]
    assert num_parameters(model) == parameters
    assert round(count_operations(model, 640) / 1e9, 1) == gflops


@pytest.mark.parametrize("name", YOLOX)
def test_counts_of_yolox_are_the_published_ones(name):
    model = on_meta(name)
    parameters, gflops = YOLOX[name]
    size = 416 if name in ("yolox-nano", "yolox-tiny") else 640
    digit = 0.005 if size == 416 else 0.05
    assert num_parameters(model) / 1e6 == pytest.approx(parameters, abs=digit)
    # Biases are not counted there: 0.003 more for the largest.
    operations = count_operations(model, size, batch_norm=4) / 1e9
    assert operations == pytest.approx(gflops, abs=digit + 0.003)


def reference_targets(size):
    found = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()} for _ in range(2)]
    for image, label, *box in OBJECTS:
        x, y, w, h = (torch.tensor(box) * size).tolist()
        corners = torch.tensor([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]])
        found[image]["boxes"] = torch.cat((found[image]["boxes"], corners))
        found[image]["labels"] = torch.cat((found[image]["labels"], torch.tensor([label])))
    return found


@pytest.mark.parametrize("name", [name for name in REFERENCE if "many" in REFERENCE[name]])
def test_outputs_and_losses_equal_the_ultralytics_package(name):
    model = build_model(name, 80).eval()
    theirs = {key: value.clone() for key, value in to_ultralytics(model).items()}
    fill(theirs)
    model.load_state_dict(to_ours(theirs, model))
    with torch.no_grad():
        said = model.predict(picture(128))
    heads = {"many": said.many, "one": said.one} if isinstance(model.head, DualHead) else {}
    for head, prediction in (heads or {"many": said}).items():
        expected = REFERENCE[name][head]
        distances = samples(prediction.distances.flatten(2).transpose(1, 2))
        logits = samples(prediction.logits.transpose(1, 2))
        assert distances == pytest.approx(expected["distances"], rel=1e-4, abs=1e-4)
        assert logits == pytest.approx(expected["logits"], rel=1e-4, abs=1e-4)
        candidates = 10 if head == "many" else 1
        found = aligned_losses(prediction, reference_targets(128), candidates, eps=1e-9)
        terms = [float(found.terms[term] / found.weight) for term in ("box", "cls", "dfl")]
        assert terms == pytest.approx(expected["losses"], rel=1e-4)


def target(*rows):
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
    return {"boxes": table[:, :4], "labels": table[:, 4].long()}


def small_batch(size=64):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, size, size, dtype=torch.float64, generator=generator)
    targets = [
        target((4, 4, 40, 50, 1), (20, 10, 60, 60, 0)),
        target(),
        target((8, 30, 30, 62, 2)),
    ]
    return images, targets


def small_model(name):
    torch.manual_seed(1)
    return build_model(name, 3).double().train()


@pytest.mark.parametrize("name", NANO + P6)
def test_losses_are_sums_over_images(name):
    """What a batch gives is what its images give one by one, divisors included."""
    images, targets = small_batch()
    model = small_model(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    whole = model(images, targets)
    parts = [model(images[i : i + 1], targets[i : i + 1]) for i in range(3)]
    assert whole.weight > 0
    assert torch.allclose(whole.weight, sum(p.weight for p in parts), rtol=1e-12)
    for term, value in whole.terms.items():
        assert torch.allclose(value, sum(p.terms[term] for p in parts), rtol=1e-12), term
        weights = sum(p.weight_of(term) for p in parts)
        assert torch.allclose(whole.weight_of(term), weights, rtol=1e-12), term


@pytest.mark.parametrize("name", NANO + P6)
def test_an_image_without_objects_and_no_image_at_all_train(name):
    model = small_model(name)
    size = 128 if name in P6 else 64
    for count in (1, 0):
        losses = model(torch.rand(count, 3, size, size).double(), [target()] * count)
        assert losses.total().isfinite()
        losses.total().backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", NANO + P6)
def test_evaluation_gives_detections_by_score_in_input_pixels(name):
    model = build_model(name, 3, conf=0.0, max_detections=7).eval()
    with torch.no_grad():
        found = model(torch.rand(2, 3, 64, 128))
    assert len(found) == 2
    for detections in found:
        assert detections["boxes"].shape == (7, 4)
        assert (detections["scores"].diff() <= 0).all()
        assert detections["labels"].max() < 3


@pytest.mark.parametrize("name", NANO)
def test_low_precision_trains(name):
    images, targets = small_batch()
    torch.manual_seed(1)
    model = build_model(name, 3).train()
    exact = model(images.float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images.float(), targets)
    # Means, and within a factor of two: another rounding may give an object more or fewer places.
    for term, value in losses.terms.items():
        assert value.dtype == torch.float32
        mean = (value / losses.weight_of(term).clamp(min=1)).item()
        exactly = (exact.terms[term] / exact.weight_of(term).clamp(min=1)).item()
        assert 0.5 * exactly - 0.05 < mean < 2 * exactly + 0.05
    losses.total().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", NANO)
def test_a_few_images_are_learnt_by_heart(name):
    """Forward, assignment, losses and decoding together: else no box within 6 pixels came out."""
    images, targets = small_batch()
    images = images.float()
    targets = [{"boxes": t["boxes"].float(), "labels": t["labels"]} for t in targets]
    torch.manual_seed(0)
    model = build_model(name, 3).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(200):
        losses = model(images, targets)
        optimizer.zero_grad()
        terms = [
            value / losses.weight_of(term).clamp(min=1) for term, value in losses.terms.items()
        ]
        sum(terms).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    # Statistics of three images take long to settle: predict with those of the batch.
    with torch.no_grad():
        found = model.head.select(model.predict(images), 0.3, 0.5, 10)
    for detections, truth in zip(found, targets, strict=True):
        assert set(detections["labels"].tolist()) == set(truth["labels"].tolist())
        for box, label in zip(truth["boxes"], truth["labels"], strict=True):
            same = detections["boxes"][detections["labels"] == label]
            assert (same - box).abs().amax(1).min() < 6


def test_activations_of_yolov5():
    for name, activation in (("yolov5n-relu", nn.ReLU), ("yolov5n6u-leakyrelu", nn.LeakyReLU)):
        model = build_model(name, 3)
        assert any(isinstance(module, activation) for module in model.modules())
        assert not any(isinstance(module, nn.SiLU) for module in model.modules())


def test_the_one_to_one_head_gives_the_backbone_no_gradient():
    images, targets = small_batch()
    model = small_model("yolov10n")
    losses = model(images, targets)
    sum(value for term, value in losses.terms.items() if term.startswith("one_")).backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.head.one.parameters())


def test_biases_start_from_few_objects_in_every_head():
    for name in ("yolov8n", "yolov10n", "yolo11n", "yolov5nu"):
        head = build_model(name, 20).head
        for part in (head,) if isinstance(head, DetectHead) else (head.many, head.one):
            for tower, stride in zip(part.class_towers, (8, 16, 32), strict=True):
                share = 5 / 20 / (640 / stride) ** 2
                assert torch.allclose(tower[-1].bias.exp(), torch.tensor(share))


@pytest.mark.parametrize("name", [*NANO, *P6])
def test_one_image_on_the_smallest_input_trains(name):
    """The deepest map is one pixel, and BatchNorm has one value a channel."""
    torch.manual_seed(0)
    model = build_model(name, 3).train()
    side = 64 if name in P6 else 32
    targets = [{"boxes": torch.tensor([[4.0, 4, 20, 24]]), "labels": torch.tensor([1])}]
    before = {k: v.clone() for k, v in model.named_buffers()}
    model(torch.rand(1, 3, side, side), targets).total().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key
    single = [
        k for k, v in model.named_buffers() if "running_var" in k and torch.equal(before[k], v)
    ]
    assert single
    assert all(value.isfinite().all() for value in model.buffers())
    assert all(len(found["boxes"]) <= 300 for found in model.eval()(torch.rand(1, 3, side, side)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_single_value_is_normalized_as_the_limit_of_equal_values(dtype):
    """Reference: torch's BatchNorm over two copies of the value, whose variance is 0 as well."""
    block = ConvNormAct(3, 4, is_linear=True).train()
    nn.init.normal_(block.bn.weight)
    nn.init.normal_(block.bn.bias)
    two = copy.deepcopy(block)
    x = torch.rand(1, 3, 1, 1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y, expected = block(x), two(x.detach().repeat(2, 1, 1, 1))
    assert y.dtype == expected.dtype
    assert torch.allclose(y, expected[:1], atol=1e-6)
    y.float().square().sum().backward()
    expected[:1].float().square().sum().backward()
    assert torch.allclose(block.bn.bias.grad, two.bn.bias.grad)
    assert torch.equal(block.bn.weight.grad, torch.zeros(4))
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert torch.allclose(block.bn.running_mean, two.bn.running_mean)
    assert torch.equal(block.bn.running_var, torch.ones(4))
