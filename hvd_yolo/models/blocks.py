"""The convolutional blocks of YOLO backbones and necks. Feature maps are (B, C, H, W).

Submodules carry the names of the published checkpoints (cv1, cv2, m), so that foreign weights need
no table inside a block.
"""

import torch
from torch import Tensor, nn


class ConvNormAct(nn.Module):
    """Convolution without bias, BatchNorm, SiLU unless `is_linear`; padded so that stride 1 keeps
    the size.

    BatchNorm's eps 1e-3 and momentum 0.03 are those of the Darknet and YOLO line of models.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        is_linear: bool = False,
    ) -> None:
        super().__init__()
        # An even kernel, YOLOv5's stem of 6 at stride 2, still halves the size.
        padding = kernel // 2 if kernel % 2 else kernel // 2 - 1
        self.conv = nn.Conv2d(
            c_in, c_out, kernel, stride, padding=padding, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03)
        self.act = nn.Identity() if is_linear else nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H / stride, W / stride)."""
        y = self.conv(x)
        # A batch norm over several ranks counts the values of all of them.
        if self.bn.training and type(self.bn) is nn.BatchNorm2d and y.numel() == y.shape[1]:
            return self.act(normalize_single(self.bn, y))
        return self.act(self.bn(y))


def normalize_single(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch normalization in training of (1, C, 1, 1), where torch's raises ValueError: a map of
    one pixel of one image.

    The batch's variance is 0, so the result is the bias, and the input gets no gradient. The
    running mean takes the values in, unless it is cumulative; the running variance stays, as one
    value has none.
    """
    if bn.momentum is not None:
        with torch.no_grad():
            bn.running_mean.lerp_(x.flatten().to(bn.running_mean.dtype), bn.momentum)
            bn.num_batches_tracked.add_(1)
    # Not the bias alone: a value that is not finite must show.
    y = (x * 0).to(bn.weight.dtype) * bn.weight.view(1, -1, 1, 1) + bn.bias.view(1, -1, 1, 1)
    return y.to(x.dtype)


def depthwise(channels: int, kernel: int, stride: int = 1, is_linear: bool = False) -> ConvNormAct:
    """A ConvNormAct of each channel by itself."""
    return ConvNormAct(channels, channels, kernel, stride, groups=channels, is_linear=is_linear)


class DepthwiseSeparable(nn.Module):
    """A depthwise convolution and a pointwise one in place of a full one (Howard et al. 2017,
    section 3.1)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = depthwise(c_in, kernel, stride)
        self.pconv = ConvNormAct(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H / stride, W / stride)."""
        return self.pconv(self.dconv(x))


class Bottleneck(nn.Module):
    """A convolution to `hidden` channels and a 3x3 one back, with the input added if `shortcut`."""

    def __init__(
        self,
        channels: int,
        shortcut: bool,
        kernel: int = 3,
        hidden: int = 0,
        is_separable: bool = False,
    ) -> None:
        super().__init__()
        hidden = hidden or channels
        conv = DepthwiseSeparable if is_separable else ConvNormAct
        self.cv1 = ConvNormAct(channels, hidden, kernel)
        self.cv2 = conv(hidden, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C2f(nn.Module):
    """Cross-stage partial block whose every inner output is kept and fused (YOLOv8).

    The inner blocks of `hidden` channels, half of c_out if 0, are Bottlenecks unless `inner` is
    given.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        depth: int,
        shortcut: bool,
        hidden: int = 0,
        inner: nn.ModuleList | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden or c_out // 2
        self.cv1 = ConvNormAct(c_in, 2 * hidden)
        self.cv2 = ConvNormAct((2 + depth) * hidden, c_out)
        self.m = inner or nn.ModuleList(Bottleneck(hidden, shortcut) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H, W)."""
        parts = list(self.cv1(x).chunk(2, dim=1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, dim=1))


class C2(nn.Module):
    """Cross-stage partial block: half of the channels pass through Bottlenecks (YOLOv8-P6)."""

    def __init__(self, c_in: int, c_out: int, depth: int, shortcut: bool) -> None:
        super().__init__()
        hidden = c_out // 2
        self.cv1 = ConvNormAct(c_in, 2 * hidden)
        self.cv2 = ConvNormAct(2 * hidden, c_out)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H, W)."""
        through, around = self.cv1(x).chunk(2, dim=1)
        return self.cv2(torch.cat((self.m(through), around), dim=1))


class C3(nn.Module):
    """Cross-stage partial block of three convolutions around Bottlenecks (YOLOv5, YOLOX; Wang et
    al. 2019, CSPNet)."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        depth: int,
        shortcut: bool,
        kernel: int = 1,
        is_separable: bool = False,
    ) -> None:
        super().__init__()
        hidden = c_out // 2
        self.cv1 = ConvNormAct(c_in, hidden)
        self.cv2 = ConvNormAct(c_in, hidden)
        self.cv3 = ConvNormAct(2 * hidden, c_out)
        self.m = nn.Sequential(
            *(Bottleneck(hidden, shortcut, kernel, is_separable=is_separable) for _ in range(depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H, W)."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))


def c3k2(c_in: int, c_out: int, depth: int, is_nested: bool, hidden: int = 0) -> C2f:
    """The C2f of YOLO11: narrow Bottlenecks inside, or whole C3 blocks of two if `is_nested`."""
    hidden = hidden or c_out // 2
    inner = nn.ModuleList(
        C3(hidden, hidden, 2, True, kernel=3)
        if is_nested
        else Bottleneck(hidden, True, hidden=hidden // 2)
        for _ in range(depth)
    )
    return C2f(c_in, c_out, depth, True, hidden, inner)


class SCDown(nn.Module):
    """Halves the size: channels first, then space, depthwise (YOLOv10; Wang et al. 2024, section
    3.2)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.cv1 = ConvNormAct(c_in, c_out)
        self.cv2 = depthwise(c_out, 3, stride=2, is_linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H / 2, W / 2)."""
        return self.cv2(self.cv1(x))


class LargeKernel(nn.Module):
    """Depthwise 7x7 and 3x3 side by side (YOLOv10; Wang et al. 2024, section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = depthwise(channels, 7, is_linear=True)
        self.conv1 = depthwise(channels, 3, is_linear=True)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        return self.act(self.conv(x) + self.conv1(x))


class CIB(nn.Module):
    """Compact inverted block: depthwise and pointwise convolutions in turn, with the input added
    (YOLOv10; Wang et al. 2024, section 3.2)."""

    def __init__(self, channels: int, has_large_kernel: bool) -> None:
        super().__init__()
        wide = 2 * channels
        self.cv1 = nn.Sequential(
            depthwise(channels, 3),
            ConvNormAct(channels, wide),
            LargeKernel(wide) if has_large_kernel else depthwise(wide, 3),
            ConvNormAct(wide, channels),
            depthwise(channels, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        return x + self.cv1(x)


def c2f_cib(c_in: int, c_out: int, depth: int, has_large_kernel: bool) -> C2f:
    """A C2f whose inner blocks are CIB."""
    inner = nn.ModuleList(CIB(c_out // 2, has_large_kernel) for _ in range(depth))
    return C2f(c_in, c_out, depth, True, inner=inner)


class SPPF(nn.Module):
    """Spatial pyramid pooling from three 5x5 max-pools in a row, equal to 5, 9 and 13 side by side
    (He et al. 2015)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        hidden = c_in // 2
        self.cv1 = ConvNormAct(c_in, hidden)
        self.cv2 = ConvNormAct(4 * hidden, c_out)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H, W)."""
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.cv2(torch.cat(parts, dim=1))


class Focus(nn.Module):
    """Every second pixel of each row and column to its own channels, then a 3x3 convolution
    (YOLOX)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(4 * c_in, c_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H / 2, W / 2)."""
        top, bottom = x[..., ::2, :], x[..., 1::2, :]
        corners = (top[..., ::2], bottom[..., ::2], top[..., 1::2], bottom[..., 1::2])
        return self.conv(torch.cat(corners, dim=1))
