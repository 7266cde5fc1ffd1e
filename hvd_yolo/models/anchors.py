"""Anchors that fit the objects of a data set."""

import numpy as np
import torch
from torch import nn

from hvd_yolo.models.anchor_head import MAX_RATIO, AnchorHead
from hvd_yolo.models.pyramid import YOLO

# Anchors are changed when fewer objects than this have one that matches: the rule of YOLOv5.
_ENOUGH = 0.98
_GENERATIONS = 1000


def has_anchors(model: nn.Module) -> bool:
    """Whether the model predicts from anchors."""
    return isinstance(model, YOLO) and isinstance(model.head, AnchorHead)


def fit_anchors(model: YOLO, sizes: np.ndarray, seed: int) -> str:
    """Fits the anchors of a model that has some to sizes (N, 2): widths and heights of the objects
    in input pixels. A function of its arguments, so that every rank comes to the same.

    Returns what to tell.
    """
    anchors = model.head.anchors.flatten(0, 1).double().cpu().numpy()
    before = best_possible_recall(anchors, sizes)
    told = f"anchors: {before:.1%} of {len(sizes)} objects match one"
    if before > _ENOUGH or len(sizes) < len(anchors):
        return told
    found = _evolve(_cluster(sizes, len(anchors)), sizes, np.random.default_rng(seed))
    after = best_possible_recall(found, sizes)
    if after <= before:
        return f"{told}; none were found that do better"
    found = found[np.argsort(found.prod(1), kind="stable")]
    model.head.anchors.copy_(torch.from_numpy(found).view_as(model.head.anchors))
    return f"{told}; fitted anew, {after:.1%} do"


def best_possible_recall(anchors: np.ndarray, sizes: np.ndarray) -> float:
    """The share of sizes (N, 2) for which one of the anchors (K, 2) is at most four times as large
    or small on both sides."""
    if len(sizes) == 0:
        return 1.0
    return float((_agreement(anchors, sizes).max(1) > 1 / MAX_RATIO).mean())


def _agreement(anchors: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N, K): the worse ratio of the two sides, 1 for a perfect match."""
    ratios = sizes[:, None] / anchors
    return np.minimum(ratios, 1 / ratios).min(-1)


def _cluster(sizes: np.ndarray, count: int) -> np.ndarray:
    """(count, 2): k-means (Lloyd 1982) on sizes over their deviation, begun from quantiles of the
    area."""
    scale = sizes.std(0).clip(min=1e-9)
    points = sizes[np.argsort(sizes.prod(1), kind="stable")] / scale
    centres = points[((np.arange(count) + 0.5) / count * len(points)).astype(int)]
    for _ in range(30):
        nearest = ((points[:, None] - centres) ** 2).sum(-1).argmin(1)
        for i in np.unique(nearest):
            centres[i] = points[nearest == i].mean(0)
    return centres * scale


def _evolve(anchors: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random changes that are kept when the matches of the objects get better, as in YOLOv5."""
    if len(sizes) > 10_000:
        sizes = sizes[rng.choice(len(sizes), 10_000, replace=False)]
    best = _fitness(anchors, sizes)
    for _ in range(_GENERATIONS):
        is_changed = rng.random(anchors.shape) < 0.9
        factors = 1 + is_changed * rng.random() * 0.1 * rng.standard_normal(anchors.shape)
        trial = (anchors * factors.clip(0.3, 3.0)).clip(min=2.0)
        fitness = _fitness(trial, sizes)
        if fitness > best:
            best, anchors = fitness, trial
    return anchors


def _fitness(anchors: np.ndarray, sizes: np.ndarray) -> float:
    """The mean of the best agreements, of those objects that match at all."""
    best = _agreement(anchors, sizes).max(1)
    return float((best * (best > 1 / MAX_RATIO)).mean())
