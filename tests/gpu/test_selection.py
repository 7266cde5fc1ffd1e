"""Suppression on a device: nothing waits, and what was not final is finished."""

import pytest
import torch

from hvd_yolo.models import selection


@pytest.mark.gpu
def test_a_chain_longer_than_the_rounds_is_finished_on_the_device(device):
    corners = torch.arange(200.0, device=device)[:, None] * torch.tensor([4.0, 0.0], device=device)
    boxes = torch.cat((corners, corners + 10), dim=1)[None]
    scores = torch.linspace(1, 0.5, 200, device=device)[None, :, None]
    found = selection.suppress(boxes, scores, 0.1, 0.4, 300)
    assert torch.equal(found[0]["boxes"], boxes[0, ::2])
