"""A detector that finds rectangles of pure colors, so that a score is known beforehand."""

import cv2
import numpy as np
import torch
from torch import nn

# RGB; the class of a rectangle is the place of its color.
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))


class ColorDetector(nn.Module):
    """Finds each rectangle exactly, with score 0.9; or, where `is_rough` is set, some a pixel off
    and all with a score of their own."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.unused = nn.Parameter(torch.zeros(1))
        self.register_buffer("is_rough", torch.tensor(0.0))

    def forward(self, images, targets=None):
        """Losses in training, detections in evaluation."""
        if self.training:
            return {"loss": self.unused.sum()}
        return [self._detect(image.mul(255).round().byte().permute(1, 2, 0)) for image in images]

    def _detect(self, image):
        rows = []
        for label, color in enumerate(COLORS[: self.num_classes]):
            mask = (image.numpy() == color).all(2).astype(np.uint8)
            for x, y, w, h, _ in cv2.connectedComponentsWithStats(mask)[2][1:].tolist():
                rows.append((x, y, x + w, y + h, label))
        table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
        places = table[:, 0] * 7 + table[:, 1] * 3 + table[:, 4]
        scores = torch.full((len(table),), 0.9)
        if self.is_rough:
            table[:, 2] += places % 5
            scores = 0.2 + (places * 11 % 67) / 100
        return {"boxes": table[:, :4], "scores": scores, "labels": table[:, 4].long()}


def build(num_classes):
    """The model."""
    return ColorDetector(num_classes)
