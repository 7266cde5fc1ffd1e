"""Adasum on two ranks: the sum of what is orthogonal, the mean of what is parallel."""

import torch

from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig

comm = connect(CommConfig(op="adasum"), "cpu")
orthogonal = torch.eye(2)[comm.rank].repeat(50)
parallel = (torch.arange(12.0).view(3, 4) + 1).repeat(1, 1)
image = (torch.arange(16.0).view(1, 4, 2, 2) + 1).to(memory_format=torch.channels_last)
tensors = [orthogonal.clone(), parallel.clone(), image.clone()]
comm.adasum(tensors)
assert torch.allclose(tensors[0], torch.ones(100))
assert torch.allclose(tensors[1], parallel)
assert torch.allclose(tensors[2], image)
print(f"rank {comm.rank} agrees", flush=True)
