"""Promise 1: the number of ranks changes nothing but the time.

Whole training jobs in float64; weights, EMA and statistics compared after 20 updates. With SGD,
which passes rounding errors on as they are. AdamW divides by sqrt(v) + 1e-8 and magnifies those of
a vanishing gradient, so it has a test and a bound of its own.
"""

import pytest
import torch

from hvd_yolo import checkpoint
from hvd_yolo.models import build_model
from tests.conftest import needs_mpi, train
from tests.teachers import write_teacher

LONG = pytest.mark.long

COMMON = (
    "--data", "shapes:56", "--imgsz", "64", "--train.dtype", "float64", "--epochs", "100",
    "--max_updates", "20", "--eval.every", "0", "--report.every", "20",
    "--report.plots", "false", "--optim.warmup_epochs", "1", "--optim.name", "sgd",
)  # fmt: skip


def weights_after(folder, num_ranks, *options, launcher="mpirun"):
    train(num_ranks, folder, *COMMON, *options, launcher=launcher)
    return checkpoint.load(folder / "checkpoints" / "last.pt")["training"]


def largest_difference(a, b):
    differences = [
        float((a[part][name] - b[part][name]).abs().max())
        for part in ("model", "ema")
        for name in a[part]
        if a[part][name].is_floating_point()
    ]
    return max(differences)


def check(
    tmp_path, sizes, options, reference_options=(), launcher="mpirun", bound=1e-9, updates=20
):
    reference = weights_after(tmp_path / "reference", 1, *options, *reference_options)
    assert reference["updates"] == updates
    for size in sizes:
        found = weights_after(tmp_path / str(size), size, *options, launcher=launcher)
        difference = largest_difference(reference, found)
        print(f"{size} ranks: largest difference {difference:.1e}")
        assert difference < bound
        assert float((found["loss_weights"] - reference["loss_weights"]).abs().max()) < bound


@needs_mpi
def test_13_images_on_1_2_3_5_ranks_with_sync_bn(tmp_path):
    check(tmp_path, (2, 3, 5), ("--global_batch", "13", "--train.sync_bn", "true"))


@needs_mpi
@LONG
def test_13_images_with_compiled_arithmetic(tmp_path):
    """Compilation takes minutes, and is found again by the ranks that come later."""
    options = ("--global_batch", "13", "--train.freeze_bn", "true", "--train.compile", "true")
    check(tmp_path, (2,), (*options, "--max_updates", "6"), updates=6)


# Rates at which 20 updates do not blow rounding errors up: at 64 pixels and 7 images the gradient
# of YOLOX-nano is steep (norm 800), and it changes steeply.
RATES = {"yolov5n": "1e-3", "yolov10n": "1e-4", "yolo11n": "1e-4", "yolox-nano": "1e-8"}


@needs_mpi
@LONG
@pytest.mark.parametrize("name", RATES)
def test_every_family_on_1_and_3_ranks(tmp_path, name):
    """Without clipping, which would hide a wrong divisor."""
    options = ("--model", name, "--global_batch", "7", "--train.sync_bn", "true")
    options += ("--optim.clip_norm", "0", "--optim.lr", RATES[name])
    check(tmp_path, (3,), options)
    torch.manual_seed(0)
    at_first = build_model(name, 6).state_dict()
    at_last = checkpoint.load(tmp_path / "3" / "checkpoints" / "last.pt")["training"]["model"]
    kernels = [key for key in at_first if key.endswith("conv.weight")]
    moved = [(at_first[key].double() - at_last[key]).abs().max() for key in kernels]
    assert 1e-6 < float(max(moved)) < 0.1


@needs_mpi
def test_13_images_with_adamw(tmp_path):
    options = ("--global_batch", "13", "--train.sync_bn", "true", "--optim.name", "adamw")
    check(tmp_path, (3,), options, bound=1e-6)


@LONG
@needs_mpi
@pytest.mark.parametrize(
    ("name", "rate", "bound"),
    [("lars", "0.1", 1e-9), ("lamb", "1e-3", 1e-6)],
)
def test_13_images_with_layer_wise_rates(tmp_path, name, rate, bound):
    """LAMB magnifies rounding errors as AdamW does."""
    options = ("--global_batch", "13", "--train.sync_bn", "true", "--optim.name", name)
    check(tmp_path, (2,), (*options, "--optim.lr", rate), bound=bound)


