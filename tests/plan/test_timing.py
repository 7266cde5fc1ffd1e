"""The arithmetic of a plan, against cases computed by hand."""

import math

import pytest

from hvd_yolo.models import build_model
from hvd_yolo.plan.gradients import Group, Layer, group_gradients, model_layers
from hvd_yolo.plan.links import Link
from hvd_yolo.plan.timing import (
    Cluster,
    Compression,
    Prediction,
    Work,
    best,
    can_be_hierarchical,
    exposed_seconds,
    largest_of,
    predict,
)

PLAIN = Compression("none", 4, 0.01, 0.0)
# 10 MB of gradients in one group that is there when the backward pass ends.
MATRIX = (2500, 1000)
LATE = (Group((MATRIX,), 1.0),)


def work(**changes):
    values = {
        "seconds": 1.0, "images": 16, "backward": 0.5, "threads": 1, "jitter": 0.0,
        "overhead": 0.0, "groups": LATE,
    }  # fmt: skip
    return Work(**{**values, **changes})


def link(bandwidth=1e8, latency=0.0, cpu=0.0, start=0.0):
    return Link("made", bandwidth, latency, start, cpu, "")


def cluster(bandwidth=1e8, latency=0.0, cpu=0.0, start=0.0, **changes):
    made = link(bandwidth, latency, cpu, start)
    return Cluster(**{"inner": made, "outer": made, **changes})


def seconds(work, cluster, size, compression=PLAIN, reduction="ring", every=1):
    return predict(work, cluster, compression, size, reduction, every).seconds


def test_a_ring_takes_two_n_minus_one_nths_of_the_bytes_and_as_many_hops():
    # 2 x 3/4 x 10 MB at 100 MB/s, and 6 hops of 1 ms; 6 more for the sums of the losses.
    found = predict(work(), cluster(latency=1e-3), PLAIN, 4, "ring", 1)
    assert found.sent == 15e6
    assert found.exposed == pytest.approx(0.150 + 0.006)
    assert found.seconds == pytest.approx(1.0 + 0.150 + 0.006 + 0.006)


def test_one_rank_takes_its_own_update_and_nothing_else():
    slow = cluster(bandwidth=1.0, latency=1.0, cpu=1.0)
    for every in (1, 4):
        assert seconds(work(jitter=0.5, overhead=0.5), slow, 1, every=every) == 1.0


def test_a_link_without_limits_costs_nothing():
    assert seconds(work(), cluster(bandwidth=math.inf), 1024) == 1.0


def test_reductions_hide_behind_the_backward_pass_in_turn():
    # The second starts when the first is through, at 0.6; the third when it is released, at 1.0.
    assert exposed_seconds([0.1, 0.2, 1.0], [0.5, 0.1, 0.3], 1.0) == pytest.approx(0.3)
    assert exposed_seconds([0.1, 0.2, 0.3], [0.5, 0.1, 0.3], 1.0) == 0.0
    assert exposed_seconds([0.1, 0.2, 0.3], [0.9, 0.5, 0.3], 1.0) == pytest.approx(0.8)


def test_without_a_backward_pass_all_communication_is_exposed():
    groups = tuple(Group((MATRIX,), release) for release in (0.25, 0.5, 1.0))
    found = predict(work(groups=groups, backward=0.0), cluster(), PLAIN, 2, "ring", 1)
    assert found.exposed == pytest.approx(3 * 0.1)
    hidden = predict(work(groups=groups, backward=1.0), cluster(), PLAIN, 2, "ring", 1)
    assert hidden.exposed == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["none", "fp16", "bf16", "powersgd", "topk"])
