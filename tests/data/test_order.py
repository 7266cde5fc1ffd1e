from collections import Counter
from itertools import chain

import numpy as np
import pytest
from scipy.stats import chisquare

from hvd_yolo.data.balance import class_balance
from hvd_yolo.data.dataset import Annotations
from hvd_yolo.data.order import Dealing, Order, evaluation_blocks, keyed_rng, share


def indices(micro_batches):
    return [index for micro_batch in micro_batches for index in micro_batch.indices]


def update(dealing, order, start, rank, number=0):
    """The micro-batches of a rank in update `number` from `start`."""
    first = number * dealing.passes
    return [dealing.micro_batch_at(order, start, first + i, rank) for i in range(dealing.passes)]


def test_order_is_a_permutation_that_depends_on_seed_and_epoch():
    orders = [Order(seed, 50, 64).epoch(epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert np.array_equal(orders[0], Order(0, 50, 64).epoch(0))


def test_keyed_numbers_are_those_of_the_key_alone():
    first = keyed_rng(7, 3, 11).random(5)
    keyed_rng(7, 3, 12).random(100)
    assert np.array_equal(first, keyed_rng(7, 3, 11).random(5))
    neighbours = [keyed_rng(*key).random() for key in ((7, 3, 12), (7, 4, 11), (8, 3, 11))]
    assert len({first[0], *neighbours}) == 4


@pytest.mark.parametrize(
    ("num_items", "size", "shares"),
    [(13, 2, [7, 6]), (13, 3, [5, 4, 4]), (13, 5, [3, 3, 3, 2, 2]), (2, 3, [1, 1, 0])],
)
def test_shares_are_even_and_whole(num_items, size, shares):
    dealt = [list(range(num_items))[share(num_items, rank, size)] for rank in range(size)]
    assert [len(part) for part in dealt] == shares
    assert list(chain(*dealt)) == list(range(num_items))


ORDERS = {
    "plain": {},
    "weighted": {"weights": np.arange(31.0)},
    "rectangular": {"aspects": np.geomspace(0.5, 2, 31), "group": 13},
    "multi_scale": {"multi_scale": 0.5},
}


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("micro_batch", [2, 16])
def test_an_update_sees_the_same_images_on_any_number_of_ranks(size, micro_batch, kind):
    dealing = Dealing(num_images=31, global_batch=13, micro_batch=micro_batch, size=size)
    order = Order(0, 31, 64, **ORDERS[kind])
    for images_seen in (0, 13, 26):
        per_rank = [update(dealing, order, (4, images_seen), rank) for rank in range(size)]
        passes = list(chain(*per_rank))
        assert max(len(p.indices) for p in passes) <= micro_batch
        assert indices(passes) == order.epoch(4)[images_seen : images_seen + 13].tolist()
        assert len(indices(passes)) == dealing.images_of_update(images_seen)
        # One shape on all ranks, empty ones too.
        assert len({(p.width, p.height) for p in passes}) == 1
        # The random numbers of an image go with its place, whatever rank has it.
        places = [p.first + i for p in passes for i in range(len(p.indices))]
        assert places == list(range(images_seen, images_seen + len(places)))


@pytest.mark.parametrize("kind", ORDERS)
def test_a_start_in_the_middle_goes_on_as_from_the_beginning(kind):
    dealing = Dealing(num_images=31, global_batch=8, micro_batch=4, size=2)
    options = ORDERS[kind] | ({"group": 8} if kind == "rectangular" else {})
    for rank in (0, 1):
        whole = [update(dealing, Order(0, 31, 64, **options), (0, 0), rank, n) for n in range(12)]
        middle = [update(dealing, Order(0, 31, 64, **options), (0, 16), rank, n) for n in range(9)]
        assert whole[2:11] == middle


def test_every_image_once_an_epoch():
    dealing = Dealing(num_images=31, global_batch=8, micro_batch=4, size=2)
    for kind in ("plain", "rectangular", "multi_scale"):
        order = Order(0, 31, 64, **ORDERS[kind])
        seen = [update(dealing, order, (0, 0), rank, n) for rank in (0, 1) for n in range(4)]
        assert Counter(indices(chain(*seen))) == Counter(range(31))
        assert {p.epoch for p in chain(*seen)} == {0}
        assert {p.epoch for p in update(dealing, order, (0, 0), 0, 4)} == {1}


def test_images_are_drawn_as_often_as_their_weights_ask():
    weights = np.array([0.0, 1, 1, 2, 4, 8] * 10)
    order = Order(0, 60, 64, weights=weights)
    drawn = np.concatenate([order.epoch(epoch) for epoch in range(200)])
    counts = np.bincount(drawn, minlength=60)
    assert (counts[weights == 0] == 0).all()
    expected = weights / weights.sum() * len(drawn)
    assert chisquare(counts[weights > 0], expected[weights > 0]).pvalue > 0.01


def test_rectangular_updates_hold_images_of_like_shape():
    rng = np.random.default_rng(0)
    aspects = rng.choice([0.5, 0.75, 4 / 3, 2.0], 96)
    order = Order(0, 96, 640, aspects=aspects, group=8)
    shapes = set()
    for seen in range(0, 96, 8):
        images = order.epoch(0)[seen : seen + 8]
        width, height = order.shape(0, seen, images)
        shapes.add((width, height))
        # Every image fits with its long side as asked, and some image needs each side.
        needed_width = np.minimum(1, aspects[images]) * 640
        needed_height = np.minimum(1, 1 / aspects[images]) * 640
        assert needed_width.max() <= width < needed_width.max() + 32
        assert needed_height.max() <= height < needed_height.max() + 32
    assert {(640, 480), (480, 640), (640, 320), (320, 640)} & shapes
    pixels = sum(w * h for w, h in shapes) / len(shapes)
    assert pixels < 0.8 * 640**2
    assert not np.array_equal(order.epoch(0), order.epoch(1))


def test_multi_scale_draws_one_size_an_update_from_its_range():
    order = Order(0, 1000, 320, multi_scale=0.5)
    sizes = [order.shape(0, seen, np.arange(8)) for seen in range(0, 1000, 8)]
    assert {w for w, h in sizes} == {w for w, h in sizes if w == h}
    assert {w for w, _ in sizes} == set(range(160, 481, 32))
    assert order.largest_side == 480


def test_class_balance_follows_the_rarest_class_of_an_image():
    class Labels:
        names = ("a", "b", "c")
        labels = ([0], [0, 0, 1], [0], [], [0, 1], [0], [2], [0])

        def __len__(self):
            return 8

        def annotations(self, index, width, height):
            found = np.array(self.labels[index], dtype=np.int64)
            return Annotations(np.zeros((len(found), 4)), found, found, found)

    # Class a is in 6 images, b in 2, c in 1.
    weights = class_balance(Labels(), 0.5)
    assert weights.tolist() == [1, 3**0.5, 1, 1, 3**0.5, 1, 6**0.5, 1]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_evaluation_blocks_are_the_same_batches_on_any_number_of_ranks(size):
    dealt = [evaluation_blocks(50, 8, rank, size) for rank in range(size)]
    assert list(chain(*dealt)) == evaluation_blocks(50, 8, 0, 1)
    assert [i for block in chain(*dealt) for i in block] == list(range(50))
