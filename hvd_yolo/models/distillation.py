"""What a student learns from a teacher beside the objects: what the teacher says of every point,
and where it looks."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_yolo import boxes as box_ops
from hvd_yolo.config import DistillConfig
from hvd_yolo.errors import InputError
from hvd_yolo.models.anchor_head import AnchorPrediction
from hvd_yolo.models.distances import Prediction
from hvd_yolo.models.heads import DualPrediction
from hvd_yolo.models.losses import Losses
from hvd_yolo.models.pyramid import YOLO, Targets
from hvd_yolo.models.yolox_head import CellPrediction

# Points of which the teacher is less sure than this teach nothing. They are nearly all, and would
# take most of the time and of the divisor.
LEAST_CONFIDENCE = 0.01

_OneHead = Prediction | CellPrediction | AnchorPrediction
_Maps = list[list[Tensor]]


class Distillation:
    """A LossesOf: the student's own losses, and beside them

    distill_cls: binary Kullback-Leibler divergence of each class (Yang et al. 2023, Bridging
    Cross-task Protocol Inconsistency), distill_box: that of the distributions of the four sides
    (Zheng et al. 2022, Localization Distillation), or 1 - CIoU with the teacher's boxes
    where one of the two predicts no distributions; both weighted at each point by the teacher's
    highest score, and divided by the sum of these weights. distill_feature: attention transfer,
    divided by the number of images. The two heads of a YOLOv10 are taught by their like if the
    teacher has two, else the one-to-many head alone.
    """

    def __init__(self, teacher: YOLO, options: DistillConfig) -> None:
        """teacher: on its device, in the precision to ask it in; it is frozen here."""
        self._teacher = teacher.eval().requires_grad_(False)
        self._teacher.to(memory_format=torch.channels_last)
        self._dtype = next(teacher.parameters()).dtype
        self._options = options
        names = [part.strip() for part in options.layers.split(",") if part.strip()]
        pairs = [name.split("=") if "=" in name else (name, name) for name in names]
        self._own_layers = [pair[0].strip() for pair in pairs] if options.feature else []
        self._teachers_layers = [pair[-1].strip() for pair in pairs] if options.feature else []

    def __call__(self, student: YOLO, images: Tensor, targets: Targets) -> Losses:
        """See LossesOf. The student is in training mode; without images all terms are zero."""
        said, seen = self._ask(images)
        with _recorded(student, self._own_layers) as own_maps:
            prediction = student.predict(images)
        losses = student.head.losses(prediction, targets)
        terms, weights = dict(losses.terms), dict(losses.own_weights)
        for prefix, ours, theirs in _heads(prediction, said):
            found, weight = self._compared(ours, theirs)
            terms |= {prefix + name: value for name, value in found.items()}
            weights |= dict.fromkeys((prefix + name for name in found), weight)
        if self._own_layers:
            found = [attention_loss(*maps) for maps in _paired(own_maps, seen)]
            terms["distill_feature"] = self._options.feature * torch.stack(found).sum()
            weights["distill_feature"] = found[0].new_full((), float(len(images)))
        return Losses(terms, losses.weight, weights)

    def try_on(self, student: YOLO) -> None:
        """Raises InputError where the two do not speak of the same points or maps; the student
        stays as it is."""
        options = self._options
        if not (options.cls or options.box or options.feature):
            raise InputError("distill.cls, distill.box and distill.feature are all 0")
        if bool(options.feature) != bool(options.layers.strip()):
            raise InputError("distill.feature and distill.layers go together, as neck and 1.0")
        strides = [model.head.strides for model in (student, self._teacher)]
        if strides[0] != strides[1]:
            raise InputError(f"their strides are {strides[0]} and {strides[1]}, expected the same")
        weight = next(student.parameters())
        images = weight.new_zeros(1, 3, 2 * max(strides[0]), 2 * max(strides[0]))
        trial = copy.deepcopy(student).eval()
        with torch.no_grad(), _recorded(trial, self._own_layers) as own_maps:
            prediction = trial.predict(images)
        said, seen = self._ask(images)
        for _, ours, theirs in _heads(prediction, said):
            counts = [score_logits(part).shape[1] for part in (ours, theirs)]
            if counts[0] != counts[1]:
                raise InputError(
                    "one has anchors (yolov5), the other has none; a yolov5 goes with a yolov5, "
                    "all others (yolov8, yolo11, yolov10, yolox, yolov5nu) with one another"
                )
        _paired(own_maps, seen)

    @torch.no_grad()
    def _ask(self, images: Tensor) -> tuple[tuple, _Maps]:
        """What the teacher predicts, and its maps."""
        asking = torch.autocast(images.device.type, enabled=False)
        with asking, _recorded(self._teacher, self._teachers_layers) as maps:
            return self._teacher.predict(images.to(self._dtype)), maps

    def _compared(self, ours: _OneHead, theirs: _OneHead) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of one head, and their divisor."""
        options, exact = self._options, _exact_type(score_logits(ours))
        ours, theirs = _in(ours, exact), _in(theirs, exact)
        logits = score_logits(theirs)
        confidence = logits.sigmoid().amax(dim=-1)
        taught = _Taught(confidence > LEAST_CONFIDENCE)
        weights = taught.rows(confidence)
        terms = {}
        if options.cls:
            pair = taught.rows(score_logits(ours)), taught.rows(logits)
            loss = class_loss(*pair, options.temperature)
            terms["distill_cls"] = options.cls * (loss * weights).sum()
        if options.box:
            if isinstance(ours, Prediction) and isinstance(theirs, Prediction):
                sides = (taught.rows(ours.distances), taught.rows(theirs.distances))
                loss = side_loss(*sides, options.temperature)
            else:
                boxes = (taught.rows(ours.boxes()), taught.rows(theirs.boxes()))
                loss = 1 - box_ops.complete_iou(*boxes)
            terms["distill_box"] = options.box * (loss * weights).sum()
        return terms, weights.sum()


