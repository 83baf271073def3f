from __future__ import annotations

import pytest
import torch

from rmeeto.data.array_batches import ArrayBatches, erase, fits, mirror, shift, uniform
from rmeeto.data.images import ArrayImages
from rmeeto.data.order import ShuffledOrder, StraightOrder
from rmeeto.data.spec import Augment, InputSpec, Share

GREY = InputSpec((1, 8, 6), (0.3,), (0.4,), crop_pct=1.0)
ALL = Augment(crop="padded", auto_augment="none", erasing=0.5, repeats=1)


def some_images(channels=1, n=20):
    pixels = torch.randint(0, 256, (n, channels, 8, 6), generator=torch.Generator().manual_seed(0)).byte()
    return ArrayImages("some", ("a", "b"), pixels, torch.arange(n) % 2)


def drawn(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("form", "augment", "expected"),
    [
        (GREY, None, True),
        (GREY, Augment.light(), True),
        (GREY, ALL, True),
        (GREY, Augment(), False),
        (GREY, Augment(crop="padded"), False),
        (GREY, Augment(crop="padded", auto_augment="none", color_jitter=0.4), False),
        (InputSpec.of((1, 8, 8)), None, False),
        (InputSpec.of((3, 8, 6)), None, True),
        (InputSpec((1, 8, 6), (0.3,), (0.4,), crop_pct=0.875), None, False),
    ],
)
def test_fits(form, augment, expected):
    assert fits(some_images(), form, augment) is expected


def test_colours_are_not_made_grey():
    assert not fits(some_images(channels=3), GREY, None)


@pytest.mark.parametrize("channels", [1, 3])
def test_evaluation_normalises_and_keeps_the_order(channels):
    images = some_images()
    form = InputSpec.of((channels, 8, 6))
    batches = ArrayBatches(images, form, StraightOrder(20, Share()), 8, Augment.none())
    got = list(batches)
    assert [len(labels) for _, labels in got] == [8, 8, 4]
    assert len(batches) == 3
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (form.mean, form.std))
    torch.testing.assert_close(torch.cat([x for x, _ in got]), (images.images / 255 - mean) / std)
    assert torch.equal(torch.cat([y for _, y in got]), images.labels)
    assert got[0][0].dtype == torch.float32
    assert got[0][1].dtype == torch.int64


def test_augmented_batches_depend_on_seed_and_epoch_alone_and_touch_no_global_generator():
    def epoch_of(seed, epoch):
        batches = ArrayBatches(some_images(), GREY, ShuffledOrder(20, seed, Share()), 8, ALL)
        batches.set_epoch(epoch)
        return torch.stack([x for x, _ in batches])

    before = torch.get_rng_state()
    assert torch.equal(epoch_of(0, 1), epoch_of(0, 1))
    assert not torch.equal(epoch_of(0, 1), epoch_of(0, 2))
    assert not torch.equal(epoch_of(0, 1), epoch_of(1, 1))
    assert torch.equal(before, torch.get_rng_state())


def test_shift_moves_each_image_by_its_own_whole_pixels():
    pixels = some_images(n=200).images
    moved = shift(pixels, 2, drawn(2, 200))
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2))
    places = set()
    for image, around in zip(moved, padded, strict=True):
        found = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, around[:, y : y + 8, x : x + 6])]
        assert found
        places.update(found)
    assert len(places) == 25


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_mirror_turns_the_expected_share(probability):
    pixels = some_images(n=1000).images
    turned = mirror(pixels, probability, drawn(1000))
    flipped = (turned == pixels.flip(3)).flatten(1).all(1)
    assert float(flipped.float().mean()) == pytest.approx(probability, abs=0.05)
    assert torch.equal(turned[~flipped], pixels[~flipped])


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erasing_fills_one_rectangle_in_the_expected_share(mode):
    images = torch.full((2000, 3, 20, 16), 9.0)
    augment = Augment(erasing=0.25, erasing_mode=mode)
    erased = erase(images, augment, drawn(5, 2000), torch.arange(2000))
    hit = (erased != 9).all(1)
    chosen = hit.flatten(1).any(1)
    assert float(chosen.float().mean()) == pytest.approx(0.25, abs=0.03)
    area = hit[chosen].flatten(1).float().mean(1)
    assert 0.01 < float(area.min()) < 0.04
    assert 0.28 < float(area.max()) < 0.38
    rows, columns = hit[chosen].any(2).sum(1), hit[chosen].any(1).sum(1)
    assert torch.equal(rows * columns, hit[chosen].flatten(1).sum(1))
    values = erased[chosen][0][:, hit[chosen][0]]
    distinct = {"const": 1, "rand": 3, "pixel": values.numel()}
    assert len(values.unique()) == distinct[mode]


def test_an_image_is_augmented_by_its_seed_alone():
    """Not by the batch that it stands in, nor by its place there."""
    whole, halves = (
        [torch.cat([x for x, _ in ArrayBatches(some_images(), GREY, ShuffledOrder(20, 0, Share()), size, ALL)])]
        for size in (20, 10)
    )
    assert torch.equal(whole[0], halves[0])
    assert torch.equal(uniform(torch.tensor([5, 9]), 3).flip(1), uniform(torch.tensor([9, 5]), 3))


def test_batches_are_skipped_once():
    batches = ArrayBatches(some_images(), GREY, ShuffledOrder(20, 0, Share()), 4, ALL)
    whole = [x for x, _ in batches]
    batches.skip(3)
    rest = [x for x, _ in batches]
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], rest, strict=True))
    assert len(list(batches)) == len(batches) == 5
