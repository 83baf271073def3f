"""Dropped paths and patches are a function of seed, step and an image's place in the step."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from rmeeto.data import Share, places_in_step
from rmeeto.models.embed import PatchDropout
from rmeeto.retrain.dropping import Dropping
from rmeeto.tokens import Tokens

IMAGES, CPU = 12, torch.device("cpu")


def paths(*rates: float) -> nn.Sequential:
    return nn.Sequential(*(DropPath(rate) for rate in rates)).train()


def shown(model: nn.Sequential, places: torch.Tensor, *, seed: int = 0, step: int = 3) -> torch.Tensor:
    """(b, 2, 1) ones after all paths."""
    dropped = Dropping(model, seed)
    try:
        dropped.draw(step, IMAGES, places, CPU)
        return model(torch.ones(len(places), 2, 1))
    finally:
        dropped.close()


@pytest.mark.parametrize(("count", "accumulate"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_parts_of_a_step_drop_what_the_whole_step_drops(count, accumulate):
    model = paths(0.5, 0.0, 0.3)
    whole = shown(model, torch.arange(IMAGES))
    size = IMAGES // count // accumulate
    for index in range(count):
        for micro in range(accumulate):
            places = places_in_step(Share(index, count, accumulate), micro, size)
            assert torch.equal(shown(model, places), whole[places])


def patches_left(layer: PatchDropout, places: torch.Tensor, *, seed: int = 0, step: int = 3) -> torch.Tensor:
    """(b, m) numbers of the tokens that stay."""
    dropping = Dropping(layer, seed)
    try:
        dropping.draw(step, IMAGES, places, CPU)
        x = torch.arange(33.0).view(1, 33, 1).expand(len(places), -1, 1)
        return layer(Tokens(x=x, places=torch.full((len(places), 1), 16))).x[..., 0]
    finally:
        dropping.close()


def patch_layer(rate: float = 0.6) -> PatchDropout:
    layer = PatchDropout(16).train()
    layer.rate = rate
    return layer


@pytest.mark.parametrize(("count", "accumulate"), [(2, 1), (1, 3), (3, 2)])
def test_parts_of_a_step_leave_out_the_patches_that_the_whole_step_does(count, accumulate):
    layer = patch_layer()
    whole = patches_left(layer, torch.arange(IMAGES))
    assert whole.shape[1] < 33
    size = IMAGES // count // accumulate
    for index in range(count):
        for micro in range(accumulate):
            places = places_in_step(Share(index, count, accumulate), micro, size)
            assert torch.equal(patches_left(layer, places), whole[places])


def test_patches_differ_by_seed_and_step_and_the_layer_is_given_back():
    layer, some = patch_layer(), torch.arange(4)
    first = patches_left(layer, some)
    assert layer.rate == 0.6
    assert not layer._forward_hooks
    torch.rand(5)
    assert torch.equal(patches_left(layer, some), first)
    for other in (patches_left(layer, some, step=4), patches_left(layer, some, seed=1)):
        assert other.shape != first.shape or not torch.equal(other, first)
    assert patches_left(layer.eval(), some).shape == (4, 33)


def test_draws_differ_by_seed_and_step_and_not_by_what_was_drawn_before():
    model, all_of_it = paths(0.5), torch.arange(IMAGES)
    first = shown(model, all_of_it)
    torch.rand(5)
    assert torch.equal(shown(model, all_of_it), first)
    assert not torch.equal(shown(model, all_of_it, step=4), first)
    assert not torch.equal(shown(model, all_of_it, seed=1), first)


def test_rates_are_kept_on_the_average_and_images_are_dropped_whole():
    model = paths(0.25)
    drawn = torch.cat([shown(model, torch.arange(IMAGES), step=step) for step in range(400)])
    assert drawn.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    assert drawn.mean().item() == pytest.approx(1.0, abs=0.03)


def test_what_does_not_train_drops_nothing_and_layers_are_given_back():
    model = paths(0.5, 0.2)
    dropped = Dropping(model, 0)
    dropped.draw(0, IMAGES, torch.arange(IMAGES), CPU)
    assert torch.equal(model.eval()(torch.ones(IMAGES, 1)), torch.ones(IMAGES, 1))
    dropped.close()
    assert [path.drop_prob for path in model] == [0.5, 0.2]
    assert not any(path._forward_hooks for path in model)
