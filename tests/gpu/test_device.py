"""The pretend device itself: what would go wrong on a GPU goes wrong on it."""

import pytest
import torch

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _needs_pretend(is_pretend):
    if not is_pretend:
        pytest.skip("a real GPU may hide what the pretend one shows")


def pinned(*values):
    return torch.tensor(values, dtype=torch.float32).pin_memory()


def test_reading_a_tensor_before_its_copy_is_a_race(device):
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        copied = pinned(1, 2, 3).to(device, non_blocking=True)
    with pytest.raises(RuntimeError, match=r"race: .*wait for its event"):
        copied.sum()
    torch.cuda.current_stream().wait_stream(side)
    assert copied.sum().item() == 6
    copied.record_stream(torch.cuda.current_stream())


def test_overwriting_the_source_of_a_copy_in_flight_is_a_race(device):
    source = pinned(1, 2, 3)
    copied = source.to(device, non_blocking=True)
    source[0] = 7
    with pytest.raises(RuntimeError, match=r"race: the source of a copy"):
        copied.sum()


def test_a_copy_to_the_host_is_read_only_after_its_event(device):
    there = torch.arange(3.0, device=device)
    here = there.to("cpu", non_blocking=True)
    assert here.isnan().all()
    event = torch.cuda.Event()
    event.record()
    event.synchronize()
    assert here.tolist() == [0, 1, 2]


def test_overwriting_what_another_stream_reads_is_a_race(device):
    there, side = torch.ones(3, device=device), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        copy = there * 2
    with pytest.raises(RuntimeError, match=r"race: .*may not have read yet"):
        there.zero_()
    torch.cuda.current_stream().wait_stream(side)
    there.zero_()
    assert (copy - there).tolist() == [2, 2, 2]
    copy.record_stream(torch.cuda.current_stream())


def test_memory_freed_while_another_stream_uses_it_needs_record_stream(device):
    def use_on_main(is_recorded):
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            value = torch.ones(3, device=device)
        torch.cuda.current_stream().wait_stream(side)
        total = value.sum()
        if is_recorded:
            value.record_stream(torch.cuda.current_stream())
        return total

    assert use_on_main(is_recorded=True).item() == 3
    with pytest.raises(RuntimeError, match=r"record_stream\(\) is missing"):
        use_on_main(is_recorded=False).item()


def test_fresh_memory_is_nan(device):
    assert torch.empty(5, device=device).isnan().all()
    assert torch.empty(5, device=device, dtype=torch.float16).isnan().all()


def one_mask(x):
    return x[x > 0]


def event_wait(x):
    event = torch.cuda.Event()
    event.record()
    event.synchronize()


# What waits for the device, and how often; checked against CUDA's kernels in torch's sources.
SYNCS = {
    "item": (lambda x: x.sum().item(), 1),
    "bool": (lambda x: bool(x.isfinite().all()), 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "mask": (one_mask, 1),
    "put under a mask": (lambda x: x.index_put_((x > 0,), torch.ones(3, device=x.device)), 1),
    "fill under a mask": (lambda x: x.masked_fill_(x > 0, 1.0), 0),
    "number under a mask": (lambda x: x.__setitem__(x > 0, 1.0), 0),
    "indices of the CPU": (lambda x: x[torch.tensor([0, 1])], 1),
    "put at indices": (lambda x: x.__setitem__(torch.tensor([0, 1], device=x.device), x[:2]), 1),
    "number at indices": (lambda x: x.__setitem__(x.long() * 0, 1.0), 1),
    "indices of the device": (lambda x: x[x.long() * 0], 0),
    "one element set": (lambda x: x.__setitem__(0, 5.0), 1),
    "tolist": (lambda x: x.tolist(), 1),
    "new tensor from numbers": (lambda x: torch.tensor([1.0, 2.0], device=x.device), 1),
    "blocking copy": (lambda x: torch.ones(3).to(x.device), 1),
    "pageable copy": (lambda x: torch.ones(3).to(x.device, non_blocking=True), 1),
    "page-locked copy": (lambda x: torch.ones(3).pin_memory().to(x.device, non_blocking=True), 0),
    "event": (event_wait, 1),
    "device": (lambda x: torch.cuda.synchronize(), 1),
    "stream": (lambda x: torch.cuda.current_stream().synchronize(), 1),
    "event asked": (lambda x: torch.cuda.current_stream().record_event().query(), 0),
    "nonzero_static": (lambda x: torch.nonzero_static(x > 0, size=5), 0),
    "where": (lambda x: torch.where(x > 0, x, 0.0), 0),
    "topk": (lambda x: x.topk(2), 0),
    "number of the host": (lambda x: x * 2.5 + torch.tensor(1.0), 0),
}


@pytest.mark.parametrize("name", SYNCS)
def test_synchronizations_are_counted(device, sync_counts, name):
    call, expected = SYNCS[name]
    x = torch.arange(1.0, 4.0, device=device)
    with sync_counts() as counts:
        call(x)
    assert counts.total() == expected, counts
