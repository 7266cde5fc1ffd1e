"""What compressed gradients promise, on real ranks: `python compression.py BACKEND`."""

import math
import sys
from itertools import chain

import torch
from torch import nn

from hvd_yolo.comm import connect, gather_json
from hvd_yolo.comm.traffic import update_bytes
from hvd_yolo.config import CommConfig

LOSSLESS = ("none", "fp16", "bf16")
FEEDBACK = ("powersgd", "topk")
BESIDE = torch.tensor([1.0, 0.5], dtype=torch.float64)


class Layers(nn.Module):
    """Parameters of the shapes a detector has."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(24, 16, 3, 3))
        self.narrow = nn.Parameter(torch.zeros(3, 16, 1, 1))
        self.matrix = nn.Parameter(torch.zeros(40, 30))
        self.bias = nn.Parameter(torch.zeros(24))


def gradients(rank, update):
    """Any numbers; rank and update decide."""
    generator = torch.Generator().manual_seed(100 * update + rank)
    return [torch.randn(p.shape, generator=generator) for p in Layers().parameters()]


class Job:
    """A model whose gradients are what we say, shared by `comm`."""

    def __init__(self, comm, options, kept=None, passes=1):
        self.comm = comm
        self.model = Layers().to(memory_format=torch.channels_last)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=1.0)
        self.optimizer = comm.distribute(self.optimizer, self.model, passes, options, kept or {})

    def share(self, own):
        """What comes of this rank's gradients; None: it makes no backward pass."""
        self.optimizer.zero_grad()
        if own is not None:
            sum((p * g).sum() for p, g in zip(self.parameters, own, strict=True)).backward()
        with self.comm.reduced_gradients(self.optimizer, BESIDE.clone) as self.beside:
            return [p.grad.clone() for p in self.parameters]


