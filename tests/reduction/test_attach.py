"""Reducers go in and out of a model's slots and leave nothing behind."""

from __future__ import annotations

import copy
import pkgutil

import pytest
import torch
from torch import nn

import rmeeto.reduction
from rmeeto.errors import ScheduleError, SettingsError
from rmeeto.ops import use_backend
from rmeeto.reduction import Settings, attach, attached, detach, detached
from rmeeto.reduction.matchers import MATCHERS
from rmeeto.schedule import Schedule
from rmeeto.tokens import is_slotted

from .standin import StandIn

SCHEDULE = Schedule.of([4, 0, 3, 0])
X = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(1))


def test_attach_and_detach_leave_outputs_and_names_unchanged():
    model = StandIn()
    before, names = model(X), list(model.state_dict())
    assert attach(model, SCHEDULE) is model
    assert list(model.state_dict()) == names
    assert model.tokens(X).x.shape == (3, 13, 6)
    assert not torch.equal(model(X), before)
    assert detach(model) is model
    assert list(model.state_dict()) == names
    assert torch.equal(model(X), before)
    assert all(type(slot) is nn.Identity for slot in model.slots)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(size_aware_scan=True, shuffle=1.0, order="shuffled"),
        Settings(mode="amax"),
        *(Settings(matcher=matcher) for matcher in MATCHERS),
    ],
)
def test_r_of_0_is_the_identity_bit_for_bit(settings):
    model = StandIn()
    before = model(X)
    assert torch.equal(attach(model, Schedule.none(4), settings)(X), before)


def test_what_is_no_schedule_is_refused():
    with pytest.raises(ScheduleError, match=r"\[0, 1\] is no schedule; give rmeeto.Schedule.of"):
        attach(StandIn(), [0, 1])


def test_attached_tells_what_is_attached():
    model = StandIn()
    assert attached(model) is None
    settings = Settings(feature="hidden", rank=2)
    assert attached(attach(model, SCHEDULE, settings)) == (SCHEDULE, settings)
    assert attached(attach(model, Schedule.none(4))) == (Schedule.none(4), Settings())
    assert attached(detach(model)) is None


def test_attach_on_an_attached_model_replaces():
    model = attach(attach(StandIn(), SCHEDULE), Schedule.of([0, 2, 0, 0]))
    assert attached(model) == (Schedule.of([0, 2, 0, 0]), Settings())
    assert model.tokens(X).x.shape[1] == 18


def test_detached_restores_even_after_an_error():
    model = attach(StandIn(), SCHEDULE)
    merged, slots = model(X), list(model.slots)
    with detached(model) as whole:
        assert whole is model
        assert attached(model) is None
        assert torch.equal(model(X), StandIn()(X))
    with pytest.raises(RuntimeError, match="midway"), detached(model):
        raise RuntimeError("midway")
    assert list(model.slots) == slots
    assert torch.equal(model(X), merged)


def test_a_copy_is_attached_on_its_own():
    model = attach(StandIn(), SCHEDULE)
    teacher = detach(copy.deepcopy(model))
    assert attached(teacher) is None
    assert attached(model) == (SCHEDULE, Settings())


@pytest.mark.parametrize(
    ("model", "schedule", "settings", "error", "word"),
    [
        (StandIn(), Schedule.none(3), None, ScheduleError, "3 entries for a model of 4 blocks"),
        (StandIn(k=2), SCHEDULE, Settings(class_place="official"), SettingsError, "has 2"),
        (nn.Linear(2, 2), SCHEDULE, None, SettingsError, "Linear has no slots"),
        (nn.Sequential(StandIn()), SCHEDULE, None, SettingsError, "Sequential has no slots"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(model, schedule, settings, error, word):
    with pytest.raises(error, match=word) as caught:
        attach(model, schedule, settings)
    assert "\n" not in str(caught.value)
    if is_slotted(model):
        assert attached(model) is None


@pytest.mark.parametrize("matcher", MATCHERS)
@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_several_protected_tokens_survive_every_merge(k, matcher):
    if matcher == "class_token" and k == 0:
        return
    model = attach(StandIn(k=k), Schedule.of([9, 9, 9, 9]), Settings(matcher=matcher))
    tokens = model.tokens(X)
    assert tokens.x.shape[1] == Schedule.of([9, 9, 9, 9]).final_length(20, protected=k)
    assert torch.equal(tokens.sizes().sum(1), torch.full((3,), 20.0))
    assert torch.equal(tokens.sizes().gather(1, tokens.places), torch.ones(3, k))


WAYS = [
    Settings(order="unordered", mode="prune"),
    Settings(order="shuffled"),
    Settings(shuffle=0.5),
    Settings(mode="amin"),
    Settings(size_aware_scan=True),
    *(Settings(matcher=matcher) for matcher in MATCHERS),
]


@pytest.mark.parametrize("settings", WAYS)
def test_exports_as_one_graph_for_any_batch(settings):
    model = attach(StandIn(), SCHEDULE, settings).eval()
    with torch.no_grad():
        exported = torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},)).module()
        for images in (X, torch.cat((X, -X))):
            torch.testing.assert_close(exported(images), model(images))


def test_references_are_a_graph_too():
    with use_backend("reference"):
        test_exports_as_one_graph_for_any_batch(Settings())
        test_compiles_without_a_break(Settings())


@pytest.mark.parametrize("settings", WAYS)
def test_compiles_without_a_break(settings):
    model = attach(StandIn(depth=2), Schedule.of([4, 3]), settings).eval()
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(X), model(X))


def test_no_public_name_is_a_submodule_too():
    # A submodule of the same name would hide the function as soon as it is imported.
    modules = {module.name for module in pkgutil.iter_modules(rmeeto.reduction.__path__)}
    assert "attaching" in modules
    assert not modules & set(rmeeto.reduction.__all__)
