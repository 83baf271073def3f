"""Each matcher against its idea written in plain Python, on tokens made for it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmeeto.reduction import Settings
from rmeeto.reduction.matchers import MATCHERS, matcher_of
from rmeeto.reduction.ordering import patch_rows
from rmeeto.reduction.plan import Sight
from rmeeto.tokens import Features, Tokens

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
SIMILARITIES = ["cosine", "l1", "l2"]


def like(a, b, similarity):
    a, b = (torch.nn.functional.normalize(row, dim=0) for row in (a, b))
    return float(a @ b if similarity == "cosine" else -torch.dist(a, b, 1.0 if similarity == "l1" else 2.0))


def sight(seed, patches, k, similarity, rank, split="patches"):
    """One image whose features are told by a seed; class token and registers anywhere."""
    generator = torch.Generator().manual_seed(seed)
    values, delta = (torch.randn(1, patches + k, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    places = torch.randperm(patches + k, generator=generator)[None, :k]
    tokens = Tokens(values, places, features=Features(values, delta=(delta, 2 * delta)))
    return Sight(tokens, patch_rows(places, patches + k), Settings(similarity=similarity, rank=rank, split=split))


sights = st.builds(
    sight,
    st.integers(0, 2**31),
    st.integers(2, 17),
    st.integers(1, 3),
    st.sampled_from(SIMILARITIES),
    st.integers(1, 3),
)


def planned(matcher, seen, r):
    plan = matcher_of(matcher)(seen, r)
    return dict(zip(plan.leaving[0].tolist(), plan.joined[0].tolist(), strict=True)), plan.heads[0].tolist()


@given(seen=sights, sequence=st.booleans(), share=st.floats(0.1, 1))
@PROPERTY
def test_adjacent_joins_the_more_similar_neighbour(seen, sequence, share):
    if sequence:
        seen = Sight(seen.tokens, seen.rows, Settings(**(seen.settings.to_dict() | {"split": "sequence"})))
    rows, rank, similarity = seen.compared()[0], seen.settings.rank, seen.settings.similarity
    first, chosen = seen.first_source, {}
    for row in range(first, len(rows), 2):
        beside = [other for other in (row - 1, row + 1) if 0 <= other < len(rows)]
        beside.sort(key=lambda other: -like(rows[row], rows[other], similarity))
        other = beside[min(rank, len(beside)) - 1]
        chosen[row] = (like(rows[row], rows[other], similarity), other)
    r = max(1, round(share * (len(rows) // 2)))
    ranked = sorted(chosen, key=lambda row: -chosen[row][0])
    joined, heads = planned("adjacent", seen, r)
    assert joined == {row: chosen[row][1] for row in ranked[:r]}
    assert heads == (sorted(ranked[r:]) if sequence else ranked[r:])
    assert all(abs(row - other) == 1 for row, other in joined.items())


@given(seen=sights, share=st.floats(0.1, 1))
@PROPERTY
def test_importance_lets_the_least_delta_leave(seen, share):
    rows, delta = seen.compared()[0], seen.patches(seen.tokens.features.delta[0])[0].mean(1).tolist()
    r = max(1, round(share * (len(rows) // 2)))
    ranked = sorted(range(len(rows)), key=lambda row: delta[row])
    expected = {}
    for row in ranked[:r]:
        best = sorted(ranked[r:], key=lambda other: -like(rows[row], rows[other], seen.settings.similarity))
        expected[row] = best[min(seen.settings.rank, len(best)) - 1]
    assert planned("importance", seen, r) == (expected, ranked[r:][::-1])


@given(seen=sights, share=st.floats(0.1, 1))
@PROPERTY
def test_class_token_lets_the_least_like_it_leave_for_the_next(seen, share):
    rows, own = seen.compared()[0], seen.tokens.x[0, seen.tokens.places[0, 0]]
    r = max(1, round(share * (len(rows) // 2)))
    ranked = sorted(range(len(rows)), key=lambda row: like(rows[row], own, seen.settings.similarity))
    assert planned("class_token", seen, r) == (dict.fromkeys(ranked[:r], ranked[r]), ranked[r + 1 :][::-1])


def test_random_looks_at_nothing_and_takes_all_alike():
    seen = [sight(seed, 16, 1, "cosine", 1) for seed in range(2)]
    assert planned("random", seen[0], 8) == planned("random", seen[1], 8)
    counts = torch.zeros(16)
    for block in range(400):
        joined, heads = planned("random", Sight(seen[0].tokens, seen[0].rows, Settings(), block), 4)
        assert sorted([*joined, *heads]) == list(range(16))
        counts[list(joined)] += 1
    assert (counts - 100).abs().max() < 45  # each row leaves in a quarter of 400 draws, within five deviations


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("matcher", sorted(set(MATCHERS) - {"random"}))
def test_zero_rows_and_ties_are_settled_by_sequence(matcher, similarity):
    tokens = Tokens(torch.zeros(1, 9, 4), torch.tensor([[0]]), features=Features(torch.zeros(1, 9, 4)))
    tokens = Tokens(tokens.x, tokens.places, features=Features(tokens.x, delta=(tokens.x,)))
    seen = Sight(tokens, patch_rows(tokens.places, 9), Settings(similarity=similarity))
    joined, _ = planned(matcher, seen, 3)
    assert list(joined) == ([0, 2, 4] if matcher in ("bipartite", "adjacent") else [0, 1, 2])


@pytest.mark.parametrize(("k", "sources"), [(0, [0, 2, 4, 6]), (1, [1, 3, 5]), (2, [0, 2, 4, 6]), (3, [1, 3, 5])])
@pytest.mark.parametrize("matcher", ["bipartite", "adjacent"])
def test_a_split_of_the_sequence_counts_the_tokens_in_front(matcher, k, sources):
    generator = torch.Generator().manual_seed(0)
    values, places = torch.randn(1, 7 + k, 4, generator=generator), torch.arange(k)[None]
    tokens = Tokens(values, places, features=Features(values))
    seen = Sight(tokens, patch_rows(places, 7 + k), Settings(split="sequence"))
    joined, heads = planned(matcher, seen, 3)
    assert sorted([*joined, *heads]) == sources
    assert not set(joined.values()) & set(sources)
    assert heads == sorted(heads)


@pytest.mark.parametrize("matcher", sorted(MATCHERS))
@pytest.mark.parametrize("split", ["patches", "sequence"])
def test_features_that_are_no_numbers_are_still_a_plan(matcher, split):
    """Of tokens that are there: the loss tells that something is wrong, and the step is skipped."""
    for patches in (2, 3, 4, 7):
        values = torch.full((1, patches + 1, 4), float("nan"))
        tokens = Tokens(values, torch.zeros(1, 1, dtype=torch.int64), features=Features(values, delta=(values,)))
        seen = Sight(tokens, patch_rows(tokens.places, patches + 1), Settings(feature="hidden", split=split))
        most = patches // 2
        plan = matcher_of(matcher)(seen, most)
        assert int(plan.joined.max()) < seen.compared().shape[1]
        assert int(plan.leaving.max()) < seen.compared().shape[1]