def test_more_bandwidth_is_never_slower(name):
    compression = Compression(name, 4, 0.01, 1e-9)
    shared = {"cpu": 2e-9, "cores": 2.0, "sharing": 4}
    found = [
        seconds(work(), cluster(bandwidth=10.0**i, **shared), 4, compression) for i in range(5, 12)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_messages_start_one_while_the_other_is_on_its_way():
    """Released together: one start is waited for; the sums of the losses travel beside them."""
    groups = tuple(Group((MATRIX,), 1.0) for _ in range(3))
    found = predict(work(groups=groups), cluster(start=0.02), PLAIN, 2, "ring", 1)
    assert found.exposed == pytest.approx(0.02 + 3 * 0.1)
    assert found.seconds == pytest.approx(1.0 + found.exposed)


def test_a_hierarchy_saves_hops_and_costs_a_way_within_the_host():
    """16 ranks on 2 hosts: 2 x 15 hops across become 2 within 14, which are short, and 2 across."""
    far, near = link(latency=1e-3), link(bandwidth=1e12, latency=0.0)
    hosts = Cluster(near, far, ranks_per_host=8)
    ring = predict(work(), hosts, PLAIN, 16, "ring", 1).exposed
    nested = predict(work(), hosts, PLAIN, 16, "hierarchical", 1).exposed
    assert ring == pytest.approx(2 * 15 / 16 * 0.1 + 0.030)
    assert nested == pytest.approx(2 * 1 / 2 * 0.1 + 0.002, rel=1e-3)
    no_latency = Cluster(link(bandwidth=1e8), link(bandwidth=1e8), ranks_per_host=8)
    assert seconds(work(), no_latency, 16, reduction="hierarchical") > seconds(
        work(), no_latency, 16
    )


def test_a_hierarchy_needs_several_hosts_of_several_ranks():
    assert not can_be_hierarchical(cluster(ranks_per_host=1), "none", 8)
    assert not can_be_hierarchical(cluster(ranks_per_host=8), "none", 8)
    assert not can_be_hierarchical(cluster(ranks_per_host=8), "none", 12)
    assert not can_be_hierarchical(cluster(ranks_per_host=8), "topk", 16)
    assert can_be_hierarchical(cluster(ranks_per_host=8), "powersgd", 16)


def test_ranks_of_a_host_move_the_bytes_of_a_hierarchy_across_once():
    """Two hosts of 4 ranks on one core: 10 MB leave a host, 10 ns a byte, whoever sends them."""
    near, far = link(bandwidth=math.inf), link(bandwidth=1e9, cpu=1e-8)
    hosts = Cluster(near, far, ranks_per_host=4, cores=1, sharing=4)
    found = predict(work(), hosts, PLAIN, 8, "hierarchical", 1)
    assert found.exposed == pytest.approx(10e6 * 1e-8)


def test_ranks_of_one_host_use_its_inner_link():
    hosts = Cluster(link(bandwidth=1e12), link(bandwidth=1e6), ranks_per_host=8)
    assert seconds(work(), hosts, 8) == pytest.approx(1.0, rel=1e-4)
    assert seconds(work(), hosts, 9) > 10


def test_the_slowest_of_n():
    """Exact for 2 and 3; the tables of normal order statistics (Harter 1961) for the others."""
    assert largest_of(1) == pytest.approx(0.0, abs=1e-6)
    assert largest_of(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-6)
    assert largest_of(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-6)
    assert largest_of(8) == pytest.approx(1.42360, abs=1e-5)
    assert largest_of(100) == pytest.approx(2.50759, abs=1e-5)


def test_all_wait_for_the_slowest_less_often_where_weights_are_averaged():
    free = cluster(bandwidth=math.inf)
    assert seconds(work(jitter=0.1), free, 8) == pytest.approx(1.142360)
    assert seconds(work(jitter=0.1), free, 8, every=4) == pytest.approx(1.071180)


def test_local_sgd_sends_once_in_so_many_updates_and_hides_nothing():
    found = predict(work(), cluster(), PLAIN, 2, "ring", 4)
    assert found.sent == 10e6 / 4
    assert found.exposed == pytest.approx(0.1 / 4)


def test_ranks_that_share_cores_take_turns():
    free = cluster(bandwidth=math.inf, cores=2, sharing=4)
    assert [seconds(work(), free, size) for size in (1, 2, 3, 4)] == [1.0, 1.0, 1.5, 2.0]
    # Two pairs of hosts: each pair shares its cores, so four ranks end as two groups do.
    early = cluster(bandwidth=math.inf, cores=1, sharing=2)
    expected = 2 * (1 + 0.1 / math.sqrt(2) * largest_of(2))
    assert seconds(work(jitter=0.1), early, 4) == pytest.approx(expected)


def test_moving_bytes_takes_cores_from_the_backward_pass():
    """Half of the 10 MB, 50 ms on the link, is hidden; it costs 5e6 x 1e-8 core-seconds."""
    groups = (Group(((1250, 1000),), 0.0), Group(((1250, 1000),), 1.0))
    busy = predict(work(groups=groups), cluster(cpu=1e-8, cores=1), PLAIN, 2, "ring", 1)
    assert busy.seconds == pytest.approx(1.0 + 0.05 + 0.05)
    idle = predict(work(groups=groups), cluster(cpu=1e-8, cores=2), PLAIN, 2, "ring", 1)
    assert idle.seconds == pytest.approx(1.0 + 0.05)


def test_bytes_move_no_faster_than_the_cores_that_move_them():
    """4 ranks on 1 core, 10 ns a byte: 40 ns in place of the link's 1 ns, nothing hidden."""
    found = predict(
        work(), cluster(bandwidth=1e9, cpu=1e-8, cores=1, sharing=4), PLAIN, 4, "ring", 1
    )
    assert found.exposed == pytest.approx(15e6 * 4e-8)


def test_a_host_loads_no_faster_than_its_cores():
    """8 ranks of 16 images on 16 cores of 4 images a second: 2 s an update."""
    hosts = cluster(bandwidth=math.inf, ranks_per_host=8, cores=16, loader_rate=4, sharing=8)
    assert seconds(work(), hosts, 8) == 2.0
    assert seconds(work(), hosts, 2) == 1.0


def test_compression_takes_its_own_time_and_powersgd_twice_the_hops():
    costly = Compression("powersgd", 4, 0.01, 1e-8)
    found = predict(work(), cluster(latency=1e-3), costly, 2, "ring", 1)
    assert found.sent == 2 * 4 * (2500 + 1000)
    assert found.exposed == pytest.approx(found.sent / 1e8 + 4e-3)
    assert found.seconds == pytest.approx(1.0 + 0.1 + found.exposed + 2e-3)


def test_second_messages_come_after_the_backward_pass():
    """All is released at once: of bf16 half of the 5 MB hides, of PowerSGD the factor of 2500."""
    early = work(groups=(Group((MATRIX,), 0.0),))
    half = Compression("bf16", 4, 0.01, 0.0)
    assert predict(early, cluster(), half, 2, "ring", 1).exposed == pytest.approx(0.025)
    low = Compression("powersgd", 4, 0.01, 0.0)
    exposed = predict(early, cluster(), low, 2, "ring", 1).exposed
    assert exposed == pytest.approx(2 * 4 * 1000 / 1e8)


def test_the_best_loses_no_digits_for_nothing():
    def made(name, seconds, reduction="ring"):
        return Prediction(8, name, reduction, seconds, 0.0, 0.0, 0.0)

    found = [made("none", 1.01), made("none", 1.005, "hierarchical"), made("topk", 1.0)]
    assert best(found) == found[1]
    assert best([*found, made("fp16", 0.9)]).compression == "fp16"


def test_groups_are_released_when_the_first_of_their_layers_is_through():
    layers = [Layer((10,), 60.0), Layer((10,), 20.0), Layer((20,), 20.0)]
    found = group_gradients(layers, 2)
    assert [group.shapes for group in found] == [((20,),), ((10,), (10,))]
    assert [group.release for group in found] == pytest.approx([0.2, 1.0])
    assert group_gradients(layers, 1)[0].release == 1.0


def test_the_work_of_a_layer_is_its_multiply_adds():
    """Of an image of 64 px: a hundredth of the published 8.9 GFLOPs at 640 px."""
    work = sum(layer.work for layer in model_layers(build_model("yolov8n")))
    assert 2e-9 * work * (640 / 64) ** 2 == pytest.approx(8.9, rel=0.03)
