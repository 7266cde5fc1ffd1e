"""The pretend device itself: what would go wrong on a GPU goes wrong on it."""

import time

import numpy as np
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


def test_debug_mode_refuses_synchronizations(device):
    x = torch.ones(3, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
            x.sum().item()
        x.add_(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.tolist() == [2, 2, 2]


def test_the_backward_pass_is_named_by_its_node(device, sync_counts):
    x = torch.arange(3.0, device=device, requires_grad=True)
    total = x[x > 0].sum()
    with sync_counts() as counts:
        total.backward()
    assert [place for place in counts if "IndexBackward0" in place]


def test_tensors_of_two_devices_do_not_meet(device):
    x = torch.ones(3, device=device)
    assert (x + torch.tensor(1.0)).tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        x + torch.ones(3)
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()


def test_events_are_reached_in_time(device):
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    time.sleep(0.05)
    pinned(1, 2).to(device, non_blocking=True)
    last.record()
    assert first.query()
    # This asks for the event, which a GPU reaches while it is asked again.
    with pytest.raises(RuntimeError, match="completed"):
        first.elapsed_time(last)
    assert last.query()
    assert 50 <= first.elapsed_time(last) < 5000


def test_memory_is_counted_and_limited(device):
    from tests.pretend_cuda.extension import extension

    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    limit = torch.cuda.mem_get_info()[1]
    x = torch.empty(1000, 1000, device=device)
    assert torch.cuda.memory_allocated() - before == 4_000_000
    torch.cuda.reset_peak_memory_stats()
    del x
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() == before + 4_000_000
    assert torch.cuda.memory_reserved() >= before + 4_000_000
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < before + 4_000_000
    extension().set_memory_limit(0, before + 1_000_000)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            torch.empty(1000, 1000, device=device)
    finally:
        extension().set_memory_limit(0, limit)


def test_page_locked_memory_is_counted_and_limited():
    from tests.pretend_cuda.extension import extension

    before = extension().pinned_memory()
    memory = np.zeros(1 << 20, dtype=np.uint8)
    register = torch.cuda.cudart().cudaHostRegister
    unregister = torch.cuda.cudart().cudaHostUnregister
    assert int(register(memory.ctypes.data, memory.nbytes, 0)) == 0
    assert torch.from_numpy(memory)[100:].is_pinned()
    tensor = torch.zeros(1 << 10, dtype=torch.uint8).pin_memory()
    assert extension().pinned_memory()["bytes"] - before["bytes"] == (1 << 20) + (1 << 10)
    assert int(unregister(memory.ctypes.data)) == 0
    del tensor
    assert extension().pinned_memory()["bytes"] == before["bytes"]
    extension().set_pinned_limit(before["bytes"] + 1000)
    try:
        assert int(register(memory.ctypes.data, memory.nbytes, 0)) == 2
        with pytest.raises(RuntimeError, match="out of memory"):
            torch.zeros(1 << 10, dtype=torch.uint8).pin_memory()
    finally:
        extension().set_pinned_limit(before["limit"])


def test_compute_capability_is_a_choice(monkeypatch):
    monkeypatch.setenv("PRETEND_CUDA_CAPABILITY", "7.5")
    assert torch.cuda.get_device_capability() == (7, 5)
    assert not torch.cuda.is_bf16_supported(including_emulation=False)
    monkeypatch.setenv("PRETEND_CUDA_CAPABILITY", "8.0")
    assert torch.cuda.is_bf16_supported(including_emulation=False)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_optimizers_skip_without_a_wait(name, device, sync_counts):
    """found_inf and grad_scale as GradScaler sets them."""

    def weights_after(device, found_inf):
        torch.manual_seed(0)
        weight = torch.rand(5, 3).to(device).requires_grad_()
        optimizer = getattr(torch.optim, name)([weight], lr=0.1, fused=True)
        scale, is_bad = (torch.tensor(v).to(device) for v in (2.0, found_inf))
        weight.grad = torch.arange(15.0).view(5, 3).to(device)
        optimizer.grad_scale, optimizer.found_inf = scale, is_bad
        with sync_counts() as counts:
            optimizer.step()
        assert counts.total() == 0, counts
        return weight.detach().cpu()

    cpu = torch.device("cpu")
    start = weights_after(cpu, 1.0)
    assert torch.equal(weights_after(device, 1.0), start)
    moved = weights_after(device, 0.0)
    assert torch.equal(moved, weights_after(cpu, 0.0))
    assert not torch.equal(moved, start)


def test_gradients_are_unscaled_without_a_wait(device, sync_counts):
    gradients = [torch.full((3,), 4.0, device=device), torch.full((2, 2), 8.0, device=device)]
    found_inf = torch.zeros((), device=device)
    half = torch.full((), 0.5, device=device)
    with sync_counts() as counts:
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, half)
        norm = torch.nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, half)
    assert counts.total() == 0, counts
    assert [g.unique().tolist() for g in gradients] == [[1.0], [2.0]]
    assert norm.item() == pytest.approx((3 * 4 + 4 * 16) ** 0.5)
    gradients[0][0] = float("inf")
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, half)
    assert found_inf.item() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_softmax_under_autocast_is_float32(dtype, device):
    x = torch.rand(4, 5, device=device).to(dtype).requires_grad_()
    with torch.autocast("cuda", dtype=torch.float16):
        y = x.softmax(-1)
    (y * torch.arange(5, device=device)).sum().backward()
    copy = x.detach().float().cpu().requires_grad_()
    (copy.softmax(-1) * torch.arange(5)).sum().backward()
    assert y.dtype == torch.float32
    assert x.grad.dtype == dtype
    torch.testing.assert_close(x.grad.float().cpu(), copy.grad, rtol=1e-2, atol=1e-3)


