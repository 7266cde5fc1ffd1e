"""Compressed gradients on GPUs are those of the CPU, and wait for nothing but Horovod's own wait:
`compression.py`, two ranks on the pretend device."""

import math

import torch
from torch import nn

from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from tests.pretend_cuda.counts import counted_syncs

SHAPES = ((24, 16, 3, 3), (3, 16, 1, 1), (40, 30), (24,))
KINDS = {"none": 1e-6, "fp16": 2e-3, "bf16": 2e-2, "powersgd": 1e-4, "topk": 1e-6}


class Model(nn.Module):
    """Parameters of the shapes a detector has."""

    def __init__(self):
        super().__init__()
        self.all = nn.ParameterList(torch.zeros(shape) for shape in SHAPES)


def sums(comm, device, compression, counts):
    """Three updates; the second is not finite on one rank."""
    options = CommConfig(compression=compression, groups=2, powersgd_rank=2, topk_share=0.05)
    model = Model().to(device)
    parameters = list(model.parameters())
    optimizer = comm.distribute(torch.optim.SGD(parameters, lr=1.0), model, 1, options, {})
    beside = torch.ones(2, dtype=torch.float64, device=device)
    factor = torch.full((), 0.5, dtype=torch.float64, device=device)
    results = []
    for update in range(3):
        generator = torch.Generator().manual_seed(10 * update + comm.rank)
        own = [torch.randn(shape, generator=generator).to(device) for shape in SHAPES]
        if update == 1 and comm.rank == 1:
            own[0][0, 0, 0, 0] = math.inf
        optimizer.zero_grad()
        with counted_syncs() as seen:
            sum((p * g).sum() for p, g in zip(parameters, own, strict=True)).backward()
            with comm.reduced_gradients(optimizer, beside.clone):
                comm.rescale_unsent(factor)
        results.append(torch.cat([p.grad.flatten() for p in parameters]).cpu())
        counts.update(seen)
    return results


def main():
    comm = connect(CommConfig(), "cuda")
    for compression, bound in KINDS.items():
        counts = dict()
        found = sums(comm, comm.device, compression, counts)
        assert not {place: n for place, n in counts.items() if "comm/" in place}, counts
        expected = sums(comm, torch.device("cpu"), compression, {})
        assert found[0].isfinite().all() and found[2].isfinite().all()
        assert not found[1].isfinite().all()
        for update in (0, 2):
            difference = float((found[update] - expected[update]).abs().max())
            assert difference <= bound, (compression, update, difference)
    print(f"rank {comm.rank} agrees", flush=True)


main()
