"""SyncBatchNorm2d on GPUs against nn.BatchNorm2d on the joined batch on the CPU; the ways that its
sums go: `sync_batch_norm.py MEANS`, which is what the settings say of them."""

import sys

import torch
from torch import nn

from hvd_yolo.comm import connect
from hvd_yolo.comm.batch_norm import convert
from hvd_yolo.config import CommConfig

CHANNELS = 5


def layer(dtype):
    torch.manual_seed(2)
    norm = nn.BatchNorm2d(CHANNELS, momentum=0.3).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def error(found, expected):
    if not expected.numel():
        return 0.0
    difference = found.detach().cpu().double() - expected.detach().double()
    return float((difference.abs() / expected.abs().clamp(min=1)).max())


def check(comm, shares, dtype, layout, bound, input_dtype=None):
    """Values, gradients, parameters' gradients and running statistics agree."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(shares), CHANNELS, 4, 3, generator=generator, dtype=dtype) * 3 + 5
    g = torch.randn(x.shape, generator=generator, dtype=dtype)
    x, g = (tensor.to(input_dtype or dtype) for tensor in (x, g))
    reference, synced = layer(dtype), convert(nn.Sequential(layer(dtype)), comm)[0].to(comm.device)
    x_ref = x.to(dtype, copy=True).requires_grad_()
    y_ref = reference(x_ref)
    y_ref.backward(g.to(dtype))

    start = sum(shares[: comm.rank])
    rows = slice(start, start + shares[comm.rank])
    x_own = x[rows].to(comm.device).to(memory_format=layout).requires_grad_()
    y = synced(x_own)
    y.backward(g[rows].to(comm.device))
    assert y.dtype == x.dtype
    pairs = [
        (y, y_ref[rows]),
        (x_own.grad, x_ref.grad[rows]),
        (comm.sum(synced.weight.grad), reference.weight.grad),
        (comm.sum(synced.bias.grad), reference.bias.grad),
        (synced.running_mean, reference.running_mean),
        (synced.running_var, reference.running_var),
    ]
    errors = [error(*pair) for pair in pairs]
    assert max(errors) <= bound, errors
    assert synced.num_batches_tracked.item() == 1


def check_pass_without_images(comm):
    synced = convert(nn.Sequential(layer(torch.float64)), comm)[0].to(comm.device)
    synced.running_mean.fill_(3.0)
    x = torch.zeros(0, CHANNELS, 4, 3, dtype=torch.float64, device=comm.device)
    synced(x.requires_grad_()).sum().backward()
    assert synced.running_mean.tolist() == [3.0] * CHANNELS
    assert synced.running_var.tolist() == [1.0] * CHANNELS
    assert synced.num_batches_tracked.item() == 0


def check_single_value(comm):
    """One value of all ranks has no variance."""
    synced, reference = convert(nn.Sequential(layer(torch.float64)), comm)[0], layer(torch.float64)
    synced.to(comm.device)
    own = int(comm.rank == 0)
    y = synced(torch.full((own, CHANNELS, 1, 1), 7.0, dtype=torch.float64, device=comm.device))
    expected = reference(torch.full((2, CHANNELS, 1, 1), 7.0, dtype=torch.float64))
    assert torch.allclose(y.cpu(), expected[:own])
    assert torch.allclose(synced.running_mean.cpu(), reference.running_mean)
    assert synced.running_var.tolist() == [1.0] * CHANNELS


def main(means):
    comm = connect(CommConfig(), "cuda", latency_bound=True)
    assert comm.settings.get("train.sync_bn", "") == means
    for layout in (torch.contiguous_format, torch.channels_last):
        for shares in ([4, 2], [0, 5], [1, 0]) if comm.size == 2 else ([4], [1]):
            check(comm, shares, torch.float64, layout, 1e-12)
            check(comm, shares, torch.float32, layout, 1e-5)
        for half in (torch.float16, torch.bfloat16):
            check(comm, [4, 2][: comm.size], torch.float32, layout, 0.02, half)
    check_pass_without_images(comm)
    check_single_value(comm)
    print(f"rank {comm.rank} agrees", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
