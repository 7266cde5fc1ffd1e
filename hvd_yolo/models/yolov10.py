"""YOLOv10: compact blocks where the network is redundant, two heads and no suppression (Wang et
al. 2024)."""

from typing import NamedTuple

from torch import nn

from hvd_yolo.models.attention import PSA
from hvd_yolo.models.blocks import SPPF, C2f, ConvNormAct, SCDown, c2f_cib
from hvd_yolo.models.heads import DualHead
from hvd_yolo.models.pyramid import YOLO, Backbone, PathAggregation, Size


class _Variant(NamedTuple):
    """A size, which of its blocks are compact (of stage 4 and 5, top-down 4, bottom-up 4 and 5),
    and whether those have the large kernel: the sizes' rank-guided design, section 3.2."""

    size: Size
    compact: tuple[str, ...]
    has_large_kernel: bool = False


SIZES = {
    "yolov10n": _Variant(Size(0.33, 0.25, 1024), ("up5",), True),
    "yolov10s": _Variant(Size(0.33, 0.50, 1024), ("stage5", "up5"), True),
    "yolov10m": _Variant(Size(0.67, 0.75, 768), ("stage5", "up4", "up5")),
    "yolov10b": _Variant(Size(0.67, 1.00, 512), ("stage5", "down4", "up4", "up5")),
    "yolov10l": _Variant(Size(1.00, 1.00, 512), ("stage5", "down4", "up4", "up5")),
    "yolov10x": _Variant(Size(1.00, 1.25, 512), ("stage4", "stage5", "down4", "up4", "up5")),
}


def build(name: str, num_classes: int) -> YOLO:
    """The size `name` of SIZES with fresh weights from torch's random state."""
    size, compact, has_large_kernel = SIZES[name]
    c1, c2, c3, c4, c5 = size.channels(64, 128, 256, 512, 1024)
    three, six = size.repeats(3), size.repeats(6)

    def block(place: str, c_in: int, c_out: int, depth: int, shortcut: bool) -> C2f:
        """A compact one in its places, else a plain C2f."""
        if place in compact:
            return c2f_cib(c_in, c_out, depth, has_large_kernel)
        return C2f(c_in, c_out, depth, shortcut)

    stages = [
        nn.Sequential(ConvNormAct(3, c1, 3, 2)),
        nn.Sequential(ConvNormAct(c1, c2, 3, 2), C2f(c2, c2, three, True)),
        nn.Sequential(ConvNormAct(c2, c3, 3, 2), C2f(c3, c3, six, True)),
        nn.Sequential(SCDown(c3, c4), block("stage4", c4, c4, six, True)),
        nn.Sequential(SCDown(c4, c5), block("stage5", c5, c5, three, True), SPPF(c5, c5), PSA(c5)),
    ]
    neck = PathAggregation(
        reduces=[nn.Identity(), nn.Identity()],
        top_down=[block("down4", c5 + c4, c4, three, False), C2f(c4 + c3, c3, three, False)],
        downs=[ConvNormAct(c3, c3, 3, 2), SCDown(c4, c4)],
        bottom_up=[
            block("up4", c3 + c4, c4, three, False),
            block("up5", c4 + c5, c5, three, False),
        ],
    )
    return YOLO(Backbone(stages), neck, DualHead(num_classes, [c3, c4, c5], [8, 16, 32]))
