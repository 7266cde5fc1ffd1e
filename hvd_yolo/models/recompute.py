"""Activation checkpointing: memory for time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run(block: nn.Module, x: Tensor, is_recomputed: bool) -> Tensor:
    """block(x); if `is_recomputed`, in training nothing inside is kept for the backward pass, which
    runs the block once more (Chen et al. 2016, Training deep nets with sublinear memory cost)."""
    if not (is_recomputed and block.training):
        return block(x)

    contexts = partial(_contexts, block)
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


def _contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For the first run and for the second."""
    return nullcontext(), _keeping_statistics(block)


@contextmanager
def _keeping_statistics(block: nn.Module) -> Iterator[None]:
    """BatchNorm learns from the first run alone."""
    learning = [
        module
        for module in block.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    before = [(buffer, buffer.clone()) for module in learning for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
