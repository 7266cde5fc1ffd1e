"""Statistics of norms that are not torch's: averaged over ranks; constants keep their bits."""

import torch
from torch import nn

from hvd_yolo.comm import connect
from hvd_yolo.comm.batch_norm import average_statistics
from hvd_yolo.config import CommConfig
from hvd_yolo.errors import InputError
from tests.models.own_norm_detector import OwnNorm

comm = connect(CommConfig(), "cpu")
norm, other = OwnNorm(3), nn.Module()
norm.register_buffer("third", torch.tensor([1 / 3, 0.1]))
norm.register_buffer("unsaved", torch.full((1 + comm.rank,), 1.0), persistent=False)
norm.register_buffer("count", torch.tensor(comm.rank))
norm.running_mean.fill_(float(comm.rank))
norm.moving_var = norm.moving_var.double() * (1 + comm.rank)
mask, third = norm.mask.clone(), norm.third.clone()
model = nn.Sequential(norm, nn.BatchNorm2d(3))
model[1].running_mean.fill_(float(comm.rank))
for has_own_norms in (False, True):
    average_statistics([model], comm, has_own_norms)
    mean = (comm.size - 1) / 2
    assert norm.running_mean.tolist() == [mean] * 3
    assert norm.moving_var.tolist() == [1 + mean] * 3
    assert torch.equal(norm.mask, mask)
    assert torch.equal(norm.third, third)
    assert norm.unsaved.tolist() == [1.0] * (1 + comm.rank)
    assert norm.count == comm.rank
    assert model[1].running_mean.tolist() == [mean if has_own_norms else comm.rank] * 3
norm.register_buffer("ragged", torch.zeros(1 + comm.rank))
try:
    average_statistics([model], comm)
    assert comm.size == 1
except InputError as error:
    assert "buffer 0.ragged has another shape on each rank" in str(error)
print(f"rank {comm.rank} agrees", flush=True)
