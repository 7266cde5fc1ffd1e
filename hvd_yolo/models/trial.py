"""One batch each way through a detector that is not ours, before hours of training rest on it."""

import copy
import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hvd_yolo.errors import InputError
from hvd_yolo.models.losses import Losses

# How buffers, or their module's class, are called that hold the statistics of a norm.
_OF_NORM = re.compile(r"norm|running|moving|mean|var(iance)?\b|std", re.IGNORECASE)


class Learned(NamedTuple):
    """Names of floating-point tensors that are no parameters and that a training pass changes:
    buffers of the state dict, and others, which no checkpoint holds. statistics: those of the
    buffers that look like running statistics of a norm."""

    buffers: list[str]
    unsaved: list[str]
    statistics: list[str]


def try_detector(
    model: nn.Module, name: str, num_classes: int, size: int, smallest: tuple[int, int] = (2, 0)
) -> Learned:
    """What training changes beside parameters and the statistics of torch's BatchNorm. Raises
    InputError naming what is wrong with the losses or the detections; see Detector.

    `model` itself stays as it is, and torch's random state too; size: side of the images in pixels;
    smallest: the fewest images of a pass of the training, and the smallest side that they can have,
    0 for `size`.
    """
    trial = copied(model, name)
    parameter = next(model.parameters())
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        images = torch.rand(2, 3, size, size, dtype=parameter.dtype, device=parameter.device)
        boxes = images.new_tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.5]]) * size
        labels = torch.tensor([0, num_classes - 1], device=parameter.device)
        targets = [
            {"boxes": boxes, "labels": labels},
            {"boxes": boxes[:0], "labels": labels[:0]},
        ]
        trial.train()
        before = _floats(trial)
        _check_losses(_call(trial, name, "training", images, targets), name)
        learned = _learned(trial, before)
        if smallest[0] == 1:
            _check_single_image(trial, name, smallest[1] or size)
        trial.eval()
        with torch.no_grad():
            found = _call(trial, name, "evaluation", images)
    _check_detections(found, name, num_classes, size)
    return learned


