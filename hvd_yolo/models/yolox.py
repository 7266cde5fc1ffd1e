"""YOLOX: the backbone and neck of YOLOv5 with a decoupled anchor-free head and SimOTA (Ge et al.
2021)."""

from functools import partial

from torch import nn

from hvd_yolo.models.blocks import C3, SPPF, ConvNormAct, DepthwiseSeparable, Focus
from hvd_yolo.models.pyramid import YOLO, Backbone, PathAggregation, Size
from hvd_yolo.models.yolox_head import DecoupledHead

SIZES = {
    "yolox-nano": Size(0.33, 0.25),
    "yolox-tiny": Size(0.33, 0.375),
    "yolox-s": Size(0.33, 0.50),
    "yolox-m": Size(0.67, 0.75),
    "yolox-l": Size(1.00, 1.00),
    "yolox-x": Size(1.33, 1.25),
}


def build(name: str, num_classes: int) -> YOLO:
    """The size `name` of SIZES with fresh weights from torch's random state; nano has depthwise
    convolutions."""
    size, is_separable = SIZES[name], name == "yolox-nano"
    conv = DepthwiseSeparable if is_separable else ConvNormAct
    c1, c2, c3, c4, c5 = size.channels(64, 128, 256, 512, 1024)
    three, nine = size.repeats(3), size.repeats(9)

    block = partial(C3, is_separable=is_separable)
    stages = [
        nn.Sequential(Focus(3, c1)),
        nn.Sequential(conv(c1, c2, 3, 2), block(c2, c2, three, True)),
        nn.Sequential(conv(c2, c3, 3, 2), block(c3, c3, nine, True)),
        nn.Sequential(conv(c3, c4, 3, 2), block(c4, c4, nine, True)),
        nn.Sequential(conv(c4, c5, 3, 2), SPPF(c5, c5), block(c5, c5, three, False)),
    ]
    neck = PathAggregation(
        reduces=[ConvNormAct(c5, c4), ConvNormAct(c4, c3)],
        top_down=[block(2 * c4, c4, three, False), block(2 * c3, c3, three, False)],
        downs=[conv(c3, c3, 3, 2), conv(c4, c4, 3, 2)],
        bottom_up=[block(2 * c3, c4, three, False), block(2 * c4, c5, three, False)],
    )
    (width,) = size.channels(256)
    head = DecoupledHead(num_classes, [c3, c4, c5], [8, 16, 32], width, is_separable)
    return YOLO(Backbone(stages), neck, head)
