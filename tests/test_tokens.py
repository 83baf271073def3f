"""The map of tokens onto fewer tokens: merge, unmerge, compose, move."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmeeto.errors import SettingsError, ShapeError
from rmeeto.tokens import Slotted, TokenMap, Tokens, is_slotted

PROPERTY = settings(derandomize=True, deadline=None, max_examples=100)
MODES = ["sum", "mean", "amax", "amin", "prune"]


def random_map(batch, n, m, generator, *, pruned=0):
    """A map onto all of m tokens; `pruned` old tokens that share their group weigh nothing."""
    index = torch.empty(batch, n, dtype=torch.int64)
    kept = torch.ones(batch, n, dtype=torch.bool)
    for image in range(batch):
        order = torch.randperm(n, generator=generator)
        index[image, order[:m]] = torch.arange(m)
        index[image, order[m:]] = torch.randint(m, (n - m,), generator=generator)
        kept[image, order[m : m + pruned]] = False
    return TokenMap(index, m, kept if pruned else None)


@st.composite
def cases(draw):
    """(map, values (b, n, d), sizes (b, n), generator)."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, n = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    m = draw(st.integers(1, n))
    mapping = random_map(batch, n, m, generator, pruned=draw(st.integers(0, n - m)))
    sizes = torch.randint(1, 9, (batch, n), generator=generator).float()
    return mapping, torch.randn(batch, n, 3, generator=generator), sizes, generator


def by_hand(mapping, x, size, mode):
    """The definition, group by group."""
    kept = torch.ones_like(mapping.index, dtype=torch.bool) if mapping.kept is None else mapping.kept
    merged = torch.zeros(x.shape[0], mapping.length, x.shape[2], dtype=torch.float64)
    sizes = torch.zeros(x.shape[0], mapping.length)
    for image in range(x.shape[0]):
        for group in range(mapping.length):
            members = (mapping.index[image] == group) & kept[image]
            values, weights = x[image, members].double(), size[image, members].double()[:, None]
            merged[image, group] = {
                "sum": lambda v, w: (v * w).sum(0) / w.sum(),
                "prune": lambda v, w: (v * w).sum(0) / w.sum(),
                "mean": lambda v, w: v.mean(0),
                "amax": lambda v, w: v.amax(0),
                "amin": lambda v, w: v.amin(0),
            }[mode](values, weights)
            sizes[image, group] = weights.sum() if mode in ("sum", "prune") else 1
    return merged, sizes