@needs_mpi
def test_a_rank_without_images_with_sync_bn(tmp_path):
    check(tmp_path, (3,), ("--global_batch", "2", "--train.sync_bn", "true"))


@needs_mpi
@pytest.mark.parametrize(
    ("student", "teacher", "global_batch", "sizes"),
    [
        ("yolov8n", "yolo11n", "7", (3,)),
        pytest.param("yolov8n", "yolov8n", "2", (3,), marks=LONG),
        pytest.param("yolo11n", "yolov8n", "7", (2,), marks=LONG),
        pytest.param("yolov10n", "yolov10n", "7", (3,), marks=LONG),
        pytest.param("yolox-nano", "yolov8n", "7", (3,), marks=LONG),
    ],
)
def test_a_student_with_a_teacher(tmp_path, student, teacher, global_batch, sizes):
    """2 images on 3 ranks: one has none. Without clipping, which would hide a wrong divisor; the
    first gradients of distill_cls are large (norm 5,000), so the rate is small."""
    options = ("--model", student, "--teacher", write_teacher(tmp_path / "teacher.pt", teacher))
    options += ("--distill.feature", "10", "--distill.layers", "neck", "--optim.clip_norm", "0")
    options += ("--optim.lr", "1e-9" if student == "yolox-nano" else "1e-7")
    check(tmp_path, sizes, (*options, "--global_batch", global_batch, "--train.sync_bn", "true"))


@needs_mpi
@pytest.mark.parametrize("global_batch", ["9", pytest.param("2", marks=LONG)])
def test_rectangular_weighted_updates_of_many_sizes(tmp_path, global_batch):
    """Inputs of 64 to 192 pixels, wide, high and square; 2 on 3 ranks: one has no images."""
    options = ("--order.rect", "true", "--order.multi_scale", "0.5", "--order.class_balance", "1")
    options += ("--imgsz", "128", "--train.sync_bn", "true", "--data", "shapes:28")
    check(tmp_path, (3,), (*options, "--global_batch", global_batch))


@needs_mpi
@pytest.mark.parametrize("sizes", [(1, 3), pytest.param((2, 5), marks=LONG)])
def test_micro_batches_of_4_with_frozen_bn(tmp_path, sizes):
    """With AdamW, for without BatchNorm's scaling SGD hardly moves the kernels in 20 updates."""
    options = ("--global_batch", "13", "--train.freeze_bn", "true", "--batch_size", "4")
    options += ("--optim.name", "adamw")
    check(tmp_path, sizes, options, ("--batch_size", "13"))


def test_a_rank_without_images_with_frozen_bn_over_gloo(tmp_path):
    options = ("--global_batch", "2", "--train.freeze_bn", "true")
    check(tmp_path, (3,), options, launcher="gloo")


@needs_mpi
def test_two_runs_with_one_seed_are_bitwise_equal(tmp_path):
    """Horovod as it comes is not: it fuses by timing, and the order of sums with it."""
    options = ("--global_batch", "6", "--train.dtype", "float32", "--train.amp", "none")
    runs = [weights_after(tmp_path / name, 3, *options) for name in ("a", "b")]
    for part in ("model", "ema"):
        for name, value in runs[0][part].items():
            assert torch.equal(value, runs[1][part][name]), name


@needs_mpi
def test_a_foreign_detector_without_batch_norm(tmp_path):
    """Losses are a plain dict of means over the images of a rank, weighted by their number."""
    options = ("--model", "tests.models.plain_detector:build", "--global_batch", "13")
    check(tmp_path, (3,), options)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--train.sync_bn", "true"), id="sync_bn"),
        pytest.param(
            ("--train.freeze_bn", "true", "--batch_size", "4", "--optim.name", "adamw"),
            id="micro-batches of 4",
            marks=LONG,
        ),
    ],
)
def test_13_images_over_torch_distributed(tmp_path, options):
    options = ("--global_batch", "13", *options)
    check(tmp_path, (3,), options, launcher="torchrun")


@LONG
def test_a_rank_without_images_over_torch_distributed(tmp_path):
    options = ("--global_batch", "2", "--train.sync_bn", "true")
    check(tmp_path, (3,), options, launcher="torchrun")
