"""YOLO11: C3k2 blocks, attention at the coarsest level, light class towers (Jocher, Qiu 2024)."""

from torch import nn

from hvd_yolo.models.attention import C2PSA
from hvd_yolo.models.blocks import SPPF, ConvNormAct, c3k2
from hvd_yolo.models.heads import DetectHead
from hvd_yolo.models.pyramid import YOLO, Backbone, PathAggregation, Size

SIZES = {
    "yolo11n": Size(0.50, 0.25, 1024),
    "yolo11s": Size(0.50, 0.50, 1024),
    "yolo11m": Size(0.50, 1.00, 512),
    "yolo11l": Size(1.00, 1.00, 512),
    "yolo11x": Size(1.00, 1.50, 512),
}


def build(name: str, num_classes: int) -> YOLO:
    """The size `name` of SIZES with fresh weights from torch's random state."""
    size = SIZES[name]
    c1, c2, c3, c4, c5 = size.channels(64, 128, 256, 512, 1024)
    two, is_large = size.repeats(2), name[-1] in "mlx"
    stages = [
        nn.Sequential(ConvNormAct(3, c1, 3, 2)),
        # The inner blocks are a quarter as wide as their stage, which is twice as wide as usual.
        nn.Sequential(ConvNormAct(c1, c2, 3, 2), c3k2(c2, c3, two, is_large, c3 // 4)),
        nn.Sequential(ConvNormAct(c3, c3, 3, 2), c3k2(c3, c4, two, is_large, c4 // 4)),
        nn.Sequential(ConvNormAct(c4, c4, 3, 2), c3k2(c4, c4, two, True)),
        nn.Sequential(
            ConvNormAct(c4, c5, 3, 2), c3k2(c5, c5, two, True), SPPF(c5, c5), C2PSA(c5, two)
        ),
    ]
    neck = PathAggregation(
        reduces=[nn.Identity(), nn.Identity()],
        top_down=[c3k2(c5 + c4, c4, two, is_large), c3k2(c4 + c4, c3, two, is_large)],
        downs=[ConvNormAct(c3, c3, 3, 2), ConvNormAct(c4, c4, 3, 2)],
        bottom_up=[c3k2(c3 + c4, c4, two, is_large), c3k2(c4 + c5, c5, two, True)],
    )
    head = DetectHead(num_classes, [c3, c4, c5], [8, 16, 32], is_light=True)
    return YOLO(Backbone(stages), neck, head)
