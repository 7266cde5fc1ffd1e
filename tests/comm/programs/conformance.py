"""What every Comm promises, checked on real ranks: `python conformance.py BACKEND SIZE`."""

import sys
from itertools import chain

import torch
from torch import nn

from hvd_yolo.comm import agree, broadcast_bytes, connect, gather_json, send_to_main
from hvd_yolo.config import CommConfig
from hvd_yolo.errors import InputError


def check_collectives(comm):
    ranks = torch.arange(comm.size, dtype=torch.float64)
    mine = torch.full((3, 2), float(comm.rank), dtype=torch.float64)
    assert torch.equal(comm.sum(mine), torch.full((3, 2), float(ranks.sum()), dtype=torch.float64))
    assert torch.allclose(comm.mean(mine), torch.full((3, 2), float(ranks.mean())).double())
    assert comm.sum(torch.tensor([comm.rank + 1])).item() == comm.size * (comm.size + 1) // 2

    # Uneven parts, rank 0's is empty.
    parts = comm.gather(torch.full((comm.rank, 2), comm.rank, dtype=torch.int64))
    assert [tuple(p.shape) for p in parts] == [(r, 2) for r in range(comm.size)]
    assert all((p == r).all() for r, p in enumerate(parts))
    everyone_empty = comm.gather(torch.zeros(0, 7))
    assert [tuple(p.shape) for p in everyone_empty] == [(0, 7)] * comm.size

    # Rank r has s rows of 10 r + s for rank s, so nothing for rank 0.
    parts = [torch.full((s, 3), 10 * comm.rank + s, dtype=torch.int32) for s in range(comm.size)]
    for r, part in enumerate(comm.exchange(parts)):
        assert part.shape == (comm.rank, 3)
        assert (part == 10 * r + comm.rank).all()
    nothing = comm.exchange([torch.zeros(0, 2).double()] * comm.size)
    assert [(tuple(p.shape), p.dtype) for p in nothing] == [((0, 2), torch.float64)] * comm.size
    on_main = send_to_main(comm, torch.full((comm.rank + 1,), float(comm.rank)))
    assert [len(p) for p in on_main] == [(r + 1) * comm.is_main for r in range(comm.size)]
    assert all((p == r).all() for r, p in enumerate(on_main))

    root = comm.size - 1
    assert comm.broadcast(torch.tensor([comm.rank * 10.0]), root).item() == root * 10
    said = b"\x00rank %d" % comm.rank
    assert broadcast_bytes(comm, said, root) == b"\x00rank %d" % root
    assert gather_json(comm, {"rank": comm.rank}) == [{"rank": r} for r in range(comm.size)]
    comm.barrier()


def check_agreement(comm):
    """One rank's InputError is everybody's, and names the rank; no error is nobody's."""
    with agree(comm):
        pass
    try:
        with agree(comm):
            if comm.rank == comm.size - 1:
                raise InputError("the disk is gone")
    except InputError as error:
        assert "the disk is gone" in str(error)
        assert comm.size == 1 or f"on rank {comm.size - 1}" in str(error)
    else:
        raise AssertionError("the error was lost")


def model_of(layout):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 3), nn.Conv2d(4, 1, 1))
    return model.double().to(memory_format=layout)


def loss_of(model, image_numbers):
    images = [torch.full((3, 6, 6), 0.1 * (number + 1)).double() for number in image_numbers]
    return model(torch.stack(images)).square().sum()


def check_optimizer(comm, layout, momentum):
    """Uneven, empty and micro-batched shares give the gradients of the joined batch, on each of two
    updates."""
    reference, model = model_of(layout), model_of(layout)
    options = {"lr": 0.01, "momentum": momentum}
    reference_optimizer = torch.optim.SGD(reference.parameters(), **options)
    optimizer = comm.distribute(
        torch.optim.SGD(model.parameters(), **options), model, 2, CommConfig(groups=3), {}
    )
    for update in range(2):
        everyone = [[rank * 10 + i + update for i in range(3 * rank)] for rank in range(comm.size)]
        everyone[-1] = everyone[-1] or [5, 6, 7]
        reference_optimizer.zero_grad()
        loss_of(reference, list(chain(*everyone))).backward()
        reference_optimizer.step()

        own = everyone[comm.rank]
        optimizer.zero_grad()
        # Ranks of 0, 3 and 6 images make 0, 1 and 2 passes.
        for piece in (own[:4], own[4:]):
            if piece:
                loss_of(model, piece).backward()
        with comm.reduced_gradients(optimizer, lambda: torch.tensor([1.0, comm.rank])) as beside:
            assert beside.tolist() == [comm.size, comm.size * (comm.size - 1) / 2]
            for p, q in zip(model.parameters(), reference.parameters(), strict=True):
                assert torch.allclose(p.grad, q.grad, rtol=1e-12, atol=1e-12)
            optimizer.step()
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-12, atol=1e-12)


def check_state_goes_along(comm):
    """distribute() keeps the momentum that the optimizer had."""
    model = model_of(torch.contiguous_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss_of(model, [1]).backward()
    optimizer.step()
    before = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    distributed = comm.distribute(optimizer, model, 1, CommConfig(groups=2), {})
    after = [distributed.state[p]["momentum_buffer"] for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def main(backend, size):
    comm = connect(CommConfig(backend), "cpu")
    assert (comm.name, comm.size) == (backend, size)
    assert comm.is_main == (comm.rank == 0)
    assert gather_json(comm, comm.rank) == list(range(size))
    check_collectives(comm)
    check_agreement(comm)
    for layout in (torch.contiguous_format, torch.channels_last):
        check_optimizer(comm, layout, momentum=0.9)
    check_state_goes_along(comm)
    comm.barrier()
    print(f"rank {comm.rank} conforms", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
