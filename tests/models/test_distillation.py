import copy

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn import functional as F

from hvd_yolo.boxes import complete_iou
from hvd_yolo.config import DistillConfig
from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model, distillation
from hvd_yolo.models.distillation import Distillation
from tests.teachers import sure_model

ANCHOR_FREE = ("yolov8n", "yolo11n", "yolov10n", "yolov5nu", "yolox-nano")
EVERYTHING = DistillConfig(cls=0.7, box=1.3, feature=2.0, layers="neck, backbone.stages.3")


def scene(count=3):
    torch.manual_seed(5)
    images = torch.rand(count, 3, 64, 64, dtype=torch.float64)
    boxes = torch.tensor([[4.0, 6, 40, 50], [20, 10, 60, 30]], dtype=torch.float64)
    full = {"boxes": boxes, "labels": torch.tensor([0, 2])}
    return images, [full, {"boxes": boxes[:0], "labels": full["labels"][:0]}, full][:count]


def student_of(name, seed=0):
    torch.manual_seed(seed)
    return build_model(name, 3).double().train()


def test_class_loss_is_the_divergence_of_bernoullis():
    torch.manual_seed(0)
    student, teacher = 4 * torch.randn(2, 7, 5, dtype=torch.float64)
    for temperature in (1.0, 2.5):
        p, q = (Bernoulli(logits=x / temperature) for x in (teacher, student))
        expected = temperature**2 * kl_divergence(p, q).sum(-1)
        found = distillation.class_loss(student, teacher, temperature)
        torch.testing.assert_close(found, expected)


def test_side_loss_is_the_divergence_of_categoricals():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 7, 4, 16, dtype=torch.float64)
    for temperature in (1.0, 10.0):
        p, q = (Categorical(logits=x / temperature) for x in (teacher, student))
        expected = temperature**2 * kl_divergence(p, q).mean(-1)
        found = distillation.side_loss(student, teacher, temperature)
        torch.testing.assert_close(found, expected)


def test_attention_by_hand():
    """Energies (9, 16) of one channel and (16, 9) of two, both of length sqrt(337)."""
    student = torch.tensor([[[[3.0, 4.0]]]])
    teacher = torch.tensor([[[[4.0, 0.0]], [[0.0, 3.0]]]])
    length = (81 + 256) ** 0.5
    expected = 2 * ((16 - 9) / length) ** 2
    assert distillation.attention_loss(student, teacher).item() == pytest.approx(expected)
    assert distillation.attention_loss(student, 5 * student).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", [*ANCHOR_FREE, "yolov5n"])
def test_score_logits_are_those_of_the_scores(name):
    model = sure_model(name, 3)
    prediction = model.predict(scene()[0])
    _, scores = model.head.decode(prediction)
    one = prediction.one if hasattr(prediction, "one") else prediction
    torch.testing.assert_close(distillation.score_logits(one).sigmoid(), scores)


@pytest.mark.parametrize("name", [*ANCHOR_FREE, "yolov5n"])
def test_a_student_that_is_its_teacher_learns_nothing(name):
    teacher = sure_model(name, 3)
    student = copy.deepcopy(teacher).requires_grad_(True)
    found = Distillation(teacher, EVERYTHING)(student, *scene())
    terms = {name: value.item() for name, value in found.terms.items() if "distill" in name}
    assert len(terms) == (5 if name == "yolov10n" else 3)
    # complete_iou divides by a little more than the union.
    assert all(abs(value) < (1e-3 if "box" in name else 1e-9) for name, value in terms.items())
    own = student.head.losses(student.predict(scene()[0]), scene()[1])
    for term, value in own.terms.items():
        torch.testing.assert_close(found.terms[term], value)


@pytest.mark.parametrize("teachers", ["yolov8n", "yolov10n", "yolox-nano"])
@pytest.mark.parametrize("students", ANCHOR_FREE)
def test_any_anchor_free_family_teaches_any_other(students, teachers):
    teacher, student = sure_model(teachers, 3), student_of(students)
    before = copy.deepcopy(teacher.state_dict())
    taught = Distillation(teacher, EVERYTHING)
    taught.try_on(student)
    assert student.training
    losses = taught(student, *scene())
    distilled = {name for name in losses.terms if "distill" in name}
    assert {"distill_cls", "distill_box", "distill_feature"} <= distilled
    assert ("one_distill_cls" in distilled) == (students == teachers == "yolov10n")
    for name in distilled:
        assert losses.terms[name] > 0
        assert losses.weight_of(name) > 1
    torch.stack([losses.terms[name] for name in distilled]).sum().backward()
    assert any(float(p.grad.abs().max()) > 0 for p in student.backbone.parameters())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_student_comes_nearer_to_its_teacher():
    teacher, student = sure_model("yolo11n", 3).float(), student_of("yolov8n").float()
    images, targets = scene()
    taught = Distillation(teacher, DistillConfig())
    optimizer = torch.optim.Adam(student.parameters(), 0.005)
    found = []
    for _ in range(20):
        losses = taught(student, images.float(), targets)
        found.append([losses.terms[name] for name in ("distill_cls", "distill_box")])
        optimizer.zero_grad()
        (sum(found[-1]) / losses.weight_of("distill_cls")).backward()
        optimizer.step()
    for first, last in zip(found[0], found[-1], strict=True):
        assert last < 0.8 * first


