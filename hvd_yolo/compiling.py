"""Forward pass and loss compiled by torch.compile: train.compile."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_yolo.models.losses import Losses, LossesOf, as_losses
from hvd_yolo.targets import PaddedTargets

logger = logging.getLogger("hvd_yolo.compiling")

# Shapes of batches: the sizes of multi-scale training, times the numbers of objects, times two for
# the smaller batch at the end of an epoch.
MAX_SHAPES = 256
# In which calculate_time_spent() keeps the seconds of all compilation.
_ALL_PHASES = "total_wall_time"


class CompiledLosses:
    """A LossesOf whose arithmetic is compiled, for each shape of a batch once.

    A function is compiled, not the model, whose names stay. Shapes are fixed, for they are few:
    objects are padded to powers of two. No CUDA graphs (mode reduce-overhead): gradients would lie
    in the memory of a graph, which the next backward pass overwrites while Horovod may still be
    sending them, and each shape would hold memory of its own.
    """

    def __init__(self, losses_of: LossesOf) -> None:
        # Here, for it takes a second to import.
        from torch._dynamo.utils import calculate_time_spent

        self._seconds_by_phase = calculate_time_spent
        self._losses_of = losses_of
        # By itself torch gives up after eight, without a word.
        torch._dynamo.config.recompile_limit = MAX_SHAPES
        torch._dynamo.config.accumulated_recompile_limit = 2 * MAX_SHAPES

        def plain(
            model: nn.Module, images: Tensor, boxes: Tensor, labels: Tensor, counts: Tensor
        ) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
            """The same of plain tensors, whose values leave no trace in what is compiled."""
            most = [boxes.shape[1]] * len(images)
            losses = losses_of(model, images, PaddedTargets(boxes, labels, counts, most))
            return losses.terms, losses.weight, losses.own_weights

        self._compiled = torch.compile(plain, dynamic=False)
        self._shapes: set[tuple[Any, ...]] = set()
        self._is_new = False
        self._has_warned = False

    def __call__(self, model: nn.Module, images: Tensor, targets: PaddedTargets) -> Losses:
        """See LossesOf."""
        if self._is_new:
            # Only now, for the backward pass is compiled when it is first needed.
            seconds = self._seconds_by_phase().get(_ALL_PHASES, 0.0)
            logger.info(
                "train.compile: %.0f s of compilation so far, for %d shapes of batches",
                seconds, len(self._shapes),
            )  # fmt: skip
        boxes, labels = _padded_to_power(targets)
        shape = (*images.shape, labels.shape[1])
        self._is_new = shape not in self._shapes
        if self._is_new and len(self._shapes) == MAX_SHAPES:
            self._is_new = False
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "train.compile: batches of more than %d shapes; further ones are computed "
                    "without compilation. Fewer sizes in --order.multi_scale make fewer",
                    MAX_SHAPES,
                )
            return as_losses(self._losses_of(model, images, targets), len(images))
        self._shapes.add(shape)
        return Losses(*self._compiled(model, images, boxes, labels, targets.counts))


def _padded_to_power(targets: PaddedTargets) -> tuple[Tensor, Tensor]:
    """Boxes and labels, padded on to a power of two, and to 8."""
    length = 1 << max(3, (targets.labels.shape[1] - 1).bit_length())
    missing = length - targets.labels.shape[1]
    return F.pad(targets.boxes, (0, 0, 0, missing)), F.pad(targets.labels, (0, missing))
