"""Our names of a built-in model's tensors, and those of published checkpoints."""

import torch
from torch import Tensor, nn

from hvd_yolo.models.anchor_head import AnchorHead
from hvd_yolo.models.distances import DISTANCE_BINS
from hvd_yolo.models.heads import DualHead
from hvd_yolo.models.pyramid import YOLO
from hvd_yolo.models.yolox_head import DecoupledHead

_HEAD = {"head.box_towers.": "cv2.", "head.class_towers.": "cv3."}
_DUAL_HEAD = {
    "head.many.box_towers.": "cv2.",
    "head.many.class_towers.": "cv3.",
    "head.one.box_towers.": "one2one_cv2.",
    "head.one.class_towers.": "one2one_cv3.",
}
_YOLOX = {
    "backbone.stages.0.0.": "backbone.backbone.stem.",
    **{f"backbone.stages.{i}.": f"backbone.backbone.dark{i + 1}." for i in range(1, 5)},
    "neck.reduces.0.": "backbone.lateral_conv0.",
    "neck.reduces.1.": "backbone.reduce_conv1.",
    "neck.top_down.0.": "backbone.C3_p4.",
    "neck.top_down.1.": "backbone.C3_p3.",
    "neck.downs.0.": "backbone.bu_conv2.",
    "neck.downs.1.": "backbone.bu_conv1.",
    "neck.bottom_up.0.": "backbone.C3_n3.",
    "neck.bottom_up.1.": "backbone.C3_n4.",
    "head.": "head.",
}
_YOLOX_STEM = "backbone.stages.0.0.conv.conv.weight"


def to_ours(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a published checkpoint under the names of `model`; those that are so already,
    or of an unknown kind, stay as they are."""
    if not isinstance(model, YOLO):
        return tensors
    if "backbone.backbone.stem.conv.conv.weight" in tensors:
        return _from_yolox(tensors, model)
    if not any(name.startswith("model.0.") for name in tensors):
        return tensors
    theirs_of = _ultralytics_names(model)
    found = {ours: tensors[theirs] for ours, theirs in theirs_of.items() if theirs in tensors}
    if isinstance(model.head, AnchorHead) and "head.anchors" in found:
        # They are kept in strides there.
        strides = torch.tensor(model.head.strides, dtype=torch.float32)[:, None, None]
        found["head.anchors"] = found["head.anchors"].float() * strides
    return found


def to_ultralytics(model: YOLO) -> dict[str, Tensor]:
    """The state dict of the model as the ultralytics package names it, for its load_state_dict."""
    own = model.state_dict()
    found = {theirs: own[ours] for ours, theirs in _ultralytics_names(model).items()}
    head = _layers(model)[-1][0]
    if isinstance(model.head, AnchorHead):
        strides = own["head.anchors"].new_tensor(model.head.strides)[:, None, None]
        found[f"model.{head}.anchors"] = own["head.anchors"] / strides
    else:
        # Their distance decoder is a convolution with fixed weights.
        bins = torch.arange(DISTANCE_BINS, dtype=torch.float32)
        found[f"model.{head}.dfl.conv.weight"] = bins.view(1, -1, 1, 1)
    return found


def _ultralytics_names(model: YOLO) -> dict[str, str]:
    """Our name to theirs, of every tensor they have as well."""
    prefixes = {ours: f"model.{index}." for index, ours in _layers(model)}
    index = _layers(model)[-1][0]
    parts = _DUAL_HEAD if isinstance(model.head, DualHead) else _HEAD
    if isinstance(model.head, AnchorHead):
        parts = {"head.": ""}
    prefixes |= {ours: f"model.{index}.{theirs}" for ours, theirs in parts.items()}
    return _renamed(model.state_dict(), prefixes)


def _layers(model: YOLO) -> list[tuple[int, str]]:
    """(index, our prefix) of the layers with weights, in the order of the published
    configurations."""
    layers = [
        f"backbone.stages.{i}.{j}."
        for i, stage in enumerate(model.backbone.stages)
        for j in range(len(stage))
    ]
    for i, reduce in enumerate(model.neck.reduces):
        layers += [] if isinstance(reduce, nn.Identity) else [f"neck.reduces.{i}."]
        # Upsampling and concatenation are layers there.
        layers += ["", "", f"neck.top_down.{i}."]
    for i in range(len(model.neck.downs)):
        layers += [f"neck.downs.{i}.", "", f"neck.bottom_up.{i}."]
    return [(index, prefix) for index, prefix in enumerate([*layers, "head."]) if prefix]


def _from_yolox(tensors: dict[str, Tensor], model: YOLO) -> dict[str, Tensor]:
    """As _ultralytics_names; YOLOX looks at BGR of 0..255, which goes into the first kernel."""
    if not isinstance(model.head, DecoupledHead):
        return {}
    found = {}
    for ours, theirs in _renamed(model.state_dict(), _YOLOX).items():
        parts = theirs.split(".")
        parts = [f"conv{p[2:]}" if p in ("cv1", "cv2", "cv3") else p for p in parts]
        if ".".join(parts) in tensors:
            found[ours] = tensors[".".join(parts)]
    # Four neighbouring pixels of three colours each.
    kernel = found[_YOLOX_STEM].float()
    found[_YOLOX_STEM] = kernel.unflatten(1, (4, 3)).flip(2).flatten(1, 2) * 255
    return found


def _renamed(names: dict[str, Tensor], prefixes: dict[str, str]) -> dict[str, str]:
    """Each name to the one with its longest known prefix replaced."""
    found = {}
    for name in names:
        known = [prefix for prefix in prefixes if name.startswith(prefix)]
        if known:
            longest = max(known, key=len)
            found[name] = prefixes[longest] + name.removeprefix(longest)
    return found
