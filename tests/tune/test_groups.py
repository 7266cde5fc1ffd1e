"""Which ranks train together, on which CPUs."""

from hvd_yolo.comm.children import cpus_of
from hvd_yolo.tune.groups import divide


def test_a_group_is_on_one_host_where_it_can_be():
    assert divide(["a"] * 5, 2) == ([[0, 1], [2, 3]], [4])
    assert divide(["a"] * 3 + ["b"] * 3, 2) == ([[0, 1], [2, 5], [3, 4]], [])
    assert divide(["a"] * 2 + ["b"] * 2, 4) == ([[0, 1, 2, 3]], [])
    assert divide(["a", "b", "c"], 2) == ([[0, 1]], [2])


def test_trials_side_by_side_share_out_the_cpus_of_a_host():
    whole = {"host": "a", "cpus": list(range(8)), "gpu": ""}
    bound = {"host": "b", "cpus": [4, 5], "gpu": ""}
    places = [whole, whole, whole, bound]
    assert [cpus_of(rank, places, 8) for rank in range(4)] == [
        {0, 1}, {2, 3, 4}, {5, 6, 7}, {4, 5},
    ]  # fmt: skip
    assert cpus_of(1, places, 1) == {2}
    assert cpus_of(2, [{**whole, "cpus": [0, 1]}] * 3, 1) == {0, 1}
