"""Foreign detectors in torchvision's convention, with norms that are not torch's, and other
peculiarities."""

import threading

import torch
from torch import nn

from tests.models.plain_detector import PlainDetector


class OwnNorm(nn.Module):
    """Normalizes by statistics in buffers, one changed in place and one put there anew."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("moving_var", torch.ones(channels))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, x):
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)
                self.moving_var = self.moving_var.lerp(var, 0.1)
        else:
            mean, var = self.running_mean, self.moving_var
        return (x - mean[:, None, None]) / (var[:, None, None] + 1e-3).sqrt()


class OwnNormDetector(PlainDetector):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.body.insert(1, OwnNorm(8))


class BatchNormDetector(PlainDetector):
    """Whose BatchNorm sees one value a channel where the input has 32 pixels."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.body.append(nn.AdaptiveAvgPool2d(1))
        self.body.append(nn.BatchNorm2d(8))


class LockedDetector(PlainDetector):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.lock = threading.Lock()


def with_own_norm(num_classes):
    return OwnNormDetector(num_classes)


def with_batch_norm(num_classes):
    return BatchNormDetector(num_classes)


def with_lock(num_classes):
    return LockedDetector(num_classes)


def with_limits(num_classes, conf, *, max_detections=1):
    model = PlainDetector(num_classes)
    model.limits = (conf, max_detections)
    return model


def with_keywords(num_classes, **options):
    model = PlainDetector(num_classes)
    model.limits = options
    return model
