import torch

from hvd_yolo.precision import choose_amp, has_bf16

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def cpuinfo(flags):
    return "".join(f"processor\t: {i}\nflags\t\t: fpu sse {flags}\nbugs\t\t: x\n\n" for i in (0, 1))


def test_bf16_is_an_instruction_of_the_cpu_not_any_avx512():
    assert has_bf16(cpuinfo("avx512f avx512bw avx512_bf16"))
    assert has_bf16(cpuinfo("avx512f amx_tile amx_bf16"))
    assert not has_bf16(cpuinfo("avx512f avx512bw avx512vl avx512dq"))
    assert not has_bf16(cpuinfo("avx2"))


def test_auto_is_none_where_bf16_gains_nothing_or_is_not_known_to_train():
    assert choose_amp("auto", "float32", "yolov8n", GPU) == "none"
    assert choose_amp("auto", "float64", "yolov8n", CPU) == "none"
    assert choose_amp("auto", "float32", "torchvision:fcos_resnet50_fpn", CPU) == "none"
    assert choose_amp("auto", "float32", "yolov8n", CPU) in ("none", "bf16")


def test_what_the_user_says_stays():
    for wanted in ("none", "bf16", "fp16"):
        for device in (CPU, GPU):
            assert choose_amp(wanted, "float32", "yolov8n", device) == wanted
