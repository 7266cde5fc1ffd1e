"""BatchNorm across ranks, over Comm, with uneven and empty shares of the batch: on the CPU in plain
torch with moments in float64, on a GPU by fused kernels (fused_batch_norm.py)."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from hvd_yolo.comm import Comm, average, fused_batch_norm, gather_json
from hvd_yolo.errors import InputError


class SyncBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d over the images of all ranks in training; in evaluation mode it is
    nn.BatchNorm2d.

    Every rank runs the same layers in the same order, with (0, C, H, W) where its share is empty:
    each forward and each backward pass holds one collective.
    """

    comm: Comm

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), the shape stays; B may differ by rank."""
        if not self.training:
            return super().forward(x)
        if x.is_cuda:
            return fused_batch_norm.normalize(x, self, self.comm)
        y, mean, var, count = _normalise(x, self.weight, self.bias, self.eps, self.comm)
        with torch.no_grad():
            unbiased = var * (count / (count - 1).clamp(min=1))
            # A pass in which no rank has an image teaches nothing; one value has no variance.
            mean = torch.where(count > 0, mean, self.running_mean)
            unbiased = torch.where(count > 1, unbiased, self.running_var)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(count > 0)
        return y


def convert(model: nn.Module, comm: Comm) -> nn.Module:
    """The model with every BatchNorm2d made a SyncBatchNorm2d over `comm`, in place; parameters and
    names stay. Raises InputError where that would leave statistics out, or has nothing to do."""
    check_convertible(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
            module.comm = comm
    return model


def check_convertible(model: nn.Module) -> None:
    """Raises InputError unless the model's batch norms are plain BatchNorm2d, at least one."""
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        or (isinstance(module, _InstanceNorm) and module.track_running_stats)
    }
    for name, module in norms.items():
        if type(module) not in (nn.BatchNorm2d, SyncBatchNorm2d):
            raise InputError(
                f"train.sync_bn: layer {name} is a {type(module).__name__}, and only torch's "
                "BatchNorm2d can be made one over all ranks; train without train.sync_bn"
            )
        if not (module.affine and module.track_running_stats) or module.momentum is None:
            raise InputError(
                f"train.sync_bn: layer {name} is a BatchNorm2d without weights, statistics or "
                "momentum, which is not supported; train without train.sync_bn"
            )
    if not norms:
        raise InputError(
            "train.sync_bn: the model has no BatchNorm2d, so there is nothing to synchronize; "
            "leave train.sync_bn out"
        )


def freeze(model: nn.Module) -> None:
    """Puts every BatchNorm into evaluation mode: it uses its running statistics and no longer
    changes them."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


@contextmanager
def keeping_buffers(model: nn.Module) -> Iterator[None]:
    """Whatever changes the model's buffers inside, in place or by putting others there, is undone
    at the end."""
    before = [
        (module, name, buffer, None if buffer is None else buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            if buffer is not None:
                buffer.copy_(value)
            module._buffers[name] = buffer


def average_statistics(models: list[nn.Module], comm: Comm, has_own_norms: bool = True) -> None:
    """Gives every rank the mean over ranks of what training has changed in the buffers of the
    models: the running statistics of each BatchNorm, unless has_own_norms is false because they are
    equal already, and any other floating-point buffer of the state dict that differs among ranks,
    as norms of other makers have it.

    Each rank has seen other images; without this, the weights that rank 0 saves would be scored
    with the statistics of its own share alone. Raises InputError on all ranks for a buffer of
    another shape on each.
    """
    if comm.size == 1:
        return
    if has_own_norms:
        average([buffer for model in models for buffer in _own_statistics(model)], comm)
    others = {
        f"{place}.{name}": buffer
        for place, model in enumerate(models)
        for name, buffer in other_buffers(model).items()
    }
    if not others:
        return
    told = gather_json(comm, [_look(buffer) for buffer in others.values()])
    looks = list(zip(*told, strict=True))
    differing: dict[torch.dtype, list[Tensor]] = {}
    for (name, buffer), own in zip(others.items(), looks, strict=True):
        if len({shape for shape, _ in map(tuple, own)}) > 1:
            raise InputError(
                f"the model's buffer {name.partition('.')[2]} has another shape on each rank, so "
                "that it cannot be averaged before it is saved: make it no buffer, or one with "
                "persistent=False"
            )
        if len({digest for _, digest in map(tuple, own)}) > 1:
            differing.setdefault(buffer.dtype, []).append(buffer)
    for buffers in differing.values():
        average(buffers, comm)


def other_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The floating-point buffers of the state dict that belong to none of torch's BatchNorms."""
    own = {id(buffer) for buffer in _own_statistics(model)}
    saved = model.state_dict(keep_vars=True)
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if name in saved and buffer.is_floating_point() and id(buffer) not in own
    }


def _own_statistics(model: nn.Module) -> list[Tensor]:
    return [
        buffer
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]


def _look(buffer: Tensor) -> tuple[str, str]:
    """The shape and a digest of the bits."""
    content = buffer.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return str(tuple(buffer.shape)), hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _normalise(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, comm: Comm
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The normalised x, and mean (C), biased variance (C) and count (scalar) over all ranks."""
    return _Normalise.apply(x, weight, bias, eps, comm)


class _Normalise(torch.autograd.Function):
    """Ioffe & Szegedy 2015, with the sums over the batch, and those of its gradient, taken over all
    ranks."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        comm: Comm,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One collective: the sums of count, values and squares."""
        channels = x.shape[1]
        # Moments in double: a variance from a mean of squares would lose half the digits of a
        # float.
        moments = torch.zeros(2 * channels + 1, dtype=torch.float64, device=x.device)
        count = x.numel() // channels
        if count:
            var, mean = torch.var_mean(_wide(x), dim=(0, 2, 3), correction=0)
            mean, var = mean.double(), var.double()
            moments[:channels] = mean * count
            moments[channels:-1] = (var + mean.square()) * count
            moments[-1].fill_(count)
        moments = comm.sum(moments)
        total = moments[-1]
        mean = moments[:channels] / total.clamp(min=1)
        var = (moments[channels:-1] / total.clamp(min=1) - mean.square()).clamp(min=0)
        wide = _wide(x)
        inverse = (var + eps).rsqrt().to(wide.dtype)
        normalised = (wide - _spread(mean.to(wide.dtype))) * _spread(inverse)
        ctx.save_for_backward(normalised, inverse, weight, total)
        ctx.comm = comm
        y = normalised * _spread(weight) + _spread(bias)
        ctx.mark_non_differentiable(mean, var, total)
        return y.to(x.dtype), mean, var, total

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        """One collective: the sums of the gradient and of its product with the values."""
        normalised, inverse, weight, total = ctx.saved_tensors
        wide = grad.to(normalised.dtype)
        sum_grad = wide.sum((0, 2, 3))
        sum_product = (wide * normalised).sum((0, 2, 3))
        # Parameters get this rank's part, the optimizer adds the parts up; the input needs the sums
        # over all ranks.
        sums = ctx.comm.sum(torch.cat((sum_grad, sum_product)).double()) / total.clamp(min=1)
        mean_grad, mean_product = (part.to(wide.dtype) for part in sums.chunk(2))
        inner = wide - _spread(mean_grad) - normalised * _spread(mean_product)
        grad_x = inner * _spread(inverse * weight)
        return grad_x.to(grad.dtype), sum_product, sum_grad, None, None


def _spread(per_channel: Tensor) -> Tensor:
    return per_channel.view(1, -1, 1, 1)


def _wide(x: Tensor) -> Tensor:
    """Half precision as float32, the rest as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
