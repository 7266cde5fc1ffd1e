"""Importing this module gives the process its pretend devices; before torch. pytest takes it as a
plugin: -p tests.pretend_cuda.device."""

import atexit
import os

from tests.pretend_cuda import collectives, counts, cuda_module
from tests.pretend_cuda.build import build
from tests.pretend_cuda.extension import extension
from tests.pretend_cuda.operators import operator_tables

extension().set_operator_tables(*operator_tables(build().parent))
cuda_module.install()
collectives.install()
counts.listen()
if "PRETEND_CUDA_REPORT" in os.environ:
    atexit.register(counts.write_report, os.environ["PRETEND_CUDA_REPORT"])
if "PRETEND_CUDA_TRACE" in os.environ:
    # Nodes of the backward pass then know their forward line; slow, and changes nothing else.
    import torch

    torch.autograd.set_detect_anomaly(True, check_nan=False)
