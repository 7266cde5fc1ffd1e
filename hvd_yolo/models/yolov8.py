"""YOLOv8: C2f blocks, anchor-free decoupled head (Jocher et al. 2023)."""

import itertools

from torch import nn

from hvd_yolo.models.blocks import C2, SPPF, C2f, ConvNormAct
from hvd_yolo.models.heads import DetectHead
from hvd_yolo.models.pyramid import YOLO, Backbone, PathAggregation, Size

# yolov8n-p6 and its like have a fourth level of stride 64, for images of 1280 pixels.
SIZES = {
    f"yolov8{letter}{levels}": size
    for levels in ("", "-p6")
    for letter, size in {
        "n": Size(0.33, 0.25, 1024),
        "s": Size(0.33, 0.50, 1024),
        "m": Size(0.67, 0.75, 768),
        "l": Size(1.00, 1.00, 512),
        "x": Size(1.00, 1.25, 512),
    }.items()
}


def build(name: str, num_classes: int) -> YOLO:
    """The size `name` of SIZES with fresh weights from torch's random state."""
    size, has_p6 = SIZES[name], name.endswith("-p6")
    c1, c2, *levels = size.channels(64, 128, 256, 512, *([768] if has_p6 else []), 1024)
    depths = [size.repeats(count) for count in (3, 6, 6, *([3] if has_p6 else []), 3)]
    stages = [nn.Sequential(ConvNormAct(3, c1, 3, 2))]
    for c_in, c_out, depth in zip([c1, c2, *levels], [c2, *levels], depths, strict=False):
        block = C2f(c_out, c_out, depth, True)
        stages.append(nn.Sequential(ConvNormAct(c_in, c_out, 3, 2), block))
    stages[-1].append(SPPF(levels[-1], levels[-1]))

    fuse, three = (C2 if has_p6 else C2f), size.repeats(3)
    pairs = list(itertools.pairwise(levels))
    neck = PathAggregation(
        reduces=[nn.Identity() for _ in pairs],
        top_down=[fuse(fine + coarse, fine, three, False) for fine, coarse in reversed(pairs)],
        downs=[ConvNormAct(fine, fine, 3, 2) for fine, _ in pairs],
        bottom_up=[fuse(fine + coarse, coarse, three, False) for fine, coarse in pairs],
    )
    strides = [8, 16, 32, 64][: len(levels)]
    return YOLO(Backbone(stages, len(levels)), neck, DetectHead(num_classes, levels, strides))
