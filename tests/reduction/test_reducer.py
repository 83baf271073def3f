"""One merge in its slot: what it keeps, what it adds up, what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rmeeto.errors import ScheduleError, SettingsError
from rmeeto.ops import native_info
from rmeeto.reduction import Reducer, Settings
from rmeeto.reduction.matchers import MATCHERS, matcher_of
from rmeeto.reduction.ordering import new_map, patch_rows
from rmeeto.reduction.plan import Sight
from rmeeto.schedule import removable
from rmeeto.tokens import Features, TokenMap

from .standin import random_tokens

PROPERTY = settings(derandomize=True, deadline=None, max_examples=80)
MODES = ["sum", "mean", "amax", "amin", "prune"]

loads = st.builds(
    random_tokens,
    batch=st.integers(1, 3),
    n=st.integers(4, 20),
    k=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    sized=st.booleans(),
)
methods = st.builds(
    Settings,
    matcher=st.sampled_from(sorted(MATCHERS)),
    feature=st.sampled_from(["hidden", "B", "C", "delta", "k", "x"]),
    similarity=st.sampled_from(["cosine", "l1", "l2"]),
    rank=st.integers(1, 5),
    order=st.sampled_from(["ordered", "unordered", "shuffled"]),
    split=st.sampled_from(["patches", "sequence"]),
    shuffle=st.sampled_from([0.0, 0.3, 1.0]),
)


def rows_at(x, places):
    return x.gather(1, places.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


@given(tokens=loads, method=methods, r=st.integers(0, 12))
@PROPERTY
def test_sizes_sum_to_what_entered(tokens, method, r):
    out = Reducer(r, method)(tokens)
    assert out.x.shape[1] == tokens.x.shape[1] - removable(tokens.x.shape[1], r, tokens.places.shape[1])
    assert torch.equal(out.sizes().sum(1), tokens.sizes().sum(1))
    # The size-weighted sum of all values is kept, too.
    total = (tokens.x * tokens.sizes().unsqueeze(-1)).sum(1)
    torch.testing.assert_close((out.x * out.sizes().unsqueeze(-1)).sum(1), total, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@given(tokens=loads, method=methods, r=st.integers(1, 12))
@PROPERTY
def test_protected_tokens_are_untouched(mode, tokens, method, r):
    # The feature of the protected tokens is the likeliest to merge: it must not matter.
    out = Reducer(r, replace(method, mode=mode))(tokens)
    kept, before = rows_at(out.x, out.places), rows_at(tokens.x, tokens.places)
    if mode in ("amax", "amin"):
        torch.testing.assert_close(kept, before)  # x - hidden + hidden rounds
    else:
        assert torch.equal(kept, before)
    assert torch.equal(out.places.argsort(1), tokens.places.argsort(1))
    if mode in ("sum", "prune"):
        assert torch.equal(out.sizes().gather(1, out.places), tokens.sizes().gather(1, tokens.places))


@pytest.mark.parametrize("matcher", MATCHERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("n", "k", "r"), [(12, 1, 0), (2, 1, 5), (1, 1, 5), (4, 3, 2)])
def test_nothing_to_remove_returns_the_tokens_given(mode, matcher, n, k, r):
    tokens = random_tokens(n=n, k=k)
    settings = Settings(mode=mode, matcher=matcher, shuffle=1.0, size_aware_scan=True, order="shuffled")
    assert Reducer(r, settings)(tokens) is tokens


@given(tokens=loads, method=methods, r=st.integers(1, 12))
@PROPERTY
def test_the_plan_is_sound_and_order_is_kept(tokens, method, r):
    """Each leaves once, for one that stays; what stays stands as it stood, protected tokens at their exact places."""
    n, k = tokens.x.shape[1], tokens.places.shape[1]
    if (r := removable(n, r, k)) == 0:
        return
    rows = patch_rows(tokens.places, n)
    sight = Sight(tokens, rows, method)
    plan = matcher_of(method.matcher)(sight, r)
    mapping = new_map(sight, plan, order="ordered", class_place="exact", prune=False)
    assert mapping.length == n - r
    for image in range(tokens.x.shape[0]):
        leaving, joined, heads = (part[image].tolist() for part in (plan.leaving, plan.joined, plan.heads))
        assert len(set(leaving)) == len(leaving) == len(joined) == r
        assert len(set(heads)) == len(heads)
        assert not set(leaving) & {*joined, *heads}
        place = rows[image].tolist()
        staying = [old for old in range(n) if old not in {place[row] for row in leaving}]
        assert mapping.index[image, staying].tolist() == list(range(n - r))
        for row, other in zip(leaving, joined, strict=True):
            assert mapping.index[image, place[row]] == mapping.index[image, place[other]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_stays(mode, dtype):
    out = Reducer(4, Settings(mode=mode))(random_tokens(dtype=dtype, sized=True))
    assert out.x.dtype == dtype
    assert out.size.dtype == torch.float32
    assert out.x.isfinite().all()


@pytest.mark.parametrize("feature", ["hidden", "B", "C", "delta"])
@pytest.mark.parametrize("similarity", ["cosine", "l1", "l2"])
def test_zero_rows_give_no_nan(feature, similarity):
    tokens = random_tokens()
    features = Features(
        torch.zeros_like(tokens.features.hidden),
        *(tuple(torch.zeros_like(t) for t in getattr(tokens.features, name)) for name in ("B", "C", "delta")),
    )
    tokens = replace(tokens, x=tokens.x.requires_grad_(), features=features)
    out = Reducer(3, Settings(feature=feature, similarity=similarity))(tokens)
    out.x.sum().backward()
    assert out.x.isfinite().all()
    assert tokens.x.grad.isfinite().all()


@pytest.mark.parametrize(("feature", "name"), [("B", "B"), ("C", "C"), ("delta", "delta")])
def test_directions_are_averaged(feature, name):
    tokens = random_tokens(seed=5)
    first, second = getattr(tokens.features, name)
    one = replace(tokens, features=replace(tokens.features, **{name: ((first + second) / 2,)}))
    wrong = replace(tokens, features=replace(tokens.features, **{name: (first,)}))
    plan = Reducer(4, Settings(feature=feature)).planner
    assert torch.equal(plan(tokens).index, plan(one).index)
    assert not torch.equal(plan(tokens).index, plan(wrong).index)


@pytest.mark.parametrize(("mode", "extreme"), [("amax", torch.maximum), ("amin", torch.minimum)])
def test_extremes_merge_the_mixer_output_and_the_stream_apart(mode, extreme):
    tokens = random_tokens(batch=1, n=3, k=1)
    tokens = replace(tokens, places=torch.tensor([[0]]))
    out = Reducer(1, Settings(mode=mode))(tokens)
    hidden, stream = tokens.features.hidden[0], (tokens.x - tokens.features.hidden)[0]
    torch.testing.assert_close(out.x[0, 1], extreme(hidden[1], hidden[2]) + extreme(stream[1], stream[2]))
    assert torch.equal(out.size, torch.ones(1, 2))


@pytest.mark.parametrize(("aware", "mode"), [(True, "sum"), (False, "sum"), (True, "mean")])
def test_scan_sees_the_sizes_on_request_only(aware, mode):
    out = Reducer(4, Settings(size_aware_scan=aware, mode=mode))(random_tokens(sized=True))
    if not aware:
        assert out.time is None
    else:
        assert torch.equal(out.time, out.size)
        assert out.time.dtype == torch.float32


@pytest.mark.parametrize("proportional", [True, False])
def test_attention_sees_the_sizes_unless_told_not_to(proportional):
    out = Reducer(4, Settings(proportional_attention=proportional))(random_tokens(sized=True))
    assert torch.equal(out.weight, out.size) if proportional else out.weight is None


def test_features_are_gone_after_a_merge():
    out = Reducer(4, Settings())(random_tokens())
    assert out.features is None
    with pytest.raises(SettingsError, match="'hidden' is not known"):
        Reducer(2, Settings())(out)


@pytest.mark.parametrize("feature", ["B", "C", "delta"])
def test_a_feature_that_no_block_set_is_named(feature):
    tokens = random_tokens()
    tokens = replace(tokens, features=Features(tokens.x))
    with pytest.raises(SettingsError, match=feature):
        Reducer(2, Settings(feature=feature))(tokens)


def test_matching_builds_no_gradient_graph_and_merging_does():
    tokens = random_tokens()
    hidden = tokens.features.hidden.clone().requires_grad_()
    x = tokens.x.clone().requires_grad_()
    Reducer(4, Settings())(replace(tokens, x=x, features=Features(hidden))).x.square().sum().backward()
    assert x.grad.abs().max() > 0
    assert hidden.grad is None


def test_shuffle_is_the_same_each_time_and_moves_the_share():
    tokens = random_tokens(batch=2, n=41, k=1)
    reducer = Reducer(5, Settings(shuffle=0.5, seed=3), block=2)
    state = torch.get_rng_state()
    first, second = reducer(tokens), reducer(tokens)
    assert torch.equal(first.x, second.x)
    assert torch.equal(torch.get_rng_state(), state)
    rows = torch.arange(40).expand(2, 40)
    moved = reducer.planner._shuffled(rows) != rows
    assert torch.equal(moved[0], moved[1])
    assert 10 <= moved[0].sum() <= 20
    for other in (Settings(shuffle=0.5, seed=4), Settings()):
        assert not torch.equal(Reducer(5, other, block=2)(tokens).x, first.x)
    assert not torch.equal(Reducer(5, Settings(shuffle=0.5, seed=3), block=3)(tokens).x, first.x)


def test_shuffled_tokens_stand_and_match_in_their_new_order():
    tokens = random_tokens(batch=1, n=11, k=1)
    reducer = Reducer(3, Settings(shuffle=1.0))
    places = torch.tensor([[4]])
    rows = torch.tensor([[place for place in range(11) if place != 4]])
    shuffled = reducer.planner._shuffled(rows)
    order = torch.cat((shuffled[:, :4], places, shuffled[:, 4:]), dim=1)[0]
    permuted = replace(tokens, x=tokens.x[:, order], places=places, features=Features(tokens.features.hidden[:, order]))
    expected = Reducer(3, Settings())(permuted)
    torch.testing.assert_close(reducer(replace(tokens, places=places)).x, expected.x)


@pytest.mark.parametrize("removal", [-1, 1.5, True])
def test_a_removal_that_cannot_be_is_refused(removal):
    with pytest.raises(ScheduleError):
        Reducer(removal, Settings())


@pytest.mark.parametrize("order", ["ordered", "unordered", "shuffled"])
@pytest.mark.parametrize("matcher", MATCHERS)
def test_images_do_not_influence_each_other(matcher, order):
    tokens, reducer = random_tokens(batch=3, n=15, k=2), Reducer(5, Settings(matcher=matcher, order=order))
    together = reducer(tokens)
    for image in range(3):
        part = slice(image, image + 1)
        features = Features(tokens.features.hidden[part], delta=tuple(delta[part] for delta in tokens.features.delta))
        alone = reducer(replace(tokens, x=tokens.x[part], places=tokens.places[part], features=features))
        torch.testing.assert_close(alone.x[0], together.x[image])


@given(tokens=loads, method=methods, r=st.integers(1, 6), later=st.integers(1, 6))
@PROPERTY
def test_two_merges_are_one_by_the_composed_map(tokens, method, r, later):
    """Of any reducer whose merge is a weighted mean: one merge by both maps gives the same tokens."""
    first, second = Reducer(r, method), Reducer(later, method, block=1)
    between = first(tokens)
    if removable(between.x.shape[1], later, between.places.shape[1]) == 0:
        return
    between = replace(between, features=random_tokens(*between.x.shape[:2], between.places.shape[1]).features)
    composed = first.planner(tokens).then(second.planner(between))
    out = second(between)
    x, size = composed.merge(tokens.x, tokens.sizes())
    torch.testing.assert_close(x, out.x, atol=1e-5, rtol=1e-5)
    assert torch.equal(size, out.sizes())
    assert torch.equal(composed.move(tokens.places), out.places)


@pytest.mark.parametrize("settings", [{"matcher": "random"}, {"order": "shuffled"}])
def test_chance_is_the_same_each_time_and_differs_by_seed_and_block(settings):
    tokens = random_tokens(n=41)
    state = torch.get_rng_state()
    first = Reducer(5, Settings(**settings))(tokens)
    assert torch.equal(Reducer(5, Settings(**settings))(tokens).x, first.x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(Reducer(5, Settings(**settings, seed=1))(tokens).x, first.x)
    assert not torch.equal(Reducer(5, Settings(**settings), block=1)(tokens).x, first.x)


def test_shuffled_groups_are_the_ordered_ones_in_another_order():
    tokens = random_tokens(batch=2, n=41, k=2)
    ordered = Reducer(9, Settings())(tokens)
    shuffled = Reducer(9, Settings(order="shuffled"))(tokens)
    assert torch.equal(shuffled.places, ordered.places)
    assert not torch.equal(shuffled.x, ordered.x)
    for image in range(2):
        assert sorted(shuffled.x[image].tolist()) == sorted(ordered.x[image].tolist())


@pytest.mark.parametrize("matcher", MATCHERS)
def test_a_feature_that_is_read_is_told(matcher):
    asked = set()

    class Telling:
        def __getattr__(self, name):
            asked.add(name)
            return getattr(tokens.features, name)

    tokens = random_tokens(n=9)
    reducer = Reducer(2, Settings(matcher=matcher, feature="B"))
    reducer(replace(tokens, features=Telling()))
    assert asked <= set(reducer.reads)


def test_without_a_class_token_nothing_can_be_like_it():
    with pytest.raises(SettingsError, match="has none"):
        Reducer(2, Settings(matcher="class_token"))(random_tokens(k=0))


@pytest.mark.skipif(native_info() is None, reason="no native kernels here")
@pytest.mark.parametrize(
    ("settings", "watched", "wanted"),
    [
        ({}, False, ["bipartite_merge"]),
        ({"order": "unordered", "class_place": "official", "mode": "prune"}, False, ["bipartite_merge"]),
        ({}, True, ["token_match", "token_plan", "token_merge"]),
        ({"mode": "amax"}, False, ["token_match", "token_plan"]),
        ({"shuffle": 0.5}, False, ["permutation", "permutation", "token_match", "token_plan", "token_merge"]),
        ({"matcher": "adjacent"}, False, ["token_plan", "token_merge"]),
    ],
)
def test_a_merge_is_one_op_unless_somebody_wants_to_see_its_plan(settings, watched, wanted):
    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    reducer = Reducer(4, Settings(**settings))
    if watched:
        reducer.planner.register_forward_hook(lambda *_: None)
    with torch.no_grad(), Seen():
        reducer(random_tokens(n=20, sized=True))
    assert [name.removeprefix("rmeeto::") for name in names if name.startswith("rmeeto::")] == wanted


@pytest.mark.parametrize("settings", [{}, {"class_place": "official"}, {"order": "unordered"}, {"feature": "B"}])
@pytest.mark.parametrize("mode", ["sum", "mean", "prune"])
def test_a_merge_in_one_go_gives_what_its_steps_give(settings, mode):
    reducer = Reducer(4, Settings(mode=mode, **settings))
    tokens = random_tokens(n=20, sized=True)
    tokens = replace(tokens, origin=TokenMap.identity(*tokens.x.shape[:2]))
    at_once = reducer(tokens)
    reducer.planner.register_forward_hook(lambda *_: None)
    stepwise = reducer(tokens)
    for name in ("x", "size", "places", "weight"):
        assert torch.equal(getattr(at_once, name), getattr(stepwise, name))
    assert torch.equal(at_once.origin.index, stepwise.origin.index)
    assert at_once.features is None


@pytest.mark.parametrize("settings", [{}, {"order": "unordered", "mode": "prune"}, {"matcher": "adjacent"}])
def test_a_merge_compiles_as_one_graph(settings):
    tokens, reducer = random_tokens(n=20, sized=True), Reducer(4, Settings(**settings))

    def merged(x):
        out = reducer(replace(tokens, x=x))
        return out.x, out.size, out.places

    found = torch.compile(merged, fullgraph=True, backend="aot_eager")(tokens.x)
    for one, other in zip(found, merged(tokens.x), strict=True):
        assert torch.equal(one, other)
