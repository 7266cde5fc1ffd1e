"""A trained detector from a checkpoint of ours."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from hvd_yolo import checkpoint
from hvd_yolo.config import Config, EvalConfig, FuseConfig, PredictConfig, from_yaml
from hvd_yolo.data.class_changes import difference, shown
from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model
from hvd_yolo.models.ensemble import Ensemble


class Trained(NamedTuple):
    """A detector in evaluation mode, on the CPU, the config of its training, and its classes."""

    model: nn.Module
    config: Config
    names: tuple[str, ...]
    category_ids: tuple[int, ...]


def open_ensemble(files: str, fuse: FuseConfig, limits: EvalConfig | PredictConfig) -> Trained:
    """As open_trained; several files, comma separated, are an Ensemble with the config of the
    first.

    Raises InputError when their classes differ.
    """
    parts = [
        open_trained(Path(file.strip()), limits.conf, limits.iou, limits.max_detections)
        for file in files.split(",")
    ]
    if len(parts) == 1:
        return parts[0]
    for part, file in zip(parts, files.split(","), strict=True):
        if part.names != parts[0].names:
            raise InputError(
                f"weights {file}: its classes are {shown(part.names)}, those of the first are "
                f"{shown(parts[0].names)}: {difference(parts[0].names, part.names)}; an ensemble "
                "has the same classes in the same order"
            )
    _share_value_range([part.config for part in parts])
    shares = read_shares("fuse.weights", fuse.weights, len(parts))
    models = [part.model for part in parts]
    fused = Ensemble(models, fuse.method, shares, fuse.iou, limits.max_detections)
    return parts[0]._replace(model=fused.eval())


def _share_value_range(configs: list[Config]) -> None:
    """Gives the first the value range that those have which were trained with one; raises
    InputError where these differ."""
    ranges = sorted({config.loader.value_range for config in configs} - {0.0})
    if len(ranges) > 1:
        raise InputError(
            f"weights: trained with loader.value_range {ranges[0]:.10g} and {ranges[1]:.10g}: one "
            "image cannot be both; evaluate them one by one"
        )
    configs[0].loader.value_range = ranges[0] if ranges else 0.0


def trained_amp(config: Config) -> str:
    """The train.amp of a finished training, none where a config does not say it."""
    return "none" if config.train.amp == "auto" else config.train.amp


def read_shares(key: str, text: str, count: int) -> list[float]:
    """Comma separated numbers above zero, one a model; empty text: all 1."""
    if not text:
        return [1.0] * count
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{key} is {text!r}, expected comma separated numbers") from error
    if len(shares) != count or min(shares) <= 0:
        raise InputError(f"{key} is {text!r}, expected {count} numbers above 0")
    return shares


def open_trained(file: Path, conf: float, iou: float, max_detections: int) -> Trained:
    """The detector that training wrote to `file`; conf, iou and max_detections as in build_model.

    Raises InputError when the file is no such checkpoint.
    """
    return from_content(checkpoint.load(file), conf, iou, max_detections)


def from_content(content: dict[str, Any], conf: float, iou: float, max_detections: int) -> Trained:
    """As open_trained, from what checkpoint.load() gave."""
    config = from_yaml(content["config"])
    names = tuple(content["names"])
    model = build_model(config.model, len(names), conf, iou, max_detections)
    model.load_state_dict(content["weights"])
    return Trained(model.eval(), config, names, tuple(content["category_ids"]))
