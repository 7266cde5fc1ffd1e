"""Prints a soup's statistics of BatchNorm over 5 images in two batches, and of single values."""

import torch

from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.data.loader import evaluation_batches
from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model
from hvd_yolo.soup import _recompute_statistics

comm = connect(CommConfig(), "cpu")
dataset = open_dataset("shapes:20", "val")


def statistics(size, block):
    torch.manual_seed(0)
    model = build_model("yolov8n", 3)
    batches = evaluation_batches(dataset, size, block, comm.rank, comm.size, 0)
    _recompute_statistics(model, batches, comm)
    return sum(float(b.double().sum()) for n, b in model.named_buffers() if "running_var" in n)


# One write per line: the launcher mixes what the ranks write.
print(f"statistics {statistics(64, 4):.6g}\n", end="", flush=True)
try:
    statistics(32, 1)
except InputError as error:
    print(f"refused: {error}\n", end="", flush=True)
