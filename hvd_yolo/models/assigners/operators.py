"""The assignments as operators that torch.compile calls as they are.

Inductor of torch 2.13 fuses the tables of an assignment, whose memory is used again, with the
decoding of the boxes that they are made from, and computes wrong targets (tests/test_compiling.py
has the case). As operators the assignments keep forward pass and loss in one graph.
"""

import torch
from torch import Tensor

from hvd_yolo.models.assigners.optimal_transport import Transport, optimal_transport
from hvd_yolo.models.assigners.task_aligned import Assignment, task_aligned


@torch.library.custom_op("hvd_yolo::task_aligned", mutates_args=())
def _task_aligned(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    true_boxes: Tensor,
    true_labels: Tensor,
    is_real: Tensor,
    num_candidates: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    objects = (true_boxes, true_labels, is_real)
    return tuple(task_aligned(scores, boxes, points, *objects, num_candidates, eps))


@_task_aligned.register_fake
def _(scores: Tensor, boxes: Tensor, *_: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = scores.shape[:2]
    labels = scores.new_empty(shape, dtype=torch.long)
    is_positive = scores.new_empty(shape, dtype=torch.bool)
    return is_positive, boxes.new_empty(boxes.shape), labels, scores.new_empty(shape)


@torch.library.custom_op("hvd_yolo::optimal_transport", mutates_args=())
def _optimal_transport(
    logits: Tensor,
    objectness: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    true_boxes: Tensor,
    true_labels: Tensor,
    is_real: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    objects = (true_boxes, true_labels, is_real)
    return tuple(optimal_transport(logits, objectness, boxes, points, strides, *objects))


@_optimal_transport.register_fake
def _(logits: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = logits.shape[:2]
    owner = logits.new_empty(shape, dtype=torch.long)
    return logits.new_empty(shape, dtype=torch.bool), owner, logits.new_empty(shape)


@torch.no_grad()
def assign_aligned(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    true_boxes: Tensor,
    true_labels: Tensor,
    is_real: Tensor,
    num_candidates: int,
    eps: float,
) -> Assignment:
    """See task_aligned."""
    arguments = (scores, boxes, points, true_boxes, true_labels, is_real, num_candidates, eps)
    if torch.compiler.is_compiling():
        return Assignment(*_task_aligned(*arguments))
    return task_aligned(*arguments)


@torch.no_grad()
def assign_cells(
    logits: Tensor,
    objectness: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    true_boxes: Tensor,
    true_labels: Tensor,
    is_real: Tensor,
) -> Transport:
    """See optimal_transport."""
    arguments = (logits, objectness, boxes, points, strides, true_boxes, true_labels, is_real)
    if torch.compiler.is_compiling():
        return Transport(*_optimal_transport(*arguments))
    return optimal_transport(*arguments)
