"""`python -m hvd_yolo.export --weights runs/exp/checkpoints/best.pt --format onnx`: the detector
for other programs, run against torch on real images before it is called done."""

import importlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hvd_yolo import cli
from hvd_yolo.config import ExportConfig, check_values, parse
from hvd_yolo.data import open_dataset
from hvd_yolo.data.loader import evaluation_batches
from hvd_yolo.errors import InputError
from hvd_yolo.models import YOLO, largest_stride
from hvd_yolo.value_range import set_value_range
from hvd_yolo.weights import to_ultralytics
from hvd_yolo.weights.onnx_half import halve
from hvd_yolo.weights.onnx_suppression import add_suppression
from hvd_yolo.weights.trained import Trained, open_trained

# The largest difference from torch that is let through: pixels, and of scores.
_LARGEST = (0.05, 1e-3)
# The same in half precision, whose 11 bits are spent in each layer; pixels for each of the input's
# side.
_LARGEST_HALF = (0.005, 0.01)

# The first has all operators of the models, the last is the newest that the exporter writes.
_OPSETS = (13, 20)

logger = logging.getLogger("hvd_yolo.export")

Run = Callable[[np.ndarray], Sequence[np.ndarray]]


class Raw(nn.Module):
    """What is exported: images (B, 3, H, W) RGB in 0..1 to boxes (B, A, 4) xyxy in input pixels and
    scores (B, A, K) of all points."""

    def __init__(self, model: YOLO) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and scores."""
        return self.model.decode(images)


class _Images(NamedTuple):
    """What a file is tried on; name: what they are."""

    pixels: Tensor
    name: str


class _Job(NamedTuple):
    model: nn.Module
    images: Tensor
    file: Path
    metadata: dict[str, str]
    config: ExportConfig


def main(argv: Sequence[str]) -> None:
    """Writes the file beside the weights and prints its largest difference from torch."""
    config = parse(ExportConfig, argv, "hvd_yolo.export")
    check_values(config)
    if not config.weights:
        raise InputError("weights is missing: --weights RUN/checkpoints/best.pt")
    _refuse_options(config)
    weights = Path(config.weights)
    trained = open_trained(weights, config.conf, config.iou, config.max_detections)
    if not isinstance(trained.model, YOLO):
        raise InputError(f"weights {weights}: {trained.config.model} is no built-in model")
    if config.format == "ultralytics":
        file = weights.with_name(f"{weights.stem}.ultralytics.pt")
        torch.save(to_ultralytics(trained.model), file)
        print(f"{file}: a state dict for load_state_dict of the ultralytics package's model")
        return
    size = config.imgsz or trained.config.imgsz
    metadata = {
        "names": json.dumps(dict(enumerate(trained.names))),
        "imgsz": json.dumps(size),
        "stride": json.dumps(largest_stride(trained.model)),
    }
    if trained.config.loader.value_range:
        # What divides images of more than 8 bits, in the place of 255.
        metadata["value_range"] = json.dumps(trained.config.loader.value_range)
    images = _images(config, trained, size)
    file = weights.with_suffix(_SUFFIXES[config.format])
    job = _Job(Raw(trained.model).eval(), images.pixels, file, metadata, config)
    run = _WRITERS[config.format](job)
    boxes, scores = _largest_difference(job, run)
    largest = (_LARGEST_HALF[0] * size, _LARGEST_HALF[1]) if config.half else _LARGEST
    if not (boxes <= largest[0] and scores <= largest[1]):
        raise InputError(
            f"{file}: differs from torch by {boxes:.2g} pixels and {scores:.2g} in score, more "
            f"than {largest[0]:g} and {largest[1]}: do not use it"
            + ("; export without --half" if config.half else "")
        )
    if config.nms:
        add_suppression(file, config.conf, config.iou, config.max_detections)
    print(
        f"{file}: on {len(images.pixels)} {images.name}, batches of 1 and {len(images.pixels)}, "
        f"the largest difference from torch is {boxes:.1e} pixels and {scores:.1e} in score"
    )


def _refuse_options(config: ExportConfig) -> None:
    if config.nms and config.format != "onnx":
        raise InputError(f"nms is for format onnx, not for {config.format}")
    if config.half and config.format not in ("onnx", "openvino"):
        raise InputError(f"half is for formats onnx and openvino, not for {config.format}")
    if config.opset != ExportConfig().opset and config.format != "onnx":
        raise InputError(f"opset is for format onnx, not for {config.format}")
    if not _OPSETS[0] <= config.opset <= _OPSETS[1]:
        raise InputError(
            f"opset is {config.opset}, it must be between {_OPSETS[0]} and {_OPSETS[1]}, those in "
            "which torch's exporter can write these models"
        )


def _images(config: ExportConfig, trained: Trained, size: int) -> _Images:
    """Up to four of the val split, (B, 3, size, size); drawn ones where the data set of the
    training is not here, which is said. Raises InputError for one that is asked for."""
    try:
        return _Images(_pixels(config.data or trained.config.data, trained, size), "real images")
    except InputError as error:
        if config.data:
            raise
        logger.info(
            "the data set of the training cannot be read here, so the file is tried on drawn "
            "images; --data names another (%s)",
            error,
        )
    return _Images(_pixels("shapes:20", trained, size), "drawn images")


def _pixels(data: str, trained: Trained, size: int) -> Tensor:
    dataset = open_dataset(data, "val")
    set_value_range(dataset, trained.config.loader.value_range)
    batch = next(iter(evaluation_batches(dataset, size, 4, 0, 1, 0)), None)
    if batch is None or not batch.items:
        why = f" ({batch.unreadable[0]})" if batch and batch.unreadable else ""
        raise InputError(f"data {data}: none of the first images of val can be read{why}")
    return batch.to_model(torch.device("cpu"), torch.float32)[0].contiguous()


def _largest_difference(job: _Job, run: Run) -> tuple[float, float]:
    """In pixels and in score, over a batch, a single image and, where shapes are free, another
    size."""
    found = [0.0, 0.0]
    inputs = [job.images, job.images[:1]]
    if job.config.format != "torchscript":
        inputs.append(nn.functional.pad(job.images, (0, 64, 0, 0), value=0.5))
    for images in inputs:
        with torch.no_grad():
            expected = job.model(images)
        for i, (a, b) in enumerate(zip(run(images.numpy()), expected, strict=True)):
            found[i] = max(found[i], float(np.abs(a - b.numpy()).max()))
    return found[0], found[1]


def _onnx(job: _Job) -> Run:
    onnx, runtime = _need("onnx"), _need("onnxruntime")
    free = {"images": {0: "batch", 2: "height", 3: "width"}}
    free |= {name: {0: "batch", 1: "points"} for name in ("boxes", "scores")}
    torch.onnx.export(
        job.model, (job.images[:2],), job.file, dynamo=False, opset_version=job.config.opset,
        input_names=["images"], output_names=["boxes", "scores"], dynamic_axes=free,
    )  # fmt: skip
    model = onnx.load(job.file)
    onnx.helper.set_model_props(model, job.metadata)
    onnx.save(model, job.file)
    if job.config.half and job.config.format == "onnx":
        halve(job.file)
    session = runtime.InferenceSession(job.file, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def _torchscript(job: _Job) -> Run:
    traced = torch.jit.trace(job.model, job.images, check_trace=False)
    torch.jit.save(traced, job.file, _extra_files=job.metadata)
    loaded = torch.jit.load(job.file)
    return lambda images: [part.detach().numpy() for part in loaded(torch.from_numpy(images))]


def _openvino(job: _Job) -> Run:
    openvino = _need("openvino")
    between = job.file.with_name(f".{job.file.stem}.openvino.onnx")
    _onnx(job._replace(file=between))
    model = openvino.convert_model(between)
    between.unlink()
    for key, value in job.metadata.items():
        model.set_rt_info(value, ["model_info", key])
    openvino.save_model(model, job.file, compress_to_fp16=job.config.half)
    compiled = openvino.compile_model(
        openvino.Core().read_model(job.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda images: list(compiled(images).values())


def _need(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"{error}; install it: pip install 'hvd_yolo[export]'") from error


_SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript", "openvino": ".xml"}
_WRITERS = {"onnx": _onnx, "torchscript": _torchscript, "openvino": _openvino}


if __name__ == "__main__":
    cli.run(main, "a smaller --imgsz")
