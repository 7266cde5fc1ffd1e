"""The teacher of a distillation: read by one rank, the same on all, kept beside the checkpoints."""

import io
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hvd_yolo import checkpoint
from hvd_yolo.comm import Comm, agree, broadcast_bytes
from hvd_yolo.config import Config
from hvd_yolo.data.class_changes import difference, shown
from hvd_yolo.errors import InputError
from hvd_yolo.models import YOLO
from hvd_yolo.models.anchor_head import AnchorHead
from hvd_yolo.models.distillation import Distillation
from hvd_yolo.precision import inference_dtype
from hvd_yolo.weights.classes import reordered
from hvd_yolo.weights.trained import from_content

logger = logging.getLogger("hvd_yolo.teacher")


def share_teacher(
    known: dict[str, Any] | None, config: Config, is_resumed: bool, comm: Comm, root: int
) -> dict[str, Any]:
    """What there is to know of the teacher, on all ranks: what rank `root` knows already, or else
    reads, from the run's own copy if it is resumed. Every rank calls it.

    Other hosts need not have the file, and all ranks learn from the same one.
    """
    buffer = io.BytesIO()
    with agree(comm):
        if comm.rank == root:
            torch.save(known or _read(config, is_resumed, comm.device), buffer)
    content = broadcast_bytes(comm, buffer.getvalue(), root)
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def keep_copy(content: dict[str, Any], folder: Path) -> None:
    """Writes the teacher into the run's folder: a resumed run needs the same one, and its training
    may have gone on since. Raises InputError where there is no room."""
    checkpoint.save(_copy_in(folder), content)


def learn_from(
    content: dict[str, Any],
    config: Config,
    student: nn.Module,
    names: tuple[str, ...],
    device: torch.device,
) -> Distillation:
    """The losses of a student that has this teacher; names: the classes of the data set.

    Raises InputError when the one cannot learn from the other.
    """
    limits = config.eval
    trained = from_content(content, limits.conf, limits.iou, limits.max_detections)
    told = f"teacher {config.teacher}: "
    if set(trained.names) != set(names) or len(trained.names) != len(names):
        raise InputError(
            f"{told}its classes are {shown(trained.names)}, those of the data {shown(names)}: "
            f"{difference(trained.names, names)}; a teacher has the classes of the data, in any "
            "order"
        )
    ranges = trained.config.loader.value_range, config.loader.value_range
    if all(ranges) and ranges[0] != ranges[1]:
        raise InputError(
            f"{told}it was trained with a value range of {ranges[0]:.10g}, this run has "
            f"{ranges[1]:.10g}; give --loader.value_range {ranges[0]:.10g}"
        )
    for name, model in ((config.model, student), (trained.config.model, trained.model)):
        if not isinstance(model, YOLO):
            raise InputError(
                f"{told}{name} is no built-in model, and only the points of those can be compared; "
                "take a built-in model, or leave teacher out"
            )
    if trained.names != names:
        places = [trained.names.index(name) for name in names]
        tensors = reordered(trained.model.state_dict(), trained.model, places, len(names))
        trained.model.load_state_dict(tensors, strict=False)
        logger.warning("%sits classes are put in the order of the data's, by name", told)
    dtype = getattr(torch, content["dtype"])
    taught = Distillation(_rounded(trained.model.to(device), dtype), config.distill)
    try:
        taught.try_on(student)
    except InputError as error:
        raise InputError(
            f"{told}{config.model} cannot learn from {trained.config.model}: {error}"
        ) from error
    logger.info("teacher %s: %s in %s", config.teacher, trained.config.model, dtype)
    return taught


def _rounded(model: YOLO, dtype: torch.dtype) -> YOLO:
    """The model in that precision, but for its anchors: boxes are computed from them, in full."""
    head = model.head
    anchors = head.anchors if isinstance(head, AnchorHead) else None
    model.to(dtype)
    if anchors is not None:
        head.anchors = anchors
    return model


def _copy_in(folder: Path) -> Path:
    return folder / "checkpoints" / "teacher.pt"


def _read(config: Config, is_resumed: bool, device: torch.device) -> dict[str, Any]:
    copy = _copy_in(Path(config.output))
    if is_resumed and copy.is_file():
        content = checkpoint.load(copy)
        if content["file"] == config.teacher:
            return content
    try:
        content = checkpoint.load(Path(config.teacher))
    except InputError as error:
        raise InputError(f"teacher: {error}; it must be a checkpoint of ours") from error
    kept = {key: content[key] for key in ("config", "names", "category_ids", "weights")}
    # Of all ranks and restarts, whatever their devices.
    dtype = str(inference_dtype(config.train.dtype, device)).removeprefix("torch.")
    return {"file": config.teacher, "dtype": dtype, **kept}
