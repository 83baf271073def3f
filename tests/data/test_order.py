from __future__ import annotations

from itertools import chain

import pytest

from rmeeto.data.order import ShuffledOrder, StraightOrder
from rmeeto.data.spec import Share


def walk(order, size):
    return [(indices.tolist(), seeds.tolist()) for indices, seeds in order.in_batches(size)]


def flat(order, size):
    return [index for indices, _ in walk(order, size) for index in indices]


@pytest.mark.parametrize("repeats", [1, 3])
def test_an_epoch_depends_on_seed_and_epoch_alone(repeats):
    one, other = (ShuffledOrder(50, seed=7, share=Share(), repeats=repeats) for _ in range(2))
    other.set_epoch(3)
    walk(other, 8)
    walk(one, 8)
    one.set_epoch(3)
    assert walk(one, 8) == walk(one, 8) == walk(other, 8)
    epochs = set()
    for seed in range(3):
        for epoch in range(3):
            order = ShuffledOrder(50, seed, Share(), repeats)
            order.set_epoch(epoch)
            epochs.add(str(walk(order, 8)))
    assert len(epochs) == 9


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_are_disjoint_equally_long_and_seeded_differently(count):
    orders = [ShuffledOrder(50, 0, Share(index, count)) for index in range(count)]
    parts = [flat(order, 4) for order in orders]
    assert {len(part) for part in parts} == {50 // count // 4 * 4}
    assert len(set(chain(*parts))) == sum(map(len, parts))
    seeds = [seed for order in orders for _, batch in walk(order, 4) for seed in batch]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(("images", "size", "batches"), [(50, 8, 6), (48, 8, 6), (5, 8, 1), (8, 8, 1)])
def test_only_whole_batches_unless_there_is_none(images, size, batches):
    order = ShuffledOrder(images, 0, Share())
    lengths = [len(indices) for indices, _ in walk(order, size)]
    assert len(lengths) == order.batches(size) == batches
    assert set(lengths) == {min(images, size)}


def test_repeats_show_each_drawn_image_several_times_with_other_seeds():
    order = ShuffledOrder(30, 0, Share(), repeats=3)
    indices = flat(order, 30)
    assert len(indices) == 30
    assert {indices.count(index) for index in indices} == {3}
    seeds = [seed for _, batch in walk(order, 30) for seed in batch]
    assert len(set(seeds)) == 30


@pytest.mark.parametrize("images", [300, 500, 1000])
def test_repeats_leave_an_epoch_as_long_as_it_is(images):
    order = ShuffledOrder(images, 0, Share(), repeats=3)
    assert len(order) == len(flat(order, 10)) == images


@pytest.mark.parametrize("count", [1, 2, 3])
def test_straight_order_shows_every_image_once(count):
    orders = [StraightOrder(10, Share(index, count)) for index in range(count)]
    assert sorted(chain(*(flat(order, 3) for order in orders))) == list(range(10))
    assert [order.batches(3) for order in orders] == [len(walk(order, 3)) for order in orders]


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize(("count", "accumulate"), [(2, 1), (4, 1), (1, 2), (2, 2), (1, 4)])
def test_a_step_has_the_same_images_and_pairs_on_any_number_of_processes(repeats, count, accumulate):
    whole = walk(ShuffledOrder(60, 0, Share(), repeats), 24)
    size = 24 // count // accumulate
    shares = [walk(ShuffledOrder(60, 0, Share(k, count, accumulate), repeats), size) for k in range(count)]
    assert {len(share) for share in shares} == {len(whole) * accumulate}
    for step, (indices, seeds) in enumerate(whole):
        batches = [share[step * accumulate + micro] for micro in range(accumulate) for share in shares]
        seen = sorted(chain(*(zip(*batch, strict=True) for batch in batches)))
        assert seen == sorted(zip(indices, seeds, strict=True))
        pairs = set(zip(seeds, reversed(seeds), strict=True))
        assert {pair for _, part in batches for pair in zip(part, reversed(part), strict=True)} == pairs


@pytest.mark.parametrize("order", [ShuffledOrder(50, 0, Share(1, 2)), StraightOrder(50, Share())], ids=["train", "val"])
def test_a_pass_begins_anywhere(order):
    assert walk(order, 4)[3:] == [(i.tolist(), s.tolist()) for i, s in order.in_batches(4, 3)]