@pytest.mark.parametrize("mode", MODES)
@given(case=cases())
@PROPERTY
def test_merge_is_its_definition(mode, case):
    mapping, x, size, _ = case
    merged, sizes = mapping.merge(x, size, mode)
    expected, expected_sizes = by_hand(mapping, x, size, mode)
    torch.testing.assert_close(merged.double(), expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(sizes, expected_sizes)
    assert sizes.dtype == torch.float32


@given(case=cases())
@PROPERTY
def test_a_token_alone_passes_bit_for_bit(case):
    mapping, x, size, _ = case
    merged, _ = mapping.merge(x, size)
    alone = mapping.unmerge(TokenMap(mapping.index, mapping.length).counts().unsqueeze(-1)).squeeze(-1) == 1
    assert torch.equal(mapping.unmerge(merged)[alone], x[alone])


@given(case=cases())
@PROPERTY
def test_merge_then_unmerge_is_constant_on_groups(case):
    mapping, x, size, _ = case
    spread = mapping.unmerge(mapping.merge(x, size)[0])
    assert spread.shape == x.shape
    again, _ = mapping.merge(spread, size)
    torch.testing.assert_close(again, mapping.merge(x, size)[0])
    for image in range(x.shape[0]):
        for group in range(mapping.length):
            members = spread[image, mapping.index[image] == group]
            assert torch.equal(members, members[:1].expand_as(members))


@given(case=cases(), share=st.floats(0, 1))
@PROPERTY
def test_merging_twice_is_merging_once_by_the_composed_map(case, share):
    first, x, size, generator = case
    length = max(1, round(share * first.length))
    second = random_map(x.shape[0], first.length, length, generator)
    twice, twice_size = second.merge(*first.merge(x, size))
    once, once_size = first.then(second).merge(x, size)
    torch.testing.assert_close(once, twice, atol=1e-5, rtol=1e-5)
    assert torch.equal(once_size, twice_size)
    places = torch.randint(x.shape[1], (x.shape[0], 2), generator=generator)
    assert torch.equal(first.then(second).move(places), second.move(first.move(places)))


@given(case=cases())
@PROPERTY
def test_counts_sum_to_what_weighs(case):
    mapping, x, _, _ = case
    weighing = torch.full((x.shape[0],), x.shape[1]) if mapping.kept is None else mapping.kept.sum(1)
    assert torch.equal(mapping.counts().sum(1), weighing.float())


def test_pruning_composes():
    first = TokenMap(torch.tensor([[0, 1, 1, 2]]), 3, torch.tensor([[True, False, True, True]]))
    second = TokenMap(torch.tensor([[0, 1, 1]]), 2, torch.tensor([[True, False, True]]))
    both = first.then(second)
    assert both.index.tolist() == [[0, 1, 1, 1]]
    assert both.kept.tolist() == [[True, False, False, True]]
    assert first.then(TokenMap.identity(1, 3)).kept.tolist() == first.kept.tolist()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_values_keep_their_dtype_and_sizes_stay_float32(mode, dtype):
    mapping = random_map(2, 9, 5, torch.Generator().manual_seed(1))
    merged, sizes = mapping.merge(torch.randn(2, 9, 4).to(dtype), torch.ones(2, 9), mode)
    assert merged.dtype == dtype
    assert sizes.dtype == torch.float32


def test_half_precision_sums_in_single():
    # 300 tokens of 1.0: a sum carried in bfloat16 would stop at 256.
    mapping = TokenMap(torch.zeros(1, 300, dtype=torch.int64), 1)
    merged, sizes = mapping.merge(torch.ones(1, 300, 1, dtype=torch.bfloat16), torch.ones(1, 300))
    assert merged.item() == 1.0
    assert sizes.item() == 300.0


@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode):
    mapping = random_map(2, 7, 4, torch.Generator().manual_seed(2), pruned=2 if mode == "prune" else 0)
    x = torch.randn(2, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    size = torch.tensor([[1.0, 2, 1, 3, 1, 1, 5]]).expand(2, 7)
    assert torch.autograd.gradcheck(lambda values: mapping.merge(values, size, mode)[0], x)
    assert torch.autograd.gradcheck(mapping.unmerge, x[:, :4].detach().requires_grad_())


def test_identity_changes_nothing():
    x = torch.randn(2, 5, 3)
    merged, sizes = TokenMap.identity(2, 5).merge(x, torch.full((2, 5), 3.0))
    assert torch.equal(merged, x)
    assert torch.equal(sizes, torch.full((2, 5), 3.0))


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda m: m.merge(torch.ones(2, 4, 1), torch.ones(2, 5)), ShapeError),
        (lambda m: m.merge(torch.ones(2, 5, 1), torch.ones(2, 4)), ShapeError),
        (lambda m: m.merge(torch.ones(2, 5, 1), torch.ones(2, 5), "median"), SettingsError),
        (lambda m: m.unmerge(torch.ones(2, 5, 1)), ShapeError),
        (lambda m: m.then(TokenMap.identity(2, 5)), ShapeError),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(act, error):
    with pytest.raises(error) as caught:
        act(random_map(2, 5, 3, torch.Generator().manual_seed(4)))
    assert "\n" not in str(caught.value)


def test_sizes_are_ones_where_none_are_kept():
    tokens = Tokens(torch.zeros(2, 3, 4, dtype=torch.bfloat16), torch.zeros(2, 1, dtype=torch.int64))
    assert torch.equal(tokens.sizes(), torch.ones(2, 3))
    assert tokens.sizes().dtype == torch.float32


def test_sub_modules_are_slots_in_every_way_of_asking():
    """Checks of types at run time ask by isinstance, which of other protocols sees no sub-modules on newer Pythons."""
    model = torch.nn.Module()
    assert not is_slotted(model)
    assert not isinstance(model, Slotted)
    model.slots, model.num_tokens, model.num_protected = torch.nn.ModuleList(), 5, 1
    assert is_slotted(model)
    assert isinstance(model, Slotted)
