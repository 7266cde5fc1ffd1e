"""Predictions and objects drawn by numpy, so that losses have the same inputs everywhere."""

import zlib

import numpy as np
import torch
from torch import Tensor

from hvd_yolo.models.anchor_head import AnchorHead, AnchorPrediction
from hvd_yolo.models.distances import DISTANCE_BINS, Prediction, grid_points
from hvd_yolo.models.heads import DetectHead, DualHead, DualPrediction
from hvd_yolo.models.yolox_head import CellPrediction, DecoupledHead

SIZE, STRIDES, NUM_CLASSES = 96, [8, 16, 32], 3
ANCHORS = (((10, 13), (16, 30)), ((30, 61), (62, 45)), ((58, 45), (78, 60)))


def drawn(name: str, *shape: int) -> Tensor:
    """Standard normal numbers, float64."""
    rng = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    return torch.from_numpy(rng.standard_normal(shape))


def crowd(name: str, count: int) -> dict[str, Tensor]:
    """So many boxes, small ones and large ones, some of them partly or wholly outside the image."""
    centers = SIZE * (0.5 + 0.4 * drawn(name + ".centers", count, 2))
    halves = 1 + SIZE * 0.1 * drawn(name + ".halves", count, 2).square()
    labels = drawn(name + ".labels", count).abs().clamp(max=NUM_CLASSES - 1).long()
    return {"boxes": torch.cat((centers - halves, centers + halves), dim=1), "labels": labels}


def boxes_of(*rows: tuple[float, ...]) -> dict[str, Tensor]:
    """From rows of x1, y1, x2, y2, label."""
    table = torch.tensor(rows, dtype=torch.float64).view(-1, 5)
    return {"boxes": table[:, :4], "labels": table[:, 4].long()}


# Of three images each.
TARGETS = {
    "none": [crowd("", 0)] * 3,
    "one": [crowd("", 0), boxes_of((10, 12, 50, 60, 1)), crowd("", 0)],
    "few": [crowd("a", 5), crowd("b", 1), crowd("c", 12)],
    "dense beside empty": [crowd("d", 250), crowd("", 0), crowd("e", 30)],
    "outside": [
        boxes_of((-90, -80, -20, -30, 0), (90, 90, 160, 170, 1)),
        boxes_of((200, 200, 240, 250, 2)),
        boxes_of((-30, 10, 20, 40, 1), (4, 4, 4, 4, 0), (0, 0, 96, 96, 2)),
    ],
}


def _maps(count: int) -> list[tuple[int, int]]:
    return [(SIZE // stride, SIZE // stride) for stride in STRIDES[:count]]


def _grid() -> tuple[Tensor, Tensor]:
    like = torch.zeros(0, dtype=torch.float64)
    points = [grid_points(*sides, like=like) for sides in _maps(3)]
    strides = [p.new_full(p.shape[:1], s) for p, s in zip(points, STRIDES, strict=True)]
    return torch.cat(points), torch.cat(strides)


def _sides(name: str, num_images: int) -> Prediction:
    points, strides = _grid()
    shape = (num_images, len(points))
    return Prediction(
        drawn(name + ".distances", *shape, 4, DISTANCE_BINS), drawn(name, *shape, NUM_CLASSES),
        points, strides,
    )  # fmt: skip


def predictions(num_images: int = 3) -> dict[str, tuple]:
    """A head by name, and its drawn prediction for images of SIZE pixels."""
    points, strides = _grid()
    shape = (num_images, len(points))
    cells = CellPrediction(
        drawn("offsets", *shape, 4), drawn("objectness", *shape), drawn("x", *shape, NUM_CLASSES),
        points, strides,
    )  # fmt: skip
    anchors = AnchorPrediction(
        [drawn(f"level{i}", num_images, 2, *s, 5 + NUM_CLASSES) for i, s in enumerate(_maps(3))],
        [grid_points(*s, like=points).view(*s, 2) for s in _maps(3)],
        torch.tensor(ANCHORS, dtype=torch.float64),
        STRIDES,
    )
    channels = [16, 16, 16]
    return {
        "distances": (DetectHead(NUM_CLASSES, channels, STRIDES), _sides("many", num_images)),
        "dual": (
            DualHead(NUM_CLASSES, channels, STRIDES),
            DualPrediction(_sides("many", num_images), _sides("one", num_images)),
        ),
        "cells": (DecoupledHead(NUM_CLASSES, channels, STRIDES, 16, False), cells),
        "anchors": (AnchorHead(NUM_CLASSES, channels, STRIDES, ANCHORS), anchors),
    }


def learned(prediction: tuple) -> list[Tensor]:
    """The tensors of a prediction that have a gradient, made leaves that need one."""
    if isinstance(prediction, DualPrediction):
        parts = [*prediction.many[:2], *prediction.one[:2]]
    elif isinstance(prediction, AnchorPrediction):
        parts = list(prediction.levels)
    else:
        parts = list(prediction[: 3 if isinstance(prediction, CellPrediction) else 2])
    return [part.requires_grad_() for part in parts]