def _floats(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the floating-point buffers and plain tensors of all modules but torch's
    BatchNorms."""
    return {
        f"{place}.{key}".lstrip("."): value.detach().clone()
        for place, module in model.named_modules()
        if not isinstance(module, nn.modules.batchnorm._BatchNorm)
        for key, value in (*module._buffers.items(), *vars(module).items())
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def _learned(model: nn.Module, before: dict[str, Tensor]) -> Learned:
    after, saved = _floats(model), model.state_dict()
    changed = [
        name
        for name, value in before.items()
        if name in after and after[name].shape == value.shape and not after[name].equal(value)
    ]
    buffers = [name for name in changed if name in saved]
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    statistics = [
        name
        for name in buffers
        if _OF_NORM.search(f"{name} {kinds[name.rpartition('.')[0]]}") is not None
    ]
    return Learned(buffers, [name for name in changed if name not in saved], statistics)


def copied(model: nn.Module, name: str) -> nn.Module:
    """A deep copy, as the moving average of the weights and trials need it; raises InputError for
    a model that has none."""
    try:
        return copy.deepcopy(model)
    # Whatever a foreign module raises when it is copied is the fault to tell.
    except Exception as error:
        raise InputError(
            f"model {name}: copy.deepcopy, by which its moving average is made, fails with "
            f"{type(error).__name__}: {error}. The model must keep nothing that cannot be copied "
            "(locks, open files, loggers' streams, generators, tensors that are results of a "
            "computation): make such things where they are used, or give the module a "
            "__deepcopy__ of its own"
        ) from error


def _check_single_image(trial: nn.Module, name: str, side: int) -> None:
    """Raises InputError where its norms have too few values in a batch of one image."""
    parameter = next(trial.parameters())
    image = torch.rand(1, 3, side, side, dtype=parameter.dtype, device=parameter.device)
    target = {
        "boxes": image.new_tensor([[0.1, 0.1, 0.6, 0.7]]) * side,
        "labels": torch.zeros(1, dtype=torch.long, device=parameter.device),
    }
    try:
        trial(image, [target])
    # Whatever a foreign detector raises is the fault to tell.
    except Exception as error:
        raise InputError(
            f"model {name}: fails in training mode on a single image of {side} pixels, which this "
            "run gives a rank (the last update of an epoch may be short): "
            f"{type(error).__name__}: {error}. Take a larger imgsz (at order.multi_scale its "
            "smallest size counts), a batch_size and global_batch that leave no rank with one "
            "image, or --train.freeze_bn true"
        ) from error


def _call(model: nn.Module, name: str, mode: str, *arguments: object) -> Any:  # noqa: ANN401
    try:
        return model(*arguments)
    # Whatever a foreign detector raises is the fault to tell.
    except Exception as error:
        raise InputError(
            f"model {name}: fails in {mode} mode on two images with labels 0 to the last and an "
            f"image without objects: {type(error).__name__}: {error}. A detector that counts its "
            "labels from 1 belongs into hvd_yolo.models.LabelsFromOne"
        ) from error


def _check_losses(found: object, name: str) -> None:
    terms = found.terms if isinstance(found, Losses) else found
    if not isinstance(terms, dict) or not terms:
        raise InputError(
            f"model {name}: in training mode it gives {_kind(found)}, expected a dict of losses"
        )
    for key, value in terms.items():
        told = f"model {name}: its loss {key!r}"
        if not isinstance(value, Tensor) or value.numel() != 1 or value.ndim:
            shape = tuple(value.shape) if isinstance(value, Tensor) else _kind(value)
            raise InputError(f"{told} is {shape}, expected a scalar tensor")
        if not value.isfinite():
            raise InputError(f"{told} is {value.item()} on two random images")
    if not any(value.requires_grad for value in terms.values()):
        raise InputError(f"model {name}: no loss depends on its parameters")


def _check_detections(found: object, name: str, num_classes: int, size: int) -> None:
    if not isinstance(found, list) or len(found) != 2:
        raise InputError(
            f"model {name}: in evaluation mode it gives {_kind(found)}, expected a list with one "
            "dict an image"
        )
    for detections in found:
        if not isinstance(detections, dict) or not {"boxes", "scores", "labels"} <= set(detections):
            raise InputError(
                f"model {name}: its detections are {_kind(detections)}, expected a dict with "
                "boxes, scores and labels"
            )
        boxes, labels = detections["boxes"], detections["labels"]
        count = len(boxes)
        shapes = [tuple(detections[key].shape) for key in ("boxes", "scores", "labels")]
        if shapes != [(count, 4), (count,), (count,)]:
            raise InputError(
                f"model {name}: boxes, scores and labels have the shapes {shapes}, expected "
                "(M, 4), (M), (M)"
            )
        if count and not ((labels >= 0) & (labels < num_classes)).all():
            raise InputError(
                f"model {name}: it gives labels {int(labels.min())} to {int(labels.max())}, "
                f"expected 0 to {num_classes - 1}; one that counts from 1 belongs into "
                "hvd_yolo.models.LabelsFromOne"
            )
        if count and bool((boxes[:, 2:] < boxes[:, :2]).any()):
            raise InputError(
                f"model {name}: some boxes have their right lower corner left of or above the "
                "other, as x, y, width, height would; expected x1, y1, x2, y2 in pixels"
            )
        if count and float(boxes.abs().max()) <= 1.5 < size:
            raise InputError(
                f"model {name}: all boxes lie within 0 to 1, expected x1, y1, x2, y2 in pixels of "
                f"the {size} x {size} input"
            )


def _kind(found: object) -> str:
    if isinstance(found, Tensor):
        return f"a tensor {tuple(found.shape)}"
    if isinstance(found, list | tuple | dict):
        return f"a {type(found).__name__} of {len(found)}"
    return f"a {type(found).__name__}"