class _Taught:
    """The points at which the teacher is sure enough to teach.

    On the CPU they are picked out, for arithmetic costs most there. On a GPU all points are
    computed with, zeros in the place of those that teach nothing, for to count them would make the
    host wait.
    """

    def __init__(self, is_taught: Tensor) -> None:
        self._is_taught = is_taught
        is_cheap = is_taught.device.type == "cpu" and not torch.compiler.is_compiling()
        self._places = is_taught.flatten().nonzero()[:, 0] if is_cheap else None

    def rows(self, values: Tensor) -> Tensor:
        """Values (B, A, ...) at those points, (N, ...) where N may count the others as zeros."""
        if self._places is not None:
            return values.flatten(0, 1).index_select(0, self._places)
        is_taught = self._is_taught.view(*self._is_taught.shape, *[1] * (values.ndim - 2))
        return values.masked_fill(~is_taught, 0).flatten(0, 1)


def class_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Binary Kullback-Leibler divergence (N) of the logits (N, K), a sum over the classes.

    Times temperature^2, which keeps the size of the gradient (Hinton et al. 2015, section 2).
    """
    student, teacher = student / temperature, teacher / temperature
    wanted = teacher.sigmoid()
    loss = F.binary_cross_entropy_with_logits(student, wanted, reduction="none")
    least = F.binary_cross_entropy_with_logits(teacher, wanted, reduction="none")
    return (loss - least).sum(dim=-1) * temperature**2


def side_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence (N) of the distributions of four sides, logits (N, 4, bins), the
    mean over the sides; times temperature^2 as in class_loss."""
    student, teacher = (F.log_softmax(x / temperature, dim=-1) for x in (student, teacher))
    loss = F.kl_div(student, teacher, reduction="none", log_target=True)
    return loss.sum(dim=-1).mean(dim=-1) * temperature**2


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the attention maps of features (B, C, H, W), a sum over images, each 0 to
    2; the two may have different numbers of channels.

    Zagoruyko and Komodakis 2017, section 3.1: the sum of squares over the channels, normalised. The
    square of the distance as in the authors' code: it has a gradient at zero.
    """
    student, teacher = attention(student), attention(teacher).to(_exact_type(student))
    return (student - teacher).square().sum()


def attention(features: Tensor) -> Tensor:
    """Where features (B, C, H, W) are large: (B, H * W), of length 1 for each image."""
    energy = features.to(_exact_type(features)).square().sum(dim=1).flatten(1)
    return F.normalize(energy, dim=1)


def score_logits(prediction: _OneHead) -> Tensor:
    """(B, A, K), whose sigmoid are the scores of the head's decode()."""
    if isinstance(prediction, Prediction):
        return prediction.logits
    if isinstance(prediction, CellPrediction):
        return _logit_of_both(prediction.logits, prediction.objectness[..., None])
    raw = torch.cat([level.flatten(1, 3) for level in prediction.levels], dim=1)
    return _logit_of_both(raw[..., 5:], raw[..., 4:5])