def joined(tensors):
    """All of them in one row, in logical order."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def true_sum(comm, update):
    return joined(map(sum, zip(*(gradients(r, update) for r in range(comm.size)), strict=True)))


def check_equal_on_all_ranks(comm, tensors):
    said = gather_json(comm, joined(tensors).tolist())
    assert all(other == said[0] for other in said)


def check_rounding(comm, compression, bound):
    job = Job(comm, CommConfig(compression=compression, groups=2))
    for update in range(3):
        found = job.share(gradients(comm.rank, update))
        check_equal_on_all_ranks(comm, found)
        assert job.beside.tolist() == [1.0 * comm.size, 0.5 * comm.size]
        error = joined(found) - true_sum(comm, update)
        assert float(error.abs().max()) <= bound * float(true_sum(comm, update).abs().max())
    assert comm.settle_compression() == {}


def check_nothing_is_lost(comm, compression):
    """What has arrived and what is kept add up to all that was given, also of idle ranks; but for
    what an engine that adds in float16 rounds away."""
    options = CommConfig(compression=compression, groups=2, powersgd_rank=2, topk_share=0.05)
    job = Job(comm, options)
    given, arrived = 0.0, 0.0
    for update in range(4):
        is_idle = comm.size > 1 and comm.rank == update % comm.size
        own = None if is_idle else gradients(comm.rank, update)
        found = job.share(own)
        check_equal_on_all_ranks(comm, found)
        arrived = arrived + joined(found)
        given = given + comm.sum(joined(own) if own else torch.zeros_like(joined(found)))
    kept = comm.settle_compression()
    check_equal_on_all_ranks(comm, [kept[name] for name in sorted(kept)])
    errors = joined(kept[f"error.{name}"] for name, _ in job.model.named_parameters())
    assert float(errors.abs().max()) > 0.1
    bound = 1e-2 if compression == "powersgd" else 2e-4
    assert torch.allclose(arrived + errors, given, atol=bound)
    return job, options, kept


def check_goes_on_from_a_checkpoint(comm, compression):
    """A job that starts from what was kept does the same as the one that kept it."""
    job, options, kept = check_nothing_is_lost(comm, compression)
    kept = {name: tensor.clone() for name, tensor in kept.items()}
    expected = [job.share(gradients(comm.rank, update)) for update in (4, 5)]
    again = Job(comm, options, kept)
    found = [again.share(gradients(comm.rank, update)) for update in (4, 5)]
    assert torch.equal(joined(chain(*found)), joined(chain(*expected)))


def check_low_rank_sums_are_exact(comm):
    """A matrix of rank 2 goes through factors of rank 2 whole, to the precision of float16."""
    generator = torch.Generator().manual_seed(7)
    left = torch.randn(40, 2, generator=generator)
    right = torch.randn(2, 30, generator=generator)
    own = [torch.zeros_like(p) for p in Layers().parameters()]
    own[2] = (comm.rank + 1) * left @ right
    job = Job(comm, CommConfig(compression="powersgd", powersgd_rank=2))
    found = job.share(own)
    ranks = comm.size * (comm.size + 1) / 2
    expected = ranks * left @ right
    assert float((found[2] - expected).abs().max()) < 2e-3 * float(expected.abs().max())
    assert not joined([found[0], found[1], found[3]]).any()


def check_bytes(comm, compression):
    options = CommConfig(compression=compression, groups=2, powersgd_rank=2, topk_share=0.05)
    job = Job(comm, options)
    before = comm.sent_bytes
    job.share(gradients(comm.rank, 0))
    shapes = [p.shape for p in job.parameters]
    claimed = update_bytes(shapes, comm.size, compression, 2, 0.05)
    # A bucket is padded to equal parts, and keeps a whole number of entries.
    assert abs(comm.sent_bytes - before - claimed) <= 2 * 8 * comm.size


def check_not_finite(comm, compression):
    """A NaN on one rank is seen by all, and gone afterwards."""
    job = Job(comm, CommConfig(compression=compression, topk_share=0.05))
    job.share(gradients(comm.rank, 0))
    own = gradients(comm.rank, 1)
    if comm.rank == comm.size - 1:
        own[0][0, 0, 0, 0] = math.inf
    assert not joined(job.share(own)).isfinite().all()
    assert joined(job.share(gradients(comm.rank, 2))).isfinite().all()


def check_passes(comm):
    """Gradients of two backward passes are one message, also where a rank makes only one."""
    job = Job(comm, CommConfig(compression="bf16"), passes=2)
    job.optimizer.zero_grad()
    for number in range(2 if comm.rank else 1):
        own = gradients(comm.rank, number)
        sum((p * g).sum() for p, g in zip(job.parameters, own, strict=True)).backward()
    with comm.reduced_gradients(job.optimizer, BESIDE.clone):
        found = joined([p.grad for p in job.parameters])
    expected = true_sum(comm, 0) + true_sum(comm, 1) - joined(gradients(0, 1))
    assert float((found - expected).abs().max()) < 0.01 * float(expected.abs().max())


def check_own_gradients(comm):
    """Between the rounds of local SGD a rank keeps its own, zeros where it has none."""
    job = Job(comm, CommConfig(sync_every=4))
    comm.share_gradients("own")
    own = gradients(comm.rank, 0)
    assert torch.equal(joined(job.share(own)), joined(own))
    assert not joined(job.share(None)).any()
    assert torch.equal(job.beside, BESIDE)
    comm.share_gradients("whole")
    assert torch.allclose(joined(job.share(own)), true_sum(comm, 0), atol=1e-5)


comm = connect(CommConfig(sys.argv[1]), "cpu")
for compression, bound in zip(LOSSLESS, (1e-6, 2e-3, 1e-2), strict=True):
    check_rounding(comm, compression, bound)
for compression in FEEDBACK:
    check_goes_on_from_a_checkpoint(comm, compression)
    check_not_finite(comm, compression)
check_low_rank_sums_are_exact(comm)
for compression in (*LOSSLESS, *FEEDBACK):
    check_bytes(comm, compression)
check_passes(comm)
check_own_gradients(comm)
comm.barrier()
print(f"rank {comm.rank} keeps its promises", flush=True)
