"""The update of one rank: from the folder of its run, or from a table of published ones."""

import itertools
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvd_yolo.config import from_yaml
from hvd_yolo.errors import InputError
from hvd_yolo.plan.gradients import Layer


@dataclass(frozen=True)
class Step:
    """An update of one rank. seconds: its length; images: in it; model: its name, or empty where
    `parameters` or `layers` tell; jitter: standard deviation over mean of its length, None if
    unknown; num_images, epochs, cycle_ms: of the training it comes from, 0 if unknown; backward:
    the share of a pass that is its backward part (of a YOLO one half: forward 42 %, loss 5 %)."""

    seconds: float
    images: int
    source: str
    model: str = ""
    num_classes: int = 80
    parameters: int = 0
    layers: tuple[Layer, ...] = ()
    device: str = "cuda"
    threads: int = 1
    passes: int = 1
    jitter: float | None = None
    jitter_source: str = "assumed"
    num_images: int = 0
    epochs: int = 0
    groups: int = 4
    backward: float = 0.5
    cycle_ms: float = 0.0


def _vgg16() -> tuple[Layer, ...]:
    """Simonyan and Zisserman 2015, table 1, D: channels in and out and side of the output."""
    convolutions = (
        (3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56),
        (256, 256, 56), (256, 256, 56), (256, 512, 28), (512, 512, 28), (512, 512, 28),
        (512, 512, 14), (512, 512, 14), (512, 512, 14),
    )  # fmt: skip
    dense = ((25088, 4096), (4096, 4096), (4096, 1000))
    found = [Layer((b, a, 3, 3), 9.0 * a * b * side**2) for a, b, side in convolutions]
    return (*found, *(Layer((b, a), 1.0 * a * b) for a, b in dense))


# Images of one size and no augmentation: 8 P100 do 97.5 % of 8 x one with ResNet-152 (TensorFlow's
# page, below), so their steps hardly vary.
_SYNTHETIC_JITTER = 0.01
# Two products for each of the forward pass, and a loss of no account.
_CLASSIFIER = 2 / 3
# Horovod sums what has come in each cycle, up to 64 MB at once; so many groups stand for it.
_FUSED = 16
_TENSORFLOW = "tensorflow.org/performance/benchmarks (May 2017), one P100, synthetic images"
_COCO = 118_287
PUBLISHED = {
    "yolov5l-a100": Step(
        1239 / (_COCO / 16), 16, "YOLOv5's table: an epoch of COCO in 20:39 on one A100",
        model="yolov5l", num_images=_COCO, epochs=300,
    ),
    "resnet101-p100": Step(
        # Between ResNet-50 (219 images/s, 4.1 GFLOPs) and ResNet-152 (91.8, 11.6), by GFLOPs (7.9).
        64 * ((1 / 219) + (1 / 91.8)) / 2, 64, f"{_TENSORFLOW}, between ResNet-50 and ResNet-152",
        parameters=44_549_160, jitter=_SYNTHETIC_JITTER, num_images=1_281_167, epochs=90,
        groups=_FUSED, backward=_CLASSIFIER,
    ),
    "vgg16-p100": Step(
        64 / 154, 64, _TENSORFLOW, layers=_vgg16(), jitter=_SYNTHETIC_JITTER,
        num_images=1_281_167, epochs=90, groups=_FUSED, backward=_CLASSIFIER,
    ),
}  # fmt: skip


def published(name: str) -> Step:
    """The table's entry of that name; InputError when there is none."""
    if name not in PUBLISHED:
        raise InputError(f"published {name}: there is {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def measured(folder: Path) -> Step:
    """The median update of a run on one rank, from its metrics.jsonl, config.yaml and
    environment.json; the first train line is left out, for it has the start in it.

    Raises InputError when the folder holds no run, one of several ranks, one with train.sync_bn, or
    fewer than two train lines.
    """
    lines = [line for line in _lines(folder) if line.get("kind") == "train"]
    if len(lines) < 2:
        raise InputError(
            f"run {folder}: {len(lines)} train lines in metrics.jsonl, two are needed at least; "
            "let it go on, or write them more often (--report.every)"
        )
    config = from_yaml(_read(folder / "config.yaml"))
    starts = json.loads(_read(folder / "environment.json"))
    most = max(len(start["ranks"]) for start in starts)
    if most > 1:
        raise InputError(f"run {folder}: {most} ranks; a plan starts from a run on one")
    if config.train.sync_bn:
        raise InputError(
            f"run {folder}: train.sync_bn, whose sums in every BatchNorm layer are not in a plan; "
            "start from a run without it, and expect less than the plan says"
        )
    updates, seconds = [], []
    for before, line in itertools.pairwise(lines):
        updates.append(line["step"] - before["step"])
        seconds.append(line["images"] / line["images_per_s"] / updates[-1])
    rank = starts[-1]["ranks"][0]
    on_cpu = rank["device"] == "cpu"
    jitter = _jitter(seconds, updates)
    num_images = sum(line["images"] for line in lines) / lines[-1]["epoch"]
    images = config.global_batch or config.batch_size * config.train.accumulate
    return Step(
        statistics.median(seconds),
        images,
        f"{folder}, {sum(updates)} updates",
        model=config.model,
        device="cpu" if on_cpu else "cuda",
        threads=rank["threads"] if on_cpu else 1,
        passes=-(-images // config.batch_size),
        jitter=jitter,
        jitter_source="assumed" if jitter is None else "measured",
        num_images=round(num_images),
        epochs=config.epochs,
        groups=config.comm.groups,
        cycle_ms=config.comm.cycle_ms,
    )


def _jitter(seconds: list[float], updates: list[int]) -> float | None:
    """Standard deviation of one update over the mean, from means over `updates` of them.

    From differences of neighbours, whose slow changes (warmth, another job) all ranks would share,
    and from their median, which one hiccup does not move: that of the absolute value of a normal
    variable is 0.6745 of its standard deviation.
    """
    if len(seconds) < 4:
        return None
    steps = [abs(a - b) for a, b in itertools.pairwise(seconds)]
    deviation = statistics.median(steps) / 0.6745 / 2**0.5
    return deviation * statistics.mean(updates) ** 0.5 / statistics.median(seconds)


def _lines(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    found = []
    for number, line in enumerate(_read(file).splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise InputError(
                f"run {folder}: line {number} of metrics.jsonl is no JSON ({error}); remove it"
            ) from error
    return found


def _read(file: Path) -> str:
    if not file.is_file():
        raise InputError(f"run {file.parent}: {file.name} is missing; --run takes a run's folder")
    return file.read_text(encoding="utf-8")