def _logit_of_both(a: Tensor, b: Tensor) -> Tensor:
    """The logit of sigmoid(a) sigmoid(b), also where that is 0 or 1 in floating point: its odds
    against are e^-a + e^-b + e^-(a + b)."""
    return -torch.logaddexp(torch.logaddexp(-a, -b), -a - b)


def _heads(ours: tuple, theirs: tuple) -> Iterator[tuple[str, _OneHead, _OneHead]]:
    """Pairs of heads to compare, with what the names of their terms begin with."""
    has_two = [isinstance(prediction, DualPrediction) for prediction in (ours, theirs)]
    many = [p.many if isinstance(p, DualPrediction) else p for p in (ours, theirs)]
    yield "", *many
    if all(has_two):
        yield "one_", ours.one, theirs.one


def _exact_type(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _in(prediction: _OneHead, dtype: torch.dtype) -> _OneHead:
    """The prediction in a precision to compute losses in."""
    if isinstance(prediction, AnchorPrediction):
        levels = [level.to(dtype) for level in prediction.levels]
        return prediction._replace(levels=levels, anchors=prediction.anchors.to(dtype))
    return type(prediction)(*(part.to(dtype) for part in prediction))


@contextmanager
def _recorded(model: nn.Module, names: list[str]) -> Iterator[_Maps]:
    """Inside, the modules of these names write down the maps (B, C, H, W) that they give, a list a
    name. Raises InputError for a name that no module has, or one that gives something else."""
    modules, maps = dict(model.named_modules()), [[] for _ in names]
    for name in names:
        if name not in modules:
            raise InputError(
                f"distill.layers: there is no module {name}; neck, backbone.stages.2 and such are"
            )
    hooks = [
        modules[name].register_forward_hook(partial(_write_down, name, place))
        for name, place in zip(names, maps, strict=True)
    ]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def _write_down(
    name: str, place: list[Tensor], _module: nn.Module, _inputs: tuple, output: object
) -> None:
    found = output if isinstance(output, list) else [output]
    if not all(isinstance(x, Tensor) and x.ndim == 4 for x in found):
        raise InputError(f"distill.layers: {name} gives no maps; a block of backbone or neck does")
    place.extend(found)


def _paired(own: _Maps, teachers: _Maps) -> list[tuple[Tensor, Tensor]]:
    """Maps to compare; raises InputError where their numbers or sizes differ."""
    for ours, theirs in zip(own, teachers, strict=True):
        sizes = [[(len(x), *x.shape[2:]) for x in maps] for maps in (ours, theirs)]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"distill.layers: maps of the sizes {sizes[0]} and {sizes[1]} (images, height, "
                "width) cannot be compared; name modules of the same stride"
            )
    return [
        pair
        for ours, theirs in zip(own, teachers, strict=True)
        for pair in zip(ours, theirs, strict=True)
    ]
