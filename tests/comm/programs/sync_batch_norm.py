"""SyncBatchNorm2d on uneven and empty shares against nn.BatchNorm2d on the joined batch, forward
and backward."""

import torch
from torch import nn

from hvd_yolo.comm import connect
from hvd_yolo.comm.batch_norm import SyncBatchNorm2d, average_statistics, convert
from hvd_yolo.config import CommConfig

CHANNELS = 5


def joined_batch(shares):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(shares), CHANNELS, 4, 3, generator=generator, dtype=torch.float64) * 3 + 50
    g = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return x, g


def layer():
    torch.manual_seed(2)
    bn = nn.BatchNorm2d(CHANNELS, momentum=0.3).double()
    nn.init.normal_(bn.weight)
    nn.init.normal_(bn.bias)
    return bn


def check(comm, shares):
    x, g = joined_batch(shares)
    reference, synced = layer(), convert(nn.Sequential(layer()), comm)[0]
    assert isinstance(synced, SyncBatchNorm2d)
    x_ref = x.clone().requires_grad_()
    y_ref = reference(x_ref)
    y_ref.backward(g)

    start = sum(shares[: comm.rank])
    rows = slice(start, start + shares[comm.rank])
    x_own = x[rows].clone().requires_grad_()
    y = synced(x_own)
    y.backward(g[rows])
    pairs = [
        (y, y_ref[rows]),
        (x_own.grad, x_ref.grad[rows]),
        (comm.sum(synced.weight.grad), reference.weight.grad),
        (comm.sum(synced.bias.grad), reference.bias.grad),
        (synced.running_mean, reference.running_mean),
        (synced.running_var, reference.running_var),
    ]
    for found, expected in pairs:
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)
    assert synced.num_batches_tracked == 1
    synced.eval()
    reference.eval()
    assert torch.allclose(synced(x), reference(x), rtol=1e-10, atol=1e-10)


def check_pass_without_images(comm):
    synced = convert(nn.Sequential(layer()), comm)[0]
    synced.running_mean.fill_(3.0)
    synced(torch.zeros(0, CHANNELS, 4, 3).double())
    assert synced.running_mean.tolist() == [3.0] * CHANNELS
    assert synced.running_var.tolist() == [1.0] * CHANNELS
    assert synced.num_batches_tracked == 0


def check_single_value(comm):
    """The same on any number of ranks, and torch's own over several equal values, but for the
    variance, which one value has none of."""
    synced, reference = convert(nn.Sequential(layer()), comm)[0], layer()
    x = torch.full((int(comm.rank == 0), CHANNELS, 1, 1), 7.0).double()
    y, expected = synced(x), reference(torch.full((2, CHANNELS, 1, 1), 7.0).double())
    assert torch.allclose(y, expected[: len(x)])
    assert torch.allclose(synced.running_mean, reference.running_mean)
    assert synced.running_var.tolist() == [1.0] * CHANNELS


def check_average(comm):
    bn = nn.BatchNorm2d(2)
    bn.running_mean.fill_(float(comm.rank))
    average_statistics([nn.Sequential(bn)], comm)
    assert bn.running_mean.tolist() == [(comm.size - 1) / 2] * 2
    assert bn.running_var.tolist() == [1.0, 1.0]


comm = connect(CommConfig(), "cpu", latency_bound=True)
check(comm, {1: [4], 3: [4, 0, 3]}[comm.size])
check_pass_without_images(comm)
check_single_value(comm)
check_average(comm)
print(f"rank {comm.rank} agrees", flush=True)
