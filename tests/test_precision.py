import pytest
import torch

from hvd_yolo.config import Config
from hvd_yolo.precision import amp_of_gpu, arithmetic, choose_amp, has_bf16, set_arithmetic

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def cpuinfo(flags):
    return "".join(f"processor\t: {i}\nflags\t\t: fpu sse {flags}\nbugs\t\t: x\n\n" for i in (0, 1))


def test_bf16_is_an_instruction_of_the_cpu_not_any_avx512():
    assert has_bf16(cpuinfo("avx512f avx512bw avx512_bf16"))
    assert has_bf16(cpuinfo("avx512f amx_tile amx_bf16"))
    assert not has_bf16(cpuinfo("avx512f avx512bw avx512vl avx512dq"))
    assert not has_bf16(cpuinfo("avx2"))


def test_auto_is_none_where_bf16_gains_nothing_or_is_not_known_to_train():
    assert choose_amp("auto", "float64", "yolov8n", CPU) == "none"
    assert choose_amp("auto", "float32", "torchvision:fcos_resnet50_fpn", CPU) == "none"
    assert choose_amp("auto", "float32", "yolov8n", CPU) in ("none", "bf16")


def test_what_the_user_says_stays():
    for wanted in ("none", "bf16", "fp16"):
        for device in (CPU, GPU):
            assert choose_amp(wanted, "float32", "yolov8n", device) == wanted


def test_a_gpu_takes_what_its_tensor_cores_multiply():
    found = [amp_of_gpu(capability) for capability in ((9, 0), (8, 0), (7, 5), (7, 0), (6, 1))]
    assert found == ["bf16", "bf16", "fp16", "fp16", "none"]


@pytest.fixture
def restored():
    yield
    set_arithmetic(Config().train, True)


@pytest.mark.usefixtures("restored")
def test_tf32_is_what_the_config_says_and_the_banner_says_it():
    """torch's own default computes convolutions in TF32."""
    options = Config().train
    options.amp = "none"
    set_arithmetic(options, True)
    cudnn = torch.backends.cudnn
    assert (torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision) == ("ieee",) * 2
    assert (cudnn.benchmark, cudnn.deterministic) == (True, False)
    assert arithmetic(options, GPU) == "float32, TF32 off"
    assert arithmetic(options, CPU) == "float32"
    options.tf32 = True
    set_arithmetic(options, False)
    assert (torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision) == ("tf32",) * 2
    assert not cudnn.benchmark
    assert arithmetic(options, GPU) == "float32, TF32 on"


@pytest.mark.usefixtures("restored")
def test_deterministic_takes_no_algorithm_by_its_time():
    options = Config().train
    options.deterministic = True
    set_arithmetic(options, True)
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)
    assert torch.are_deterministic_algorithms_enabled()
    set_arithmetic(Config().train, True)
    assert not torch.are_deterministic_algorithms_enabled()
