"""BatchNorm over the images of all ranks on a GPU, by torch's fused kernels: one pass over the
values for the statistics, one to normalize, and two in the backward pass.

The kernels accumulate float16, bfloat16 and float32 in float32, and float64 in float64. What
travels is 2C + 1 numbers of float64 forward and 2C of the accumulation type backward, as sums: a
tree reduction of a few kilobytes, also on 512 ranks, where torch.nn.SyncBatchNorm gathers one row
per rank. Nothing here waits for the GPU: counts stay on the device, and an empty share is known
by its shape.
"""

import torch
from torch import Tensor, nn

from hvd_yolo.comm import Comm


def normalize(x: Tensor, norm: nn.BatchNorm2d, comm: Comm) -> Tensor:
    """Return x (B, C, H, W) normalized over the batches of all ranks, and update the running
    statistics of `norm`; B may differ by rank, also be 0."""
    y, moments = _FusedNormalize.apply(x, norm.weight, norm.bias, norm.eps, comm)
    with torch.no_grad():
        _update_running(norm, x, moments)
    return y


class _FusedNormalize(torch.autograd.Function):
    """Ioffe & Szegedy 2015; sums over the batch are sums over all ranks' batches."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        comm: Comm,
    ) -> tuple[Tensor, Tensor]:
        """The normalized x, and mean (C), variance + eps (C) and count (1) of all ranks, in one
        row of float64. One collective."""
        channels = x.shape[1]
        moments = comm.stream_sum(_own_moments(x, eps))
        count = moments[-1:]
        moments[:-1] /= count.clamp(min=1)
        mean, spread = moments[:channels], moments[channels:-1]
        # The mean of squares arrives with eps added, hence the sum has the spread of no value.
        spread.addcmul_(mean, mean, value=-1).clamp_(min=eps)
        accumulated = _accumulation_type(x)
        own_mean, inverse = mean.to(accumulated), spread.rsqrt().to(accumulated)
        ctx.save_for_backward(x, weight, own_mean, inverse, count)
        ctx.comm = comm
        ctx.mark_non_differentiable(moments)
        if not x.numel():
            return torch.empty_like(x), moments
        return torch.batch_norm_elemt(_dense(x), weight, bias, own_mean, inverse, eps), moments

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        """One collective: the sums of the gradient and of its product with the centered values.

        The parameters get this rank's part, which the optimizer adds up.
        """
        x, weight, mean, inverse, count = ctx.saved_tensors
        if not x.numel():
            nothing = mean.new_zeros(2 * len(mean))
            ctx.comm.stream_sum(nothing)
            return (
                torch.zeros_like(x),
                torch.zeros_like(weight),
                torch.zeros_like(weight),
                None,
                None,
            )
        x = _dense(x)
        grad = grad.contiguous(memory_format=_layout(x))
        sum_grad, sum_product, grad_weight, grad_bias = torch.batch_norm_backward_reduce(
            grad, x, mean, inverse, weight, True, True, True
        )
        # The kernel divides by a count in int32, too short for the large batches of many ranks.
        means = ctx.comm.stream_sum(torch.cat((sum_grad, sum_product))) / count.to(mean.dtype)
        mean_grad, mean_product = means.chunk(2)
        one = torch.ones(1, dtype=torch.int32, device=x.device)
        grad_x = torch.batch_norm_backward_elemt(
            grad, x, mean, inverse, weight.to(mean.dtype), mean_grad, mean_product, one
        )
        return grad_x, grad_weight, grad_bias, None, None


def _own_moments(x: Tensor, eps: float) -> Tensor:
    """(2C + 1): the sums over this rank's batch of values, of squares with eps added, and of ones,
    in float64: a variance from a mean of squares would lose half the digits of float32."""
    channels = x.shape[1]
    count = x.numel() // channels
    if not count:
        return torch.zeros(2 * channels + 1, dtype=torch.float64, device=x.device)
    mean, inverse = torch.batch_norm_stats(_dense(x), eps)
    mean = mean.double()
    squares = torch.addcmul(inverse.double().pow(-2), mean, mean)
    return torch.cat((mean, squares, mean.new_ones(1))).mul_(count)


def _update_running(norm: nn.BatchNorm2d, x: Tensor, moments: Tensor) -> None:
    """Move the running statistics by the momentum towards those of all ranks, the same bits on
    each.

    A pass in which no rank has an image teaches nothing; one value has no variance. Only a rank
    whose own share cannot exclude that asks the device.
    """
    channels = x.shape[1]
    dtype = norm.running_mean.dtype
    mean, spread, count = moments[:channels], moments[channels:-1], moments[-1:]
    running = (norm.running_mean, norm.running_var)
    before = None if x.numel() > channels else [value.clone() for value in running]
    torch.batch_norm_gather_stats_with_counts(
        x, mean.to(dtype)[None], spread.rsqrt().to(dtype)[None], *running,
        norm.momentum, norm.eps, count.clamp(min=1).to(dtype),
    )  # fmt: skip
    if before is None:
        norm.num_batches_tracked.add_(1)
        return
    for least, value, old in zip((1, 2), running, before, strict=True):
        value.copy_(torch.where(count >= least, value, old))
    norm.num_batches_tracked.add_(count[0] > 0)


def _accumulation_type(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _layout(x: Tensor) -> torch.memory_format:
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def _dense(x: Tensor) -> Tensor:
    """The values in a layout that has a kernel: channels_last or contiguous."""
    return x.contiguous(memory_format=_layout(x))
