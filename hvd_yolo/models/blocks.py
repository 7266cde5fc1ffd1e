"""The building blocks of YOLO backbones and necks. Feature maps are (B, C, H, W)."""

import torch
from torch import Tensor, nn


class ConvNormAct(nn.Module):
    """Convolution without bias, BatchNorm, SiLU; padded so that stride 1 keeps the size.

    BatchNorm's eps 1e-3 and momentum 0.03 are those of the Darknet and YOLO line of models.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H / stride, W / stride)."""
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with the input added if `shortcut`."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = ConvNormAct(channels, channels, 3)
        self.cv2 = ConvNormAct(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C2f(nn.Module):
    """Cross-stage partial block whose every bottleneck's output is kept and fused (YOLOv8)."""

    def __init__(self, c_in: int, c_out: int, depth: int, shortcut: bool) -> None:
        super().__init__()
        hidden = c_out // 2
        self.cv1 = ConvNormAct(c_in, 2 * hidden)
        self.cv2 = ConvNormAct((2 + depth) * hidden, c_out)
        self.m = nn.ModuleList(Bottleneck(hidden, shortcut) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H, W)."""
        parts = list(self.cv1(x).chunk(2, dim=1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, dim=1))


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
