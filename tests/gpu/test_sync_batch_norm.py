"""SyncBatchNorm on GPUs is BatchNorm of the joined batch, and waits for nothing."""

import pytest
import torch
from torch import nn

from hvd_yolo.comm.batch_norm import convert
from hvd_yolo.comm.single import SingleComm
from tests.conftest import run_job

pytestmark = pytest.mark.gpu
PROGRAM = "tests/gpu/programs/sync_batch_norm.py"


@pytest.mark.parametrize(
    ("size", "launcher", "means", "environment"),
    [
        (1, "", "", {}),
        (2, "gloo", "torch's NCCL", {}),
        (2, "gloo", "", {"PRETEND_CUDA_NCCL": "0"}),
        (2, "torchrun", "", {}),
    ],
)
def test_sync_batch_norm_is_batch_norm_of_the_joined_batch(
    size, launcher, means, environment, is_pretend
):
    if size > 1 and not is_pretend and torch.cuda.device_count() < size:
        pytest.skip("needs two GPUs")
    if environment and not is_pretend:
        pytest.skip("a torch for a real GPU has NCCL")
    words = ["-m", "tests.pretend_cuda.run", PROGRAM] if is_pretend else [PROGRAM]
    done = run_job(size, [*words, means], launcher, PRETEND_CUDA_DEVICES=str(size), **environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("agrees") == size


def test_sync_batch_norm_does_not_wait_for_the_device(device, sync_counts):
    model = convert(nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8)), SingleComm()).to(device)
    x = torch.randn(2, 8, 4, 4, device=device, requires_grad=True)
    gradient = torch.ones(2, 8, 4, 4, device=device)
    with sync_counts() as counts:
        model(x).backward(gradient)
    assert not counts
