"""In which precision forward and backward compute: train.amp."""

from contextlib import AbstractContextManager
from pathlib import Path

import torch

_LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_amp(wanted: str, dtype: str, model: str, device: torch.device) -> str:
    """train.amp with auto decided: bf16 where it is faster and known to train, else none.

    That is the built-in models (a name without a colon) on a CPU that multiplies bf16 itself, where
    their step takes about half the time. Without such instructions bf16 is emulated and slower.
    """
    if wanted != "auto":
        return wanted
    is_known = device.type == "cpu" and dtype == "float32" and ":" not in model
    return "bf16" if is_known and has_bf16(Path("/proc/cpuinfo").read_text()) else "none"


def has_bf16(cpuinfo: str) -> bool:
    """Whether the text of /proc/cpuinfo tells of an x86 CPU with AVX512_BF16 or AMX.

    Not torch.ops.mkldnn._is_mkldnn_bf16_supported, which is content with any AVX-512.
    """
    flags = {
        flag for line in cpuinfo.splitlines() if line.startswith("flags") for flag in line.split()
    }
    return not flags.isdisjoint(("avx512_bf16", "amx_bf16"))


def inference_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """What a network that is only asked computes in, beside a training in `dtype`: half precision
    where the device multiplies it itself, but float64 where all is float64."""
    if dtype == "float64":
        return torch.float64
    if device.type == "cuda":
        has_own = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_own else torch.float16
    return torch.bfloat16 if has_bf16(Path("/proc/cpuinfo").read_text()) else torch.float32


def evaluation_amp(wanted: str, trained: str, device: torch.device) -> str:
    """eval.amp with auto decided: on a GPU as the model was `trained`; on the CPU none, so that
    scores there are those of float32."""
    if wanted != "auto":
        return wanted
    return trained if device.type == "cuda" else "none"


def autocast(amp: str, device: torch.device) -> AbstractContextManager[None]:
    """The context in which the forward pass computes in `amp`: none, bf16 or fp16."""
    return torch.autocast(device.type, dtype=_LOW.get(amp), enabled=amp in _LOW)
