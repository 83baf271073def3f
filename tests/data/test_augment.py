from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from rmeeto.data.augment import eval_transform, kept_generators, seed_generators, train_transform
from rmeeto.data.spec import Augment, InputSpec
from rmeeto.errors import SettingsError

FORM = InputSpec.of((3, 32, 24))
GREY = InputSpec.of((1, 32, 32))
STRONGEST = Augment(auto_augment="rand-m10-p1.0-n4-mstd0.5-inc1")


def picture(mode="RGB", size=(40, 50)):
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("form", [FORM, GREY])
@pytest.mark.parametrize("augment", [Augment(), Augment.light(), Augment.none(), Augment(color_jitter=0.4), STRONGEST])
def test_any_picture_becomes_a_tensor_of_the_wanted_form(form, augment, mode):
    for seed in range(5):
        seed_generators(seed)
        image = train_transform(form, augment)(picture(mode))
        assert image.shape == form.size
        assert image.dtype == torch.float32
        assert image.isfinite().all()
    assert eval_transform(form)(picture(mode)).shape == form.size


@pytest.mark.parametrize("policy", ["rand-m10-mstd0.5-inc1", "augmix-m10-w3", "original", "v0", "3a"])
def test_every_policy_of_timm_runs(policy):
    transform = train_transform(FORM, Augment(auto_augment=policy))
    for seed in range(20):
        seed_generators(seed)
        assert transform(picture()).shape == FORM.size


def test_posterizing_to_no_bits_gives_black():
    augment = Augment(auto_augment="rand-m10-inc1", erasing=0)
    vary = train_transform(FORM, augment).transforms[2].transforms[0]
    posterize = next(op for op in vary.ops if op.name.startswith("Posterize"))
    posterize.prob = 1
    assert posterize(picture()).getextrema() == ((0, 0),) * 3


def test_a_policy_that_timm_cannot_read_is_refused():
    with pytest.raises(SettingsError, match="auto_augment 'rand-z9' cannot be read by timm"):
        train_transform(FORM, Augment(auto_augment="rand-z9"))


def test_no_augmentation_is_evaluation():
    image = picture()
    torch.testing.assert_close(train_transform(FORM, Augment.none())(image), eval_transform(FORM)(image))


def test_a_padded_crop_shifts_the_evaluated_image():
    image = picture(size=(24, 32))
    plain = eval_transform(FORM)(image)
    augment = Augment(crop="padded", padding=1, hflip=0, auto_augment="none", erasing=0)
    inside = (slice(None), slice(1, -1), slice(1, -1))
    found = set()
    for seed in range(40):
        seed_generators(seed)
        shifted = train_transform(FORM, augment)(image)
        for y in (-1, 0, 1):
            for x in (-1, 0, 1):
                if torch.allclose(shifted[inside], plain.roll((y, x), (1, 2))[inside]):
                    found.add((y, x))
    assert len(found) == 9


def test_evaluation_resizes_then_crops_the_centre():
    image = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
    image.paste((255, 255, 255), (8, 8, 56, 56))
    form = InputSpec((3, 24, 24), (0.0,) * 3, (1.0,) * 3, crop_pct=0.75)
    # 64 -> 32 pixels, then the middle 24 of them: the white square of 48 (24) pixels fills all but the blurred edge.
    assert eval_transform(form)(image)[:, 2:-2, 2:-2].eq(1).all()
    whole = InputSpec((3, 24, 24), (0.0,) * 3, (1.0,) * 3, crop_pct=1.0)
    assert eval_transform(whole)(image)[:, 0].eq(0).all()


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def test_a_seed_fixes_all_that_is_drawn_and_leaves_the_global_generators_as_they_were():
    before = states()
    drawn = []
    for seed in (5, 5, 6, 2**32 - 1):
        with kept_generators():
            seed_generators(seed)
            drawn.append(draw())
    assert drawn[0] == drawn[1] != drawn[2] != drawn[3]
    assert states() == before


def test_the_generators_are_put_back_after_an_error():
    before = states()

    def fail():
        with kept_generators():
            draw()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert states() == before
