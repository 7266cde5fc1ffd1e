"""What a word that is no option was probably meant to be: "did you mean --batch_size?"."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

# The names of Ultralytics, YOLOv5 and their relatives that close spelling does not find, with the
# keys here; the first that the verb has is suggested.
_ALIASES: dict[str, tuple[str, ...]] = {
    "b": ("batch_size",), "bs": ("batch_size",), "batch": ("batch_size",),
    "total_batch_size": ("global_batch",), "nbs": ("global_batch",),
    "img": ("imgsz",), "imgs": ("imgsz",), "img_size": ("imgsz",), "image_size": ("imgsz",),
    "size": ("imgsz",), "imgsize": ("imgsz",), "input_size": ("imgsz",), "resolution": ("imgsz",),
    "e": ("epochs",), "epoch": ("epochs",), "num_epochs": ("epochs",), "max_epochs": ("epochs",),
    "j": ("workers",), "num_workers": ("workers",), "threads": ("workers",),
    "iterations": ("max_updates",), "max_steps": ("max_updates",), "steps": ("max_updates",),
    "time": ("max_hours",),
    "lr0": ("optim.lr",), "learning_rate": ("optim.lr",), "lrf": ("optim.final_lr",),
    "opt": ("optim.name",), "optimizer": ("optim.name",), "cos_lr": ("optim.schedule",),
    "warmup_bias_lr": ("optim.warmup_start",), "ema": ("optim.ema_decay",),
    "clip": ("optim.clip_norm",), "grad_clip": ("optim.clip_norm",),
    "cfg": ("model",), "arch": ("model",), "pretrained": ("weights",), "checkpoint": ("weights",),
    "ckpt": ("weights",), "model": ("weights",), "m": ("model", "weights"), "w": ("weights",),
    "hyp": ("config",), "project": ("output",), "name": ("output",), "save_dir": ("output",),
    "outdir": ("output",), "output_dir": ("output",), "out": ("output",), "o": ("output",),
    "exist_ok": ("output",), "dataset": ("data",), "d": ("data",), "task": ("split",),
    "gpus": ("device",), "gpu": ("device",), "cuda": ("device",),
    "half": ("half", "train.amp"), "fp16": ("half", "train.amp"), "mixed_precision": ("train.amp",),
    "use_amp": ("train.amp",), "nmbs": ("train.accumulate",),
    "save_period": ("checkpoint.every_epochs",), "cache_images": ("loader.cache",),
    "early_stopping": ("eval.patience",), "val": ("eval.every",), "noval": ("eval.every",),
    "noplots": ("report.plots",), "noautoanchor": ("train.autoanchor",),
    "grad_checkpointing": ("train.checkpoint_activations",), "distill": ("teacher",),
    "conf_thres": ("conf", "eval.conf"), "conf_threshold": ("conf", "eval.conf"),
    "score_thr": ("conf", "eval.conf"), "iou_thres": ("iou", "eval.iou"),
    "nms_iou": ("iou", "eval.iou"), "max_det": ("max_detections", "eval.max_detections"),
    "save_json": ("results",), "include": ("format",), "input": ("source",),
    "h": ("hosts",), "host": ("hosts",), "machinefile": ("hostfile",),
    "n": ("np",), "num_proc": ("np",),
}  # fmt: skip

# What no option does, and what does it.
_ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(
        ("nproc", "nproc_per_node", "np", "world_size", "nnodes", "local_rank", "num_gpus"),
        "the launcher starts the ranks: horovodrun -np N python -m hvd_yolo.VERB ...",
    ),
    **dict.fromkeys(
        ("save_txt", "save_conf", "verbose", "deterministic", "exist_ok"),
        "that needs no option here: leave it out",
    ),
    "single_cls": "there is no such mode: give the data set one class",
    "simplify": "there is none: onnxsim FILE OUT simplifies a file that was exported",
    "dynamic": "there is none: ONNX and OpenVINO files take any batch and size",
    "int8": "there is none: quantize the file that was exported",
    "evolve": "hvd_yolo.tune searches for hyperparameters",
}

# Why a usual value is refused.
_VALUES = (
    (r'Parser key "device".*value: [\d,\[\]\s]+$',
     "a rank takes the GPU of its local rank; choose GPUs by CUDA_VISIBLE_DEVICES=0,1 and start a "
     "rank for each: horovodrun -np 2 ..."),
    (r'Parser key "optim":', "the optimizer is --optim.name, its rate --optim.lr"),
    (r'Parser key "train.amp".*value: (True|true)', "take bf16, fp16 or auto"),
    (r'Parser key "train.amp".*value: (False|false)', "take none"),
    (r'Parser key "loader.cache".*value: (True|true)', "take ram or disk"),
    (r'Parser key "loader.cache".*value: (False|false)', "take none"),
    (r'Parser key "imgsz".*value: \D*\d+\D+\d+',
     "inputs are square: give the long side; order.rect trains on rectangles"),
    (r'Parser key "batch_size".*value: 0?\.\d+$', "-1 finds the batch that fits into the memory"),
)  # fmt: skip


def hint(message: str, known: Mapping[str, Any]) -> str:
    """What to add to the message of a parser that refused its input, empty where nothing is known;
    `known`: the keys of the verb, with dots, and their types."""
    for pattern, remedy in _VALUES:
        if re.search(pattern, message):
            return remedy
    if match := re.search(r"argument --(\S+): expected one argument", message):
        return f"write --{match[1]} true" if known.get(match[1]) is bool else "give it a value"
    if match := re.search(r"Group '(\S+)' does not accept (?:nested )?option '([^'\s]+)", message):
        return _suggestion(f"{match[1]}.{match[2]}", known, "")
    if match := re.search(r"Option '([^'\s]+)' is not accepted", message):
        return _suggestion(match[1], known, "")
    if match := re.search(r"unknown key: (.*)", message):
        return "; ".join(filter(None, (_of_word(word, known) for word in match[1].split())))
    return ""


def _of_word(word: str, known: Mapping[str, Any]) -> str:
    """The hint for a word of the command line; empty for the value of an unknown key."""
    name, is_pair, value = word.partition("=")
    if re.fullmatch(r"--?[A-Za-z][\w.-]*", name):
        return _suggestion(name.lstrip("-"), known, "--")
    if is_pair and re.fullmatch(r"[A-Za-z][\w.]*", name):
        if name in known:
            return f"options are written --{name} {value}"
        return _suggestion(name, known, "--") or f"options are written --key value, not {word}"
    return ""


def _suggestion(name: str, known: Mapping[str, Any], dashes: str) -> str:
    plain = name.replace("-", "_").lower()
    found = _meant(plain, known)
    if plain in _ELSEWHERE and not found:
        return f"{dashes}{name}: {_ELSEWHERE[plain]}"
    if not found:
        return ""
    return f"{dashes}{name}: did you mean {' or '.join(f'{dashes}{key}' for key in found)}?"


def _meant(name: str, known: Iterable[str]) -> list[str]:
    """The keys that the name may stand for, up to three; names of whole words come before
    spelling."""
    known = list(known)
    if name in known:
        return [name]
    last = name.rpartition(".")[2]
    for word in (name, last):
        same = [key for key in known if key.rpartition(".")[2] == word]
        if same:
            return same[:3]
        found = [key for key in _ALIASES.get(word, ()) if key in known]
        if found:
            return found[:1]
    close = difflib.get_close_matches(name, known, 2, 0.75)
    if close:
        return close
    ends = {key.rpartition(".")[2]: key for key in reversed(known)}
    return [ends[end] for end in difflib.get_close_matches(last, ends, 2, 0.8)]
