"""YOLOv5 (release 6): C3 blocks, anchor-based head; with the anchor-free head of YOLOv8 as
yolov5nu and its like (Jocher 2020)."""

import itertools
from functools import partial

from torch import nn

from hvd_yolo.models.anchor_head import AnchorHead
from hvd_yolo.models.blocks import C3, SPPF, ConvNormAct
from hvd_yolo.models.heads import DetectHead
from hvd_yolo.models.pyramid import YOLO, Backbone, PathAggregation, Size, set_activation

_SIZES = {
    "n": Size(0.33, 0.25),
    "s": Size(0.33, 0.50),
    "m": Size(0.67, 0.75),
    "l": Size(1.00, 1.00),
    "x": Size(1.33, 1.25),
}
# The slope is that of the release.
_ACTIVATIONS = {"": nn.SiLU, "-relu": nn.ReLU, "-leakyrelu": partial(nn.LeakyReLU, 0.1)}

# yolov5s6 has a fourth level of stride 64, for images of 1280 pixels; yolov5su has the anchor-free
# head.
SIZES = {
    f"yolov5{letter}{levels}{head}{activation}": size
    for activation in _ACTIVATIONS
    for head in ("", "u")
    for levels in ("", "6")
    for letter, size in _SIZES.items()
}

# Width and height in pixels at 640 and at 1280 (P6), three a level, from fine to coarse: those of
# the release, found on COCO.
_ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
_ANCHORS_P6 = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)


def build(name: str, num_classes: int) -> YOLO:
    """The size `name` of SIZES with fresh weights from torch's random state."""
    size = SIZES[name]
    stem, _, activation = name.removeprefix("yolov5").partition("-")
    is_anchor_free, has_p6 = stem.endswith("u"), "6" in stem
    c1, c2, *levels = size.channels(64, 128, 256, 512, *([768] if has_p6 else []), 1024)
    depths = [size.repeats(count) for count in (3, 6, 9, *([3] if has_p6 else []), 3)]
    stages = [nn.Sequential(ConvNormAct(3, c1, 6, 2))]
    for c_in, c_out, depth in zip([c1, c2, *levels], [c2, *levels], depths, strict=False):
        block = C3(c_out, c_out, depth, True)
        stages.append(nn.Sequential(ConvNormAct(c_in, c_out, 3, 2), block))
    stages[-1].append(SPPF(levels[-1], levels[-1]))

    three, pairs = size.repeats(3), list(itertools.pairwise(levels))
    neck = PathAggregation(
        reduces=[ConvNormAct(coarse, fine) for fine, coarse in reversed(pairs)],
        top_down=[C3(2 * fine, fine, three, False) for fine, _ in reversed(pairs)],
        downs=[ConvNormAct(fine, fine, 3, 2) for fine, _ in pairs],
        bottom_up=[C3(2 * fine, coarse, three, False) for fine, coarse in pairs],
    )
    strides = [8, 16, 32, 64][: len(levels)]
    if is_anchor_free:
        head = DetectHead(num_classes, levels, strides)
    else:
        head = AnchorHead(num_classes, levels, strides, _ANCHORS_P6 if has_p6 else _ANCHORS)
    model = YOLO(Backbone(stages, len(levels)), neck, head)
    set_activation(model, _ACTIVATIONS[activation and f"-{activation}"])
    return model
