"""Who merges into whom, against a plain-Python writing of the method, token by token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rmeeto.errors import SettingsError
from rmeeto.reduction import Settings
from rmeeto.reduction.matchers.bipartite import plan
from rmeeto.reduction.ordering import new_map, patch_rows
from rmeeto.reduction.plan import Sight
from rmeeto.tokens import Tokens

PROPERTY = settings(derandomize=True, deadline=None, max_examples=80)


def similar(a, b, similarity):
    """Similarity of two lists of numbers after normalisation."""
    a, b = ([value / max(sum(v * v for v in row) ** 0.5, 1e-12) for value in row] for row in (a, b))
    if similarity == "cosine":
        return sum(x * y for x, y in zip(a, b, strict=True))
    if similarity == "l1":
        return -sum(abs(x - y) for x, y in zip(a, b, strict=True))
    return -(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5)


def by_hand(features, places, r, *, similarity, rank, order, class_place):
    """One image -> (the new sequence as a list of groups of old places, leaving sources)."""
    n = len(features)
    patches = [place for place in range(n) if place not in places]
    sources, destinations = patches[0::2], patches[1::2]
    chosen = {}
    for source in sources:
        scores = sorted(
            ((similar(features[source], features[d], similarity), -i) for i, d in enumerate(destinations)), reverse=True
        )
        score, index = scores[min(rank, len(scores)) - 1]
        chosen[source] = (round(score, 9), destinations[-index])
    ranked = sorted(sources, key=lambda source: (-chosen[source][0], source))
    leaving, staying = ranked[:r], ranked[r:]
    groups = {d: [d, *[source for source in leaving if chosen[source][1] == d]] for d in destinations}
    groups |= {source: [source] for source in staying}
    if order == "ordered":
        sequence = [groups[place] for place in patches if place in groups]
        counted, whole = set(groups), n
    else:
        sequence = [groups[place] for place in [*staying, *destinations]]
        counted, whole = set(staying), len(sources)
    for rank_of_place, place in enumerate(sorted(places)):
        before = sum(other < place for other in counted) + rank_of_place
        if class_place == "official":
            before = min(place * (whole - r) // whole, whole - r if order == "unordered" else n)
        sequence.insert(before, [place])
    return sequence, leaving


@st.composite
def plans(draw):
    """(features (b, n, d), places (b, k), r)."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, k = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    patches = draw(st.integers(2, 17))
    features = torch.randn(batch, patches + k, 3, generator=generator, dtype=torch.float64)
    places = torch.stack([torch.randperm(patches + k, generator=generator)[:k] for _ in range(batch)])
    return features, places, draw(st.integers(1, patches // 2))


def planned(features, places, r, *, similarity="cosine", rank=1, order="ordered", class_place="exact", prune=False):
    rows = patch_rows(places, features.shape[1])
    sight = Sight(Tokens(features, places), rows, Settings(feature="x", similarity=similarity, rank=rank))
    return new_map(sight, plan(sight, r), order=order, class_place=class_place, prune=prune)


@pytest.mark.parametrize("order", ["ordered", "unordered"])
@pytest.mark.parametrize("similarity", ["cosine", "l1", "l2"])
@given(case=plans(), rank=st.sampled_from([1, 2, 3, 14]), official=st.booleans())
@PROPERTY
def test_plan_is_the_method_written_by_hand(order, similarity, case, rank, official):
    features, places, r = case
    how = {"similarity": similarity, "rank": rank, "order": order, "class_place": "exact"}
    if official:
        places, how["class_place"] = places[:, :1], "official"
        if places.shape[1] == 0:
            return
        r = min(r, (features.shape[1] - 1) // 2)
    mapping = planned(features, places, r, **how)
    assert mapping.length == features.shape[1] - r
    for image in range(features.shape[0]):
        sequence, _ = by_hand(features[image].tolist(), places[image].tolist(), r, **how)
        expected = {place: new for new, group in enumerate(sequence) for place in group}
        assert mapping.index[image].tolist() == [expected[place] for place in range(features.shape[1])]


@given(case=plans(), order=st.sampled_from(["ordered", "unordered"]))
@PROPERTY
def test_pruning_drops_the_leaving_sources(case, order):
    features, places, r = case
    mapping = planned(features, places, r, order=order, prune=True)
    merging = planned(features, places, r, order=order)
    assert torch.equal(mapping.index, merging.index)
    for image in range(features.shape[0]):
        how = {"similarity": "cosine", "rank": 1, "order": order, "class_place": "exact"}
        _, leaving = by_hand(features[image].tolist(), places[image].tolist(), r, **how)
        assert (~mapping.kept[image]).nonzero().flatten().tolist() == sorted(leaving)
    assert torch.equal(mapping.counts(), torch.ones_like(mapping.counts()))


@given(case=plans())
@PROPERTY
def test_order_is_kept(case):
    features, places, r = case
    mapping = planned(features, places, r)
    n = features.shape[1]
    for image in range(features.shape[0]):
        own = places[image].tolist()
        # A group stands where its destination (the odd patch) or its only token stood.
        patches = [place for place in range(n) if place not in own]
        anchors = {int(mapping.index[image, place]): place for place in [*patches[0::2], *patches[1::2], *own]}
        standing = [anchors[new] for new in range(mapping.length)]
        assert standing == sorted(standing)
        assert mapping.move(places).sort().values[image].tolist() == mapping.index[image, sorted(own)].tolist()


@given(case=plans())
@PROPERTY
def test_l2_matches_as_cosine_does(case):
    features, places, r = case
    assert torch.equal(planned(features, places, r, similarity="l2").index, planned(features, places, r).index)


@pytest.mark.parametrize("k", [0, 2])
def test_official_place_is_for_one_protected_token(k):
    places = torch.arange(k).expand(2, k)
    with pytest.raises(SettingsError, match="class_place='exact'"):
        planned(torch.randn(2, 9, 3), places, 2, class_place="official")


@pytest.mark.parametrize(("r", "final"), [(5, 65), (11, 34)])
def test_official_place_over_eleven_merges(r, final):
    place, n = torch.tensor([[98]]), 197
    for _ in range(11):
        features = torch.randn(1, n, 4, generator=torch.Generator().manual_seed(n))
        mapping = planned(features, place, r, class_place="official")
        place, n = mapping.move(place), mapping.length
    assert place.item() == final


@given(places=st.sets(st.integers(0, 11), max_size=4))
@example(places=set())
@PROPERTY
def test_patch_rows_are_the_rest(places):
    rows = patch_rows(torch.tensor([sorted(places, reverse=True)], dtype=torch.int64).view(1, -1), 12)
    assert rows.tolist() == [[place for place in range(12) if place not in places]]
