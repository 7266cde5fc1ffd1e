"""A snapshot is a copy of the moment when it was made."""

import torch

from hvd_yolo.snapshot import Snapshot


def test_what_changes_afterwards_is_not_in_it():
    weight = torch.arange(6.0).reshape(2, 3)
    state = {"weights": weight, "again": weight, "part": [weight[0]], "numbers": (1, {"n": 2})}
    expected = weight.clone()
    snapshot = Snapshot(state)
    weight.add_(1)
    state["part"].append(weight)
    state["numbers"][1]["n"] = 3
    del state["again"]
    found = snapshot.result()
    assert torch.equal(found["weights"], expected)
    assert found["again"] is found["weights"]
    assert torch.equal(found["part"][0], expected[0])
    assert len(found["part"]) == 1
    assert found["numbers"] == (1, {"n": 2})


def test_layouts_are_kept():
    channels_last = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    turned = torch.rand(3, 4).t()
    gaps = torch.rand(4, 6)[:, ::2]
    found = Snapshot([channels_last, turned, gaps, torch.rand(1).expand(3)]).result()
    assert found[0].stride() == channels_last.stride()
    assert found[1].stride() == turned.stride()
    assert found[2].is_contiguous()
    assert torch.equal(found[2], gaps)
    assert found[3].stride() == (1,)