def synchronized_norm(parts, weight, bias, running):
    """What SyncBatchNorm does on ranks with these shares: outputs, and a function from their
    gradients to those of inputs, weight and bias."""
    eps, momentum = 1e-3, 0.1
    stats = [torch.batch_norm_stats(part, eps) for part in parts]
    counts = torch.tensor(
        [float(part.numel() // part.shape[1]) for part in parts], dtype=torch.float64
    ).to(weight.device)
    mean, invstd = torch.batch_norm_gather_stats_with_counts(
        parts[0], torch.stack([m for m, _ in stats]), torch.stack([s for _, s in stats]),
        *running, momentum, eps, counts,
    )  # fmt: skip
    outputs = [torch.batch_norm_elemt(part, weight, bias, mean, invstd, eps) for part in parts]

    def backward(gradients):
        sums = [
            torch.batch_norm_backward_reduce(dy, x, mean, invstd, weight, True, True, True)
            for dy, x in zip(gradients, parts, strict=True)
        ]
        dy, dy_xmu, dweight, dbias = (sum(values) for values in zip(*sums, strict=True))
        inputs = [
            torch.batch_norm_backward_elemt(g, x, mean, invstd, weight, dy, dy_xmu, counts.int())
            for g, x in zip(gradients, parts, strict=True)
        ]
        return inputs, dweight, dbias

    return outputs, backward


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_synchronized_batch_norm_is_that_of_the_whole_batch(device, layout):
    torch.manual_seed(0)
    whole = torch.randn(5, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    running = [torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    own_running = [value.clone().to(device) for value in running]
    expected = torch.nn.functional.batch_norm(
        whole, *running, weight, bias, training=True, momentum=0.1, eps=1e-3
    )
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    parts = [p.to(device, memory_format=layout) for p in whole.detach().split((2, 3))]
    outputs, backward = synchronized_norm(
        parts, weight.detach().to(device), bias.detach().to(device), own_running
    )
    inputs, dweight, dbias = backward(
        [p.to(device, memory_format=layout) for p in upstream.split((2, 3))]
    )
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(torch.cat(outputs).cpu(), expected.detach(), **close)
    torch.testing.assert_close(torch.cat(inputs).cpu(), whole.grad, **close)
    torch.testing.assert_close(dweight.cpu(), weight.grad, **close)
    torch.testing.assert_close(dbias.cpu(), bias.grad, **close)
    for ours, theirs in zip(own_running, running, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, **close)
    assert outputs[0].is_contiguous(memory_format=layout)
