"""What a plan starts from: the update of one rank and the hosts, of the command line or of what was
measured, with every gap filled and said."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from hvd_yolo.comm.horovod_settings import CPU_CYCLE_MS
from hvd_yolo.config.plan_verb import CostConfig, PlanConfig
from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model
from hvd_yolo.plan.gradients import Layer, group_gradients, model_layers, uniform_layers
from hvd_yolo.plan.links import open_link
from hvd_yolo.plan.steps import Step, measured, published
from hvd_yolo.plan.timing import (
    COMPRESSIONS,
    Cluster,
    Compression,
    Prediction,
    Work,
    can_be_hierarchical,
    predict,
)

# Seconds a GB of gradients. CPU: about what casts, products of rank 4 and torch.topk of a YOLOv8n's
# gradients took one core of an EPYC. GPU: not measured; passes over memory at about 1 TB/s, and for
# PowerSGD its many small products.
_COST = {
    "cpu": {"none": 0.0, "fp16": 0.2, "bf16": 0.2, "powersgd": 1.0, "topk": 5.0},
    "cuda": {"none": 0.0, "fp16": 0.01, "bf16": 0.01, "powersgd": 0.1, "topk": 0.3},
}
# What several ranks add where no run tells. On GPUs the two are chosen together so that both
# published tables of YOLO on A100s (v5l on 2, 4 and 8, v8l on 8) come out within 5 points, see
# tests/plan/test_anchors.py. On CPUs: two ranks do 97 % of two lone processes (benchmarks), and
# updates of one size vary by about 3 %.
_OVERHEAD = {"cpu": 0.02, "cuda": 0.05}
_JITTER = {"cpu": 0.03, "cuda": 0.08}
# Of training on CPUs; on GPUs it leaves Horovod its own.
_CYCLE_MS = {"cpu": CPU_CYCLE_MS, "cuda": 1.0}
_COCO_IMAGES = 118_287


def make_work(config: PlanConfig, step: Step) -> Work:
    """The update of one rank as the predictions take it."""
    return Work(
        step.seconds,
        step.images,
        step.backward / step.passes,
        step.threads,
        step.jitter,
        _OVERHEAD[step.device] if config.overhead < 0 else config.overhead,
        group_gradients(_layers(step), step.groups),
    )


def make_cluster(config: PlanConfig, step: Step) -> Cluster:
    """Hosts and links. A rank on a CPU computes on all the cores it has, so that moving bytes takes
    them from it; to ranks on GPUs cores are free where nothing is said of them."""
    on_cpu = step.device == "cpu"
    per_host = config.ranks_per_host or (1 if on_cpu else 8)
    sharing = config.cores_shared_by or per_host
    enough = sharing * step.threads if on_cpu else math.inf
    inner = config.inner_link or ("loopback" if on_cpu else "NVLink")
    cycle = step.cycle_ms / 1e3
    return Cluster(
        open_link(inner, cycle, 1), open_link(config.link, cycle, 2), per_host,
        config.cores or enough, sharing, config.loader_rate or math.inf,
    )  # fmt: skip


def predict_all(
    config: PlanConfig, step: Step, work: Work, cluster: Cluster, sizes: Sequence[int]
) -> list[Prediction]:
    """Every size with every compression asked for, by ring and, where there are hosts of several
    GPUs, hierarchically: Horovod does that with NCCL alone."""
    names = COMPRESSIONS if config.compression == "all" else (config.compression,)
    if config.sync_every > 1:
        names = ("none",)
    found = []
    for name in names:
        compression = Compression(
            name, config.powersgd_rank, config.topk_share, _cost(config.cost, name, step.device)
        )
        for size in sizes:
            kinds = ["ring"]
            if step.device == "cuda" and can_be_hierarchical(cluster, name, size):
                kinds.append("hierarchical")
            found += [
                predict(work, cluster, compression, size, kind, config.sync_every) for kind in kinds
            ]
    return found


def find_step(config: PlanConfig) -> Step:
    """The update of one rank, with what the command line says otherwise, and every gap filled."""
    step = _given_step(config)
    device = step.device if config.device == "auto" else config.device
    changes = {
        "device": device,
        "num_classes": config.num_classes,
        "jitter": _JITTER[device] if step.jitter is None else step.jitter,
        "num_images": step.num_images or _COCO_IMAGES,
        "epochs": step.epochs or 300,
        "cycle_ms": step.cycle_ms or _CYCLE_MS[device],
    }
    for name in ("num_images", "epochs", "threads", "passes", "groups", "backward", "cycle_ms"):
        changes |= {name: getattr(config, name)} if getattr(config, name) else {}
    if config.jitter >= 0:
        changes |= {"jitter": config.jitter, "jitter_source": "given"}
    if config.model:
        changes |= {"model": config.model, "parameters": 0, "layers": ()}
    if config.parameters:
        changes |= {"model": "", "parameters": config.parameters, "layers": ()}
    return dataclasses.replace(step, **changes)


def _given_step(config: PlanConfig) -> Step:
    sources = [name for name in ("run", "published", "seconds") if getattr(config, name)]
    if len(sources) != 1:
        given = " and ".join(sources) or "none of them"
        raise InputError(
            f"a plan starts from one of --run RUN, --published NAME and --seconds S, here {given}"
        )
    if config.run:
        return measured(Path(config.run))
    if config.published:
        return published(config.published)
    if not config.batch_size:
        raise InputError("batch_size is missing: --seconds needs the images of that update")
    return Step(config.seconds, config.batch_size, "given", model="yolov8n")


def _layers(step: Step) -> Sequence[Layer]:
    if step.layers:
        return step.layers
    if step.parameters:
        return uniform_layers(step.parameters)
    return model_layers(build_model(step.model, step.num_classes))


def job_sizes(text: str) -> list[int]:
    """The numbers of ranks asked for, ascending."""
    if not text:
        return [2**i for i in range(11)]
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise InputError(f"ranks {text}: numbers, comma separated, as 1,2,4,8") from error
    if sizes[0] < 1:
        raise InputError(f"ranks {text}: there are no jobs of {sizes[0]} ranks")
    return sizes


def _cost(cost: CostConfig, name: str, device: str) -> float:
    """Seconds a byte of gradient."""
    given = dataclasses.asdict(cost).get(name, -1.0)
    return (_COST[device][name] if given < 0 else given) * 1e-9


def assumptions(config: PlanConfig, step: Step, work: Work, cluster: Cluster) -> str:
    """What the predictions rest on, in a few lines."""
    weights = sum(math.prod(shape) for group in work.groups for shape in group.shapes)
    lines = [
        f"update: {work.seconds:.4g} s for {work.images} images on one rank ({step.source}), "
        f"backward {step.backward:.0%} of a pass, {step.passes} a step",
        f"gradients: {weights:,} float32 numbers, {4e-6 * weights:.1f} MB, in {len(work.groups)} "
        f"groups, released after "
        + ", ".join(f"{group.release:.0%}" for group in work.groups)
        + " of the backward pass",
    ]
    links = {"between hosts": cluster.outer, "within a host": cluster.inner}
    if cluster.ranks_per_host == 1:
        del links["within a host"]
    for where, link in links.items():
        lines.append(
            f"link {where}: {link.name}, {link.bandwidth / 1e6:.4g} MB/s usable each way, "
            f"{link.latency * 1e6:.3g} us a hop, {link.start * 1e3:.3g} ms to start ({link.source})"
        )
    shared = (
        f", {cluster.cores:g} cores for {cluster.sharing} ranks of {work.threads} threads"
        if math.isfinite(cluster.cores)
        else ""
    )
    costs = ", ".join(
        f"{name} {_cost(config.cost, name, step.device) * 1e9:g}" for name in COMPRESSIONS[1:]
    )
    return "\n".join([
        *lines,
        f"hosts: {cluster.ranks_per_host} ranks each{shared}; an update varies by "
        f"{work.jitter:.1%} ({step.jitter_source}) and all wait for the slowest; hooks add "
        f"{work.overhead:.0%}",
        f"compression: seconds a GB of gradients {costs}; PowerSGD of rank "
        f"{config.powersgd_rank}, top-k of {config.topk_share:g}",
        f"engine: looks for work every {step.cycle_ms:g} ms",
        "left out: evaluation and checkpoints, train.sync_bn, and that comm.warmup epochs are "
        "whole gradients before powersgd, topk or local SGD begins",
    ])  # fmt: skip
