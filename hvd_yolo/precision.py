"""In which precision forward and backward compute: train.amp, train.tf32, train.deterministic."""

from contextlib import AbstractContextManager
from pathlib import Path

import torch

from hvd_yolo.config import TrainConfig

_LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_amp(
    wanted: str, dtype: str, model: str, device: torch.device, may_scale_loss: bool = True
) -> str:
    """train.amp with auto decided: half precision where it is faster and known to train, else none.

    That is the built-in models (a name without a colon) on a GPU with tensor cores, or on a CPU
    that multiplies bf16 itself, where their step takes about half the time. Without such
    instructions bf16 is emulated and slower. may_scale_loss: fp16, which needs loss scaling, goes
    with the rest of the config.
    """
    if wanted != "auto":
        return wanted
    if dtype != "float32" or ":" in model:
        return "none"
    if device.type == "cpu":
        return "bf16" if has_bf16(Path("/proc/cpuinfo").read_text()) else "none"
    amp = amp_of_gpu(torch.cuda.get_device_capability(device))
    return "none" if amp == "fp16" and not may_scale_loss else amp


def amp_of_gpu(capability: tuple[int, int]) -> str:
    """The half precision of the tensor cores of a GPU of that compute capability: bf16 from 8.0
    (Ampere), fp16 from 7.0 (Volta), else none."""
    if capability >= (8, 0):
        return "bf16"
    return "fp16" if capability >= (7, 0) else "none"


def set_arithmetic(options: TrainConfig, has_fixed_shapes: bool) -> None:
    """Makes torch compute as train.tf32 and train.deterministic say, before the model is made; all
    ranks alike. has_fixed_shapes: of the images of a run, so that trying cuDNN's algorithms once
    pays."""
    precision = "tf32" if options.tf32 else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    # Of convolutions torch's default is TF32.
    torch.backends.cudnn.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision
    torch.backends.cudnn.rnn.fp32_precision = precision
    torch.backends.cudnn.benchmark = has_fixed_shapes and not options.deterministic
    torch.backends.cudnn.deterministic = options.deterministic
    # Warnings: a model with one operation that has no deterministic counterpart trains all the
    # same.
    torch.use_deterministic_algorithms(options.deterministic, warn_only=True)
    # No memory is read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False


def arithmetic(options: TrainConfig, device: torch.device) -> str:
    """In which precision the training computes, for people."""
    name = options.dtype if options.amp == "none" else options.amp
    if device.type == "cuda":
        name += ", TF32 on" if options.tf32 else ", TF32 off"
    name += ", deterministic" if options.deterministic else ""
    return f"{name}, compiled" if options.compile else name


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
