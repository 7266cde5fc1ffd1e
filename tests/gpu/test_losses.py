"""Losses on a GPU: as on the CPU, and the host never waits for the device."""

import pytest
import torch

from hvd_yolo.config import DistillConfig
from hvd_yolo.models import adapters
from hvd_yolo.models.distillation import Distillation
from hvd_yolo.models.losses import as_losses
from hvd_yolo.targets import pad_targets
from tests.models.drawn import TARGETS, learned, predictions
from tests.models.test_distillation import scene, student_of
from tests.teachers import sure_model

CPU = torch.device("cpu")


def moved(prediction, device):
    """The prediction on a device, and its parts that have a gradient."""

    def move(part):
        if isinstance(part, torch.Tensor):
            return part.detach().to(device)
        if isinstance(part, tuple):
            return type(part)(*map(move, part))
        return [move(x) for x in part] if isinstance(part, list) else part

    prediction = move(prediction)
    return prediction, learned(prediction)


@pytest.mark.gpu
@pytest.mark.parametrize("case", TARGETS)
@pytest.mark.parametrize("name", list(predictions()))
def test_losses_are_those_of_the_cpu_without_a_wait(device, sync_counts, name, case):
    head, drawn = predictions()[name]
    found = []
    for where in (CPU, device):
        prediction, parts = moved(drawn, where)
        padded = pad_targets(pad_targets(TARGETS[case], torch.float64, CPU), torch.float64, where)
        with sync_counts() as syncs:
            losses = head.losses(prediction, padded)
            losses.total().backward()
        assert not syncs, syncs
        terms = torch.stack([losses.terms[key] for key in sorted(losses.terms)])
        found.append([terms.detach().cpu(), *(part.grad.cpu() for part in parts)])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("teachers", "students"),
    [("yolov8n", "yolov8n"), ("yolox-nano", "yolov8n"), ("yolov10n", "yolov10n"),
     ("yolov5n", "yolov5n"), ("yolov8n", "yolox-nano")],
)  # fmt: skip
def test_distillation_is_that_of_the_cpu_without_a_wait(device, sync_counts, teachers, students):
    options = DistillConfig(cls=0.7, box=1.3, feature=2.0, layers="neck")
    found = []
    for where in (CPU, device):
        distillation = Distillation(sure_model(teachers, 3).to(where), options)
        student = student_of(students).to(where)
        images, targets = scene()
        images, padded = images.to(where), pad_targets(targets, torch.float64, CPU)
        padded = pad_targets(padded, torch.float64, where)
        with sync_counts() as syncs:
            losses = as_losses(distillation(student, images, padded), len(images))
            losses.total().backward()
        assert where == CPU or not syncs, syncs
        found.append({key: value.item() for key, value in losses.terms.items()})
    assert found[1] == pytest.approx(found[0], rel=1e-10)


class Package(torch.nn.Module):
    """A model that takes what the adapters give the packages."""

    def loss(self, batch):
        """As in ultralytics."""
        return batch["bboxes"].sum() + batch["cls"].sum() + batch["batch_idx"].sum(), None

    def forward(self, images, targets):
        """As in libreyolo."""
        return {f"{name}_loss": targets.sum() for name in ("box", "dfl", "cls")}


@pytest.mark.gpu
@pytest.mark.parametrize("losses", [adapters._ultralytics_losses, adapters._libreyolo_losses])
def test_adapters_hand_over_targets_without_a_wait(device, sync_counts, losses):
    found = []
    for where in (CPU, device):
        images, targets = scene()
        images, padded = images.to(where), pad_targets(targets, torch.float64, CPU)
        padded = pad_targets(padded, torch.float64, where)
        with sync_counts() as syncs:
            sums = as_losses(losses(Package(), images, padded), len(images))
        assert not syncs, syncs
        found.append([value.item() for value in (sums.total(), sums.weight)])
    assert found[1] == pytest.approx(found[0])
