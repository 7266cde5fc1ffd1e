"""The options of `python -m hvd_yolo.plan`."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveInt


@dataclass
class CostConfig:
    """Seconds that a compression takes a rank for each GB (10^9 bytes) of float32 gradients, there
    and back; -1: assumed, see hvd_yolo/plan/inputs.py.

    Args:
        fp16: of halving to fp16.
        bf16: of halving to bf16.
        powersgd: of PowerSGD.
        topk: of choosing the largest.
    """

    fp16: float = -1.0
    bf16: float = -1.0
    powersgd: float = -1.0
    topk: float = -1.0


@dataclass
class PlanConfig:
    """Predict the time of a training on 1 to 1024 ranks from the update of one rank and a link.

    Args:
        run: folder of a run on one rank, whose updates are the measure.
        published: in its place, an entry of the table: yolov5l-a100, resnet101-p100, vgg16-p100.
        seconds: in place of both, seconds of an update of one rank; needs batch_size.
        batch_size: images of that update.
        model: as in training; empty: that of the run or entry, or yolov8n.
        num_classes: of the model.
        parameters: number of weights of a model that cannot be built here; 0: model tells.
        device: of the ranks; auto: that of the run, else cuda.
        link: between hosts: 1GbE, 10GbE, 25GbE, 100G-IB, NVLink, loopback, or the file that
            `python -m hvd_yolo.doctor --json FILE` wrote on two hosts or more.
        inner_link: within a host, as link, or measured on one; empty: NVLink between GPUs, loopback
            between CPU ranks.
        cycle_ms: milliseconds between two looks of Horovod for work, as comm.cycle_ms; 0: as in the
            run, else what training takes: 20 on cpu, 1 on cuda.
        ranks: numbers of ranks, comma separated; empty: powers of two from 1 to 1024.
        ranks_per_host: 0: 8 on cuda, 1 on cpu.
        cores: that the ranks of a host share; 0: on cpu as many as the ranks were measured with, on
            cuda more than they need.
        cores_shared_by: ranks that share those cores, where they are not the ranks of a host, as
            with several containers on a machine; 0: ranks_per_host.
        threads: cores that a rank on cpu keeps busy; 0: as in the run, else 1.
        loader_rate: images a second that one core loads (benchmarks/data.py); with cores, a bound.
        groups: fixed groups of gradients, as comm.groups; 0: as in the run, else 4.
        passes: backward passes an update; 0: as in the run, else 1.
        backward: share of a pass that is its backward part; 0: as in the entry, else 0.5.
        jitter: standard deviation of an update over its mean; -1: from the run, else assumed.
        overhead: share that hooks and launches add on several ranks; -1: assumed.
        compression: to compare: all, or one of none, fp16, bf16, powersgd and topk.
        powersgd_rank: of the matrices that PowerSGD sends.
        topk_share: of the gradients that top-k sends.
        sync_every: weights are averaged every so many updates (local SGD) in place of gradients.
        cost: time of the compressions.
        epochs: passes over the images; 0: as in the run or entry, else 300.
        num_images: training images; 0: those of the run or entry, else 118287 (COCO).
        json: file to write every prediction to, as JSON.
        plot: PNG file to draw images/s and efficiency into.
    """

    run: str = ""
    published: str = ""
    seconds: NonNegativeFloat = 0.0
    batch_size: NonNegativeInt = 0
    model: str = ""
    num_classes: PositiveInt = 80
    parameters: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    link: str = "10GbE"
    inner_link: str = ""
    cycle_ms: NonNegativeFloat = 0.0
    ranks: str = ""
    ranks_per_host: NonNegativeInt = 0
    cores: NonNegativeFloat = 0.0
    cores_shared_by: NonNegativeInt = 0
    threads: NonNegativeInt = 0
    loader_rate: NonNegativeFloat = 0.0
    groups: NonNegativeInt = 0
    passes: NonNegativeInt = 0
    backward: ClosedUnitInterval = 0.0
    jitter: float = -1.0
    overhead: float = -1.0
    compression: Literal["all", "none", "fp16", "bf16", "powersgd", "topk"] = "all"
    powersgd_rank: PositiveInt = 8
    topk_share: ClosedUnitInterval = 0.01
    sync_every: PositiveInt = 1
    cost: CostConfig = field(default_factory=CostConfig)
    epochs: NonNegativeInt = 0
    num_images: NonNegativeInt = 0
    json: str = ""
    plot: str = ""
