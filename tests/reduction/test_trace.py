"""Watching changes nothing and tells what was computed."""

from __future__ import annotations

import pytest
import torch

from rmeeto.errors import RmeetoError, SettingsError, ShapeError
from rmeeto.reduction import Settings, attach, trace
from rmeeto.reduction.matchers import MATCHERS
from rmeeto.schedule import Schedule

from .standin import StandIn

SCHEDULE = Schedule.of([4, 3, 0, 2])
X = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(1))
VARIANTS = [
    *(Settings(matcher=matcher) for matcher in MATCHERS),
    *(Settings(order="unordered", matcher=matcher) for matcher in MATCHERS),
    *(Settings(**{name: value}) for name, value in (("class_place", "official"), ("order", "shuffled"))),
    *(Settings(**{name: value}) for name, value in (("shuffle", 0.6), ("split", "sequence"))),
]


@pytest.mark.parametrize("settings", [*VARIANTS, Settings(mode="prune")])
def test_outputs_are_the_same_bit_for_bit(settings):
    model = attach(StandIn(), SCHEDULE, settings)
    before = model(X)
    with trace(model) as seen:
        watched = model(X)
    assert torch.equal(watched, before)
    assert torch.equal(model(X), before)
    assert len(seen.maps) == 3
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("settings", VARIANTS)
def test_composed_map_is_the_final_sizes_and_places(settings):
    model = attach(StandIn(), SCHEDULE, settings)
    with trace(model) as seen:
        tokens = model.tokens(X)
    composed = seen.composed()
    assert torch.equal(composed.counts(), tokens.size)
    assert torch.equal(composed.move(seen.entered), tokens.places)
    assert composed.length == tokens.x.shape[1] == 11


def test_pictures_show_the_groups_of_the_patches():
    model = attach(StandIn(n=21), SCHEDULE)
    x = torch.randn(3, 21, 6, generator=torch.Generator().manual_seed(1))
    with trace(model) as seen:
        tokens = model.tokens(x)
    images = seen.images((4, 5))
    for image, record in enumerate(images):
        assert record.grid == (4, 5)
        assert record.tokens == 12
        assert record.protected == tuple(tokens.places[image].tolist())
        assert len(record.groups) == 20
        sizes = tokens.size[image].long().tolist()
        for token in set(range(12)) - set(record.protected):
            assert record.groups.count(token) == sizes[token]


def test_pruned_patches_belong_to_no_token():
    model = attach(StandIn(n=21), SCHEDULE, Settings(mode="prune"))
    with trace(model) as seen:
        model(torch.randn(1, 21, 6, generator=torch.Generator().manual_seed(1)))
    groups = seen.images((4, 5))[0].groups
    assert groups.count(-1) == 9
    assert sorted(group for group in groups if group >= 0) == [
        t for t in range(12) if t != seen.images((4, 5))[0].protected[0]
    ]


def test_the_last_forward_pass_is_kept():
    model = attach(StandIn(), SCHEDULE)
    with trace(model) as seen:
        model(X)
        model(X[:2])
    assert len(seen.maps) == 3
    assert len(seen.images((19, 1))) == 2


def test_an_unmerged_model_has_each_patch_for_itself():
    model = StandIn()
    with trace(model) as seen:
        model(X)
    assert torch.equal(seen.composed().index, torch.arange(20).expand(3, 20))
    assert seen.images((1, 19))[0].groups == tuple(place for place in range(20) if place != 10)


def test_hooks_leave_even_after_an_error():
    model = attach(StandIn(), SCHEDULE)
    with pytest.raises(RuntimeError, match="midway"), trace(model):
        raise RuntimeError("midway")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_cannot_be_told_is_refused():
    model = attach(StandIn(), SCHEDULE)
    with trace(model) as seen:
        with pytest.raises(RmeetoError, match="nothing was traced yet"):
            seen.composed()
        model(X)
        with pytest.raises(ShapeError, match="4x4"):
            seen.images((4, 4))
    with pytest.raises(SettingsError, match="no slots"), trace(torch.nn.Linear(2, 2)):
        pass