def test_terms_are_those_of_the_formulas():
    """Put together again from what the two models say, point by point."""
    teacher, student = sure_model("yolov8s", 3), student_of("yolo11n")
    images, targets = scene()
    options = DistillConfig(cls=0.7, box=1.3, temperature=2.0)
    found = Distillation(teacher, options)(student, images, targets)
    with torch.no_grad():
        said, wanted = student.predict(images), teacher.predict(images)
    weights = wanted.logits.sigmoid().amax(-1)
    weights = weights * (weights > distillation.LEAST_CONFIDENCE)
    pairs = [Bernoulli(logits=x / 2) for x in (wanted.logits, said.logits)]
    expected = 0.7 * 4 * (kl_divergence(*pairs).sum(-1) * weights).sum()
    torch.testing.assert_close(found.terms["distill_cls"].detach(), expected)
    pairs = [Categorical(logits=x / 2) for x in (wanted.distances, said.distances)]
    expected = 1.3 * 4 * (kl_divergence(*pairs).mean(-1) * weights).sum()
    torch.testing.assert_close(found.terms["distill_box"].detach(), expected)
    torch.testing.assert_close(found.weight_of("distill_box"), weights.sum())


@pytest.mark.parametrize("teachers", ["yolov8n", "yolox-nano"])
def test_points_that_teach_nothing_add_nothing_where_all_are_computed_with(teachers):
    """As on a GPU: compared with those alone that teach, gradients included."""
    teacher, found = sure_model(teachers, 3), []
    with torch.no_grad():
        wanted = teacher.predict(scene()[0])
    confidence = distillation.score_logits(wanted).sigmoid().amax(-1)
    is_taught = confidence > confidence.median()
    for is_picked in (True, False):
        student = student_of("yolov8n")
        taught = distillation.TaughtPoints(is_taught, is_picked)
        said = student.predict(scene()[0])
        pairs = [(said.logits, distillation.score_logits(wanted)), (said.boxes(), wanted.boxes())]
        pairs = [[taught.rows(x) for x in pair] for pair in pairs]
        losses = distillation.class_loss(*pairs[0]), 1 - complete_iou(*pairs[1])
        sums = torch.stack([(loss * taught.rows(confidence)).sum() for loss in losses])
        sums.sum().backward()
        found.append([sums.detach(), *(p.grad for p in student.parameters())])
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


def test_sums_over_parts_of_a_batch_are_those_of_the_batch():
    teacher, student = sure_model("yolov8n", 3), student_of("yolov8n").eval()
    images, targets = scene()
    taught = Distillation(teacher, EVERYTHING)
    whole = taught(student, images, targets)
    parts = [taught(student, images[s], targets[s]) for s in (slice(0, 1), slice(1, 3))]
    for name in whole.terms:
        torch.testing.assert_close(sum(part.terms[name] for part in parts), whole.terms[name])
        summed = sum(part.weight_of(name) for part in parts)
        torch.testing.assert_close(summed, whole.weight_of(name))


def test_no_images_give_zeros_that_reach_the_student():
    teacher, student = sure_model("yolov10n", 3), student_of("yolov10n")
    losses = Distillation(teacher, EVERYTHING)(student, scene()[0][:0], [])
    assert all(value == 0 for value in losses.terms.values())
    losses.total().backward()
    assert all(p.grad is not None for p in student.parameters())


def test_activations_that_are_computed_again_change_no_gradient():
    teacher = sure_model("yolov8n", 3)
    gradients = []
    for is_recomputed in (False, True):
        student = student_of("yolov8n")
        if is_recomputed:
            student.recompute_activations()
        Distillation(teacher, EVERYTHING)(student, *scene()).total().backward()
        gradients.append([p.grad for p in student.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_a_teacher_in_half_precision_says_nearly_the_same():
    teacher, student = sure_model("yolov8n", 3).float(), student_of("yolov8n").float()
    images, targets = scene()
    found = []
    for model in (teacher, copy.deepcopy(teacher).bfloat16()):
        losses = Distillation(model, EVERYTHING)(student, images.float(), targets)
        found.append({name: losses.terms[name] / losses.weight_of(name) for name in losses.terms})
    for name, exact in found[0].items():
        assert found[1][name].item() == pytest.approx(exact.item(), rel=0.05), name


@pytest.mark.parametrize(
    ("students", "teachers", "options", "told"),
    [
        ("yolov8n", "yolov5n", {}, "one has anchors"),
        ("yolov5n", "yolox-nano", {}, "one has anchors"),
        ("yolov8n-p6", "yolov8n", {}, "their strides are [8, 16, 32, 64] and [8, 16, 32]"),
        ("yolov8n", "yolov8n", {"cls": 0.0, "box": 0.0}, "are all 0"),
        ("yolov8n", "yolov8n", {"feature": 1.0}, "go together"),
        ("yolov8n", "yolov8n", {"layers": "neck"}, "go together"),
        ("yolov8n", "yolov8n", {"feature": 1.0, "layers": "nek"}, "no module nek"),
        ("yolov8n", "yolov8n", {"feature": 1.0, "layers": "head"}, "head gives no maps"),
        (
            "yolov8n", "yolov8n", {"feature": 1.0, "layers": "backbone.stages.2=backbone.stages.3"},
            "of the same stride",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(students, teachers, options, told):
    taught = Distillation(build_model(teachers, 3), DistillConfig(**options))
    with pytest.raises(InputError) as caught:
        taught.try_on(build_model(students, 3))
    assert told in str(caught.value)


def test_attention_is_of_length_one():
    maps = distillation.attention(torch.randn(2, 5, 3, 4))
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(2))
    assert F.relu(-maps).sum() == 0
