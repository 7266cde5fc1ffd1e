"""Self-attention over the cells of a feature map (B, C, H, W), as in YOLOv10 and YOLO11."""

import torch
from torch import Tensor, nn

from hvd_yolo.models.blocks import ConvNormAct, depthwise

_HEAD_CHANNELS = 64


class Attention(nn.Module):
    """Multi-head attention with keys half as wide as values, and a depthwise convolution of the
    values for positions (Wang et al. 2024, section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_heads = max(channels // _HEAD_CHANNELS, 1)
        self.value_width = channels // self.num_heads
        self.key_width = self.value_width // 2
        width = self.num_heads * (2 * self.key_width + self.value_width)
        self.qkv = ConvNormAct(channels, width, is_linear=True)
        self.proj = ConvNormAct(channels, channels, is_linear=True)
        self.pe = depthwise(channels, 3, is_linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        widths = [self.key_width, self.key_width, self.value_width]
        heads = self.qkv(x).flatten(2).unflatten(1, (self.num_heads, sum(widths)))
        query, key, value = heads.split(widths, dim=2)
        weights = (query.transpose(2, 3) @ key * self.key_width**-0.5).softmax(dim=-1)
        attended = (value @ weights.transpose(2, 3)).reshape(x.shape)
        return self.proj(attended + self.pe(value.reshape(x.shape)))


class AttentionBlock(nn.Module):
    """Attention and a two-layer feed-forward network, each added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attn = Attention(channels)
        self.ffn = nn.Sequential(
            ConvNormAct(channels, 2 * channels), ConvNormAct(2 * channels, channels, is_linear=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        x = x + self.attn(x)
        return x + self.ffn(x)


class C2PSA(nn.Module):
    """Half of the channels pass through attention blocks (YOLO11)."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.cv1 = ConvNormAct(channels, 2 * hidden)
        self.cv2 = ConvNormAct(2 * hidden, channels)
        self.m = nn.Sequential(*(AttentionBlock(hidden) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        around, through = self.cv1(x).chunk(2, dim=1)
        return self.cv2(torch.cat((around, self.m(through)), dim=1))


class PSA(AttentionBlock):
    """Partial self-attention: half of the channels pass through one attention block (YOLOv10)."""

    def __init__(self, channels: int) -> None:
        hidden = channels // 2
        super().__init__(hidden)
        self.cv1 = ConvNormAct(channels, 2 * hidden)
        self.cv2 = ConvNormAct(2 * hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        around, through = self.cv1(x).chunk(2, dim=1)
        return self.cv2(torch.cat((around, super().forward(through)), dim=1))
