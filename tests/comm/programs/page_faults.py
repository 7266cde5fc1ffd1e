"""Connects on the CPU, fills and frees 64 MB again and again, and prints what connect() set and the
pages that the kernel had to bring, once the heap has found its size."""

import json
import resource

import torch

from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig


def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


comm = connect(CommConfig("single"), "cpu")
faults(10)
print(json.dumps({"settings": comm.settings, "faults": faults(10)}))
