"""From a command line and YAML files to a Config, refusing whatever is not an option."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from hvd_yolo.config.extras import check_loggers
from hvd_yolo.config.hints import hint
from hvd_yolo.config.options import Config
from hvd_yolo.config.resuming import refuse_bare_resume, run_folder
from hvd_yolo.errors import InputError

if TYPE_CHECKING:
    import jsonargparse

T = TypeVar("T")
_TRAIN = "hvd_yolo.train"

# Keys that may change on resume: they move no weight. Whole sections end with a dot.
_FREE_ON_RESUME = (
    "output", "resume", "override", "workers", "device", "max_hours",
    "loader.", "checkpoint.", "eval.", "report.", "comm.backend", "comm.groups", "comm.cycle_ms",
    "comm.fusion_mb", "comm.hierarchical", "comm.timeline", "comm.stall_timeout",
)  # fmt: skip
# But not this: it scales the pixels.
_NOT_FREE_ON_RESUME = ("loader.value_range",)
# And where ranks keep something to themselves, these say when they put it together.
_WHERE_RANKS_MEET = ("checkpoint.every_updates", "eval.every_updates", "comm.groups")


def load(argv: Sequence[str]) -> Config:
    """The config that a command line asks for: defaults, then `--config FILE`, then `--key value`.

    With `--resume RUN`, or an `--output` folder that already holds a run, that run's own
    config.yaml comes before the command line, and a key that changes the mathematics is refused
    unless `--override` names it. Raises InputError naming the key or the file; `--help` prints
    every option and exits.
    """
    config = parse_train(argv)
    folder = run_folder(config.resume) if config.resume else config.output
    saved_file = Path(folder, "config.yaml")
    if folder and saved_file.is_file():
        saved = parse(Config, ["--config", str(saved_file)], _TRAIN)
        config = parse(Config, ["--config", str(saved_file), *argv], _TRAIN)
        _keep_choices(saved, config)
        _refuse_changes(saved, config, saved_file)
        config = dataclasses.replace(config, output=folder, resume=folder)
    _check_training(config)
    return config


def parse_train(argv: Sequence[str]) -> Config:
    """What the command line says by itself, without a look at the run that it may continue."""
    refuse_bare_resume(argv)
    return parse(Config, argv, _TRAIN)


def to_yaml(config: Config) -> str:
    """Every key as YAML, the way config.yaml holds it; what only steers a resume is left empty."""
    values = dataclasses.asdict(dataclasses.replace(config, resume="", override=""))
    return yaml.safe_dump(values, sort_keys=False)


def from_yaml(text: str) -> Config:
    """The Config that `to_yaml` wrote; an unknown key or a wrong type raises InputError."""
    return _instantiate(Config, _TRAIN, lambda parser: parser.parse_string(text))


def flatten(config: object) -> dict[str, Any]:
    """`{"optim.lr": 0.001, ...}`: every option by its full key."""
    flat = {}
    for key, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": item for inner, item in value.items()})
        else:
            flat[key] = value
    return flat


def parse(kind: type[T], argv: Sequence[str], prog: str) -> T:
    """An instance of the options dataclass `kind` from `--config FILE` and `--key value`; raises
    InputError."""
    return _instantiate(kind, prog, lambda parser: parser.parse_args(list(argv)))


def _instantiate(
    kind: type[T],
    prog: str,
    parse: "Callable[[jsonargparse.ArgumentParser], jsonargparse.Namespace]",
) -> T:
    # Here, for loader processes import the options but parse none: 8 MB in each of them.
    import jsonargparse

    parser = jsonargparse.ArgumentParser(
        prog=f"python -m {prog}",
        description=kind.__doc__.split("\n")[0],
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below.")
    parser.add_class_arguments(kind, as_group=False)
    try:
        values = parse(parser).as_dict()
    except (jsonargparse.ArgumentError, TypeError, ValueError, OSError) as error:
        message = re.sub(r"\s*\n\s*", " ", str(error)).replace(
            "unrecognized arguments", "unknown key"
        )
        meant = hint(message, _known_keys(kind))
        raise InputError(
            f"{message}{'; ' if meant else ''}{meant} (python -m {prog} --help lists every key)"
        ) from error
    arguments = {}
    for item in dataclasses.fields(kind):
        section = item.default_factory
        value = values[item.name]
        arguments[item.name] = value if section is dataclasses.MISSING else section(**value)
    return kind(**arguments)


def _known_keys(kind: type) -> dict[str, Any]:
    """Every key of an options dataclass, with the type of its value."""
    keys: dict[str, Any] = {"config": str}
    for item in dataclasses.fields(kind):
        if item.default_factory is dataclasses.MISSING:
            keys[item.name] = item.type
        else:
            inner = dataclasses.fields(item.default_factory)
            keys |= {f"{item.name}.{one.name}": one.type for one in inner}
    return keys


def _keep_choices(saved: Config, config: Config) -> None:
    """What the run chose by itself when it started stays, also when the command line asks it to
    choose."""
    allowed = overridden(config)
    if config.train.amp == "auto" and "train.amp" not in allowed:
        config.train.amp = saved.train.amp
    if config.batch_size == -1 and "batch_size" not in allowed:
        config.batch_size = saved.batch_size
    if config.loader.value_range == 0 and "loader.value_range" not in allowed:
        config.loader.value_range = saved.loader.value_range


def overridden(config: Config) -> set[str]:
    """The keys that --override names."""
    return {key.strip() for key in config.override.split(",") if key.strip()}


def _refuse_changes(saved: Config, config: Config, saved_file: Path) -> None:
    allowed = overridden(config)
    old, new = flatten(saved), flatten(config)
    for key in sorted(allowed - old.keys()):
        raise InputError(f"--override {key}: there is no such key")
    keeps = config.comm.is_lossy or not config.comm.shares_every_update
    for key, value in new.items():
        is_free = key in _FREE_ON_RESUME or key.startswith(
            tuple(k for k in _FREE_ON_RESUME if k.endswith("."))
        )
        is_free = is_free and key not in _NOT_FREE_ON_RESUME
        is_free = is_free and not (keeps and key in _WHERE_RANKS_MEET)
        if value != old[key] and not is_free and key not in allowed:
            raise InputError(
                f"{key} is {value!r}, but the run in {saved_file.parent} was started with "
                f"{old[key]!r}. "
                f"To resume it leave {key} out, to change it all the same add --override {key}, "
                "or choose another --output for a new run"
            )


def check_values(config: object) -> None:
    """Raises InputError for a value that its type allows and its meaning does not."""
    flat = flatten(config)
    for key, (least, most) in _RANGES.items():
        value = flat.get(key, least)
        if not least <= value <= most:
            between = f"between {least} and {most}" if most < math.inf else f"at least {least}"
            raise InputError(f"{key} is {value}, it must be {between}")
    max_dets = flat.get("eval.max_dets", [1, 1, 1])
    if len(max_dets) != 3 or sorted(max_dets) != max_dets or max_dets[0] < 1:
        raise InputError(
            f"eval.max_dets is {max_dets}, it must be three numbers from 1 on, none smaller than "
            'the one before: "[1,10,100]"'
        )
    if flat["imgsz"] % 32:
        raise InputError(
            f"imgsz is {flat['imgsz']}, it must be a multiple of 32, the largest stride"
        )


def _check_training(config: Config) -> None:
    # -1 is a batch size that is found later.
    check_values(dataclasses.replace(config, batch_size=1) if config.batch_size == -1 else config)
    keeps_own = config.comm.is_lossy or not config.comm.shares_every_update
    if config.train.on_divergence == "rollback" and keeps_own:
        raise InputError(
            "train.on_divergence rollback: ranks that keep something to themselves "
            "(comm.compression powersgd and topk, comm.sync_every, comm.op adasum) cannot go back "
            "to a checkpoint without a restart; leave it out"
        )
    for key, options in (("checkpoint", config.checkpoint), ("eval", config.eval)):
        if options.every_minutes and keeps_own:
            raise InputError(
                f"{key}.every_minutes: ranks that keep something to themselves (comm.compression "
                "powersgd and topk, comm.sync_every, comm.op adasum) put it together there, so the "
                f"clock would change the result; take {key}.every_updates"
            )
    if config.eval.metric == "val_loss" and not config.eval.loss:
        raise InputError("eval.metric val_loss needs --eval.loss true")
    if config.imgsz == 0:
        raise InputError("imgsz is 0, it must be at least 32")
    if config.global_batch and config.train.accumulate != 1:
        raise InputError(
            "global_batch and train.accumulate both set the images per update: with global_batch "
            "the "
            "passes follow from batch_size, so leave train.accumulate out"
        )
    if config.order.rect and not config.global_batch:
        raise InputError(
            "order.rect cuts its updates from images sorted by shape, which must not depend on the "
            "number of ranks: give --global_batch"
        )
    _check_local_updates(config)
    check_loggers(config.report)
    for key, amp in (("train.amp", config.train.amp), ("eval.amp", config.eval.amp)):
        if config.train.dtype == "float64" and amp not in ("auto", "none"):
            raise InputError(f"{key} needs train.dtype float32")
    if config.train.compile:
        _check_compiled(config)


def _check_compiled(config: Config) -> None:
    """What does not go with train.compile."""
    if ":" in config.model:
        raise InputError(
            f"train.compile: {config.model} is no built-in model; let it use torch.compile itself"
        )
    for key in ("sync_bn", "checkpoint_activations"):
        if flatten(config)[f"train.{key}"]:
            raise InputError(
                f"train.compile does not go with train.{key}: choose one; both divide the model "
                "into many small graphs"
            )


def _check_local_updates(config: Config) -> None:
    """What does not go with updates that each rank makes on its own."""
    if config.comm.shares_every_update:
        return
    asked = "comm.op adasum" if config.comm.op == "adasum" else "comm.sync_every above 1"
    if config.comm.compression != "none":
        raise InputError(f"{asked} sends no gradients: leave comm.compression out")
    if config.comm.op == "adasum" and config.global_batch:
        raise InputError(
            "comm.op adasum adds up what ranks do on their own batches: give batch_size, not "
            "global_batch"
        )
    if config.train.sync_bn:
        raise InputError(f"{asked} lets ranks run apart, train.sync_bn does not: choose one")
    if config.train.amp == "fp16":
        raise InputError(
            f"{asked}: each rank would have a loss scale of its own; take train.amp bf16 or none"
        )


# Least and most; a perspective beyond 0.001 or a zoom to nothing turns pictures inside out.
_RANGES = {
    "imgsz": (0, math.inf), "epochs": (1, 1 << 24), "batch_size": (1, math.inf),
    "global_batch": (0, math.inf), "max_updates": (0, math.inf), "max_hours": (0, math.inf),
    "checkpoint.every_updates": (0, math.inf), "checkpoint.every_minutes": (0, math.inf),
    "checkpoint.every_epochs": (0, math.inf), "checkpoint.keep": (1, math.inf),
    "workers": (-1, math.inf),
    "seed": (0, (1 << 63) - 1), "train.accumulate": (1, math.inf),
    "train.max_bad_updates": (0, math.inf), "comm.groups": (1, math.inf),
    "comm.commit_every": (1, math.inf),
    "comm.cycle_ms": (0, math.inf), "comm.fusion_mb": (0, math.inf),
    "comm.powersgd_rank": (1, math.inf), "comm.topk_share": (1e-6, 1),
    "comm.sync_every": (1, math.inf), "comm.warmup": (0, math.inf),
    "comm.stall_timeout": (0, math.inf),
    "optim.trust_coefficient": (0, math.inf), "optim.lamb_eps": (0, math.inf),
    "loader.prefetch": (1, math.inf), "loader.max_unreadable": (0, math.inf),
    "loader.pin_memory_mb": (0, math.inf), "loader.value_range": (0, math.inf),
    "report.every": (1, math.inf), "eval.patience": (0, math.inf), "distill.cls": (0, math.inf),
    "distill.box": (0, math.inf), "distill.feature": (0, math.inf),
    "distill.temperature": (0.01, math.inf), "eval.every": (0, math.inf),
    "eval.every_updates": (0, math.inf), "eval.every_minutes": (0, math.inf),
    "eval.batch_size": (0, math.inf), "conf": (0, 1), "iou": (0, 1),
    "max_detections": (1, math.inf), "eval.conf": (0, 1), "eval.iou": (0, 1), "fuse.iou": (0, 1),
    "eval.max_detections": (1, math.inf), "eval.max_unreadable": (0, math.inf),
    "order.multi_scale": (0, 0.9), "order.class_balance": (0, 1),
    "augment.scale": (0, 0.99), "augment.perspective": (0, 0.001),
    "augment.translate": (0, 1), "augment.mosaic": (0, 1), "augment.mixup": (0, 1),
    "augment.cutmix": (0, 1), "augment.crop": (0, 1), "augment.fliplr": (0, 1),
    "augment.flipud": (0, 1), "augment.hsv_h": (0, 1), "augment.hsv_s": (0, 1),
    "augment.hsv_v": (0, 1),
}  # fmt: skip
