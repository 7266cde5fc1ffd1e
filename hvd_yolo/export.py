"""`python -m hvd_yolo.export --weights runs/exp/checkpoints/best.pt --format onnx`: the detector
for other programs, run against torch on real images before it is called done."""

import importlib
import json
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
from hvd_yolo.weights import to_ultralytics
from hvd_yolo.weights.onnx_suppression import add_suppression
from hvd_yolo.weights.trained import Trained, open_trained

# The largest difference from torch on real images that is let through: pixels, and of scores.
_LARGEST = (0.05, 1e-3)

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
    if config.nms and config.format != "onnx":
        raise InputError(f"nms is for format onnx, not for {config.format}")
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
    images = _real_images(config, trained, size)
    file = weights.with_suffix(_SUFFIXES[config.format])
    job = _Job(Raw(trained.model).eval(), images, file, metadata, config)
    run = _WRITERS[config.format](job)
    boxes, scores = _largest_difference(job, run)
    if boxes > _LARGEST[0] or scores > _LARGEST[1]:
        raise InputError(
            f"{file}: differs from torch by {boxes:.2g} pixels and {scores:.2g} in score, more "
            f"than {_LARGEST[0]} and {_LARGEST[1]}: do not use it"
        )
    if config.nms:
        add_suppression(file, config.conf, config.iou, config.max_detections)
    print(
        f"{file}: on {len(images)} real images, batches of 1 and {len(images)}, the largest "
        f"difference from torch is {boxes:.1e} pixels and {scores:.1e} in score"
    )


def _real_images(config: ExportConfig, trained: Trained, size: int) -> Tensor:
    """(B, 3, size, size) of the val split, up to four."""
    dataset = open_dataset(config.data or trained.config.data, "val")
    batch = next(iter(evaluation_batches(dataset, size, 4, 0, 1, 0)))
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
        job.model, (job.images[:2],), job.file, dynamo=False, opset_version=17,
        input_names=["images"], output_names=["boxes", "scores"], dynamic_axes=free,
    )  # fmt: skip
    model = onnx.load(job.file)
    onnx.helper.set_model_props(model, job.metadata)
    onnx.save(model, job.file)
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
    openvino.save_model(model, job.file, compress_to_fp16=False)
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
