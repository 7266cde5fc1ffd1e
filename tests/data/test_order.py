from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest

from hvd_yolo.data.order import Dealing, epoch_order, evaluation_blocks, keyed_rng, share


def indices(micro_batches):
    return [index for keys in micro_batches for _, index in keys]


def test_order_is_a_permutation_that_depends_on_seed_and_epoch():
    orders = [epoch_order(seed, epoch, 50) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert np.array_equal(orders[0], epoch_order(0, 0, 50))


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


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("micro_batch", [2, 16])
def test_an_update_sees_the_same_images_on_any_number_of_ranks(size, micro_batch):
    dealing = Dealing(num_images=31, global_batch=13, micro_batch=micro_batch, size=size)
    for images_seen in (0, 13, 26):
        per_rank = [
            list(dealing.micro_batches(0, 4, images_seen, rank)) for rank in range(dealing.size)
        ]
        assert {len(passes) for passes in per_rank} == {dealing.passes}
        assert max(len(keys) for passes in per_rank for keys in passes) <= micro_batch
        seen = list(chain(*(indices(passes) for passes in per_rank)))
        assert seen == epoch_order(0, 4, 31)[images_seen : images_seen + 13].tolist()
        assert len(seen) == dealing.images_of_update(images_seen)


def test_every_image_once_an_epoch_and_start_in_the_middle():
    dealing = Dealing(num_images=31, global_batch=8, micro_batch=4, size=2)
    passes = dealing.updates_per_epoch * dealing.passes
    for rank in (0, 1):
        from_start = list(islice(dealing.all_micro_batches(0, 0, 0, rank), 2 * passes))
        from_middle = list(islice(dealing.all_micro_batches(0, 0, 16, rank), passes))
        skipped = 2 * dealing.passes
        assert from_start[skipped : skipped + passes] == from_middle
    both = [list(islice(dealing.all_micro_batches(0, 0, 0, r), passes)) for r in (0, 1)]
    assert Counter(indices(both[0] + both[1])) == Counter(range(31))
    assert {epoch for keys in both[0] for epoch, _ in keys} == {0}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_evaluation_blocks_are_the_same_batches_on_any_number_of_ranks(size):
    dealt = [evaluation_blocks(50, 8, rank, size) for rank in range(size)]
    assert list(chain(*dealt)) == evaluation_blocks(50, 8, 0, 1)
    assert [i for block in chain(*dealt) for i in block] == list(range(50))
