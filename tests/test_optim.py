import math

import pytest
import torch
from torch import nn

from hvd_yolo.config import Config, OptimConfig
from hvd_yolo.data.order import Dealing, Order
from hvd_yolo.ema import Ema
from hvd_yolo.optim import RateSchedule, build_optimizer, parameter_groups, scaled_rate
from hvd_yolo.pace import make_pace, smallest_micro_batch


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def test_biases_and_norms_do_not_decay():
    decayed, spared = parameter_groups(small_model(), 0.1)
    assert [p.ndim for p in decayed["params"]] == [4, 4]
    assert decayed["weight_decay"] == 0.1
    assert len(spared["params"]) == 4
    assert spared["weight_decay"] == 0


@pytest.mark.parametrize(
    ("rule", "multiple", "expected"),
    [("linear", 4, 0.04), ("sqrt", 4, 0.02), ("none", 4, 0.01), ("linear", 1, 0.01)],
)
def test_scaling_rules(rule, multiple, expected):
    assert math.isclose(scaled_rate(0.01, rule, multiple), expected)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_rate_climbs_from_the_unscaled_to_size_times_it(size):
    config = Config(epochs=100, batch_size=16)
    config.optim = OptimConfig(lr=0.01, warmup_epochs=3, schedule="constant")
    pace = make_pace(config, 1600, size)
    assert pace.dealing.global_batch == 16 * size
    assert pace.rate(0, 0) == pytest.approx(0.01)
    assert pace.rate(1, 800) == pytest.approx(0.01 + (0.01 * size - 0.01) / 2)
    assert pace.rate(3, 0) == pytest.approx(0.01 * size)
    assert f"{0.01 * size:g} at its peak (0.01 x {size} ranks linear)" in pace.banner()


def test_accumulation_counts_as_ranks_do():
    config = Config(batch_size=4)
    config.train.accumulate = 3
    pace = make_pace(config, 480, 2)
    assert (pace.dealing.global_batch, pace.dealing.passes) == (24, 3)
    assert pace.rates.peak == pytest.approx(config.optim.lr * 6)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_global_batch_and_its_rate_do_not_change_with_the_ranks(size):
    config = Config(global_batch=13, batch_size=4)
    pace = make_pace(config, 100, size)
    assert pace.dealing.global_batch == 13
    assert pace.rates.peak == config.optim.lr
    assert pace.dealing.updates_per_epoch == 8
    assert pace.dealing.passes == {1: 4, 2: 2, 3: 2, 5: 1}[size]


def test_max_updates_ends_the_schedule_too():
    config = Config(epochs=10, global_batch=10, max_updates=15)
    config.optim.warmup_epochs = 1
    pace = make_pace(config, 100, 1)
    assert pace.total_updates(0, 0, 0) == pace.total_updates(1, 20, 12) == 15
    assert not pace.is_over(1, 14)
    assert pace.is_over(1, 15)
    assert pace.rate(1, 50) == pytest.approx(pace.rates.peak * pace.rates.final)


def test_cosine_and_linear_decay_by_their_formulas():
    cosine = RateSchedule(0.1, 1.0, 10, 0, "cosine", 0.01)
    linear = RateSchedule(0.1, 1.0, 10, 0, "linear", 0.01)
    assert cosine.at(0) == pytest.approx(1.0)
    assert cosine.at(5) == pytest.approx(0.01 + 0.99 * 0.5)
    assert cosine.at(10) == pytest.approx(0.01)
    assert linear.at(5) == pytest.approx(1 - 0.99 * 0.5)


def test_ema_follows_its_formula_and_copies_counters():
    model = small_model()
    ema = Ema(model, decay=0.9, tau=5.0)
    before = ema.module[0].weight.clone()
    with torch.no_grad():
        model[0].weight.add_(1.0)
        model[1].num_batches_tracked.fill_(7)
    ema.update(model, 3)
    kept = 0.9 * (1 - math.exp(-3 / 5))
    expected = kept * before + (1 - kept) * model[0].weight
    assert torch.allclose(ema.module[0].weight, expected, atol=1e-7)
    assert ema.module[1].num_batches_tracked == 7


def test_ema_without_decay_is_a_copy():
    model = small_model()
    ema = Ema(model, decay=0.0, tau=5.0)
    with torch.no_grad():
        model[2].weight.mul_(3.0)
    ema.update(model, 1)
    assert torch.equal(ema.module[2].weight, model[2].weight)


def test_optimizers_are_the_ones_named():
    sgd = build_optimizer(OptimConfig(name="sgd", momentum=0.9), small_model())
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["nesterov"]
    adamw = build_optimizer(OptimConfig(name="adamw"), small_model())
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["betas"] == (0.9, 0.999)


def test_a_run_ends_by_epochs_on_any_number_of_ranks():
    """Half of 10 epochs made on 2 ranks, the rest on 4: the updates differ, the end does not."""
    two, four = (make_pace(Config(epochs=10, batch_size=10), 200, size) for size in (2, 4))
    assert two.total_updates(0, 0, 0) == 100
    assert four.total_updates(5, 0, 50) == 75
    assert not four.is_over(9, 74)
    assert four.is_over(10, 75)


@pytest.mark.parametrize("images", [3, 7, 16, 17])
@pytest.mark.parametrize(("global_batch", "micro_batch"), [(4, 2), (6, 4), (16, 3), (5, 5)])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_smallest_batch_of_a_rank_is_known_before(images, global_batch, micro_batch, size):
    """Reference: all micro-batches of two epochs, as they are dealt."""
    dealing = Dealing(images, global_batch, micro_batch, size)
    order = Order(0, images, 64)
    number = 2 * dealing.updates_per_epoch * dealing.passes
    lengths = {
        len(dealing.micro_batch_at(order, (0, 0), i, rank).indices)
        for i in range(number)
        for rank in range(size)
    }
    assert smallest_micro_batch(dealing) == min(lengths - {0})
