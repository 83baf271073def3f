"""Who is most like whom: the native kernel against the law, ties and NaN included."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.errors import BackendError, ShapeError
from rmeeto.ops import Match, instruction_sets, native_info, token_match, use_instruction_set
from rmeeto.ops.token_match import reference

from .kernels import by_threads

native = pytest.mark.skipif(native_info() is None, reason="no native kernels here")
both = pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=native)])
every_similarity = pytest.mark.parametrize("similarity", ["cosine", "l1", "l2"])


def make(b: int, n: int, d: int, k: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    places = torch.stack([torch.randperm(n, generator=random)[:k] for _ in range(b)])
    return torch.randn(b, n, d, generator=random), places.long()


def apart(values: torch.Tensor, places: torch.Tensor, **how: object) -> bool:
    """Whether no two candidates are so nearly alike that rounding could choose between them."""
    rows = reference.patch_rows(places, values.shape[1])
    patches, first = reference.normalised(reference.at_rows(values.double(), rows)), int(how.get("first", 0))
    alike = reference.scores(patches[:, first::2], patches[:, 1 - first :: 2], str(how["similarity"]))
    rank = min(int(how.get("rank", 1)), alike.shape[-1])
    nearest = alike.sort(dim=-1, descending=True).values[..., max(0, rank - 2) : rank + 1]
    best = reference.best_of(alike, rank)[0].sort(dim=-1).values
    return all(float(gaps.abs().min()) > 5e-6 for gaps in (nearest.diff(dim=-1), best.diff(dim=-1)) if gaps.numel())


def assert_same(found: Match, wanted: Match) -> None:
    for name in ("leaving", "joined", "staying"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    torch.testing.assert_close(found.best, wanted.best, rtol=1e-6, atol=1e-6, equal_nan=True)


SHAPES = [  # b, n, d, k, r
    (1, 3, 1, 1, 1),
    (1, 2, 4, 0, 1),
    (2, 9, 6, 2, 3),
    (2, 38, 5, 1, 0),
    (3, 68, 16, 1, 11),
    (1, 99, 33, 3, 48),
    (2, 197, 24, 1, 5),
    (1, 260, 130, 0, 130),
]


@native
@every_similarity
@pytest.mark.parametrize("name", instruction_sets())
@pytest.mark.parametrize("shape", SHAPES)
def test_every_instruction_set_equals_the_reference(name: str, shape: tuple[int, ...], similarity: str) -> None:
    *sizes, r = shape
    how = {"similarity": similarity}
    values, places = next(case for seed in range(99) if apart(*(case := make(*sizes, seed=seed)), **how))
    with use_instruction_set(name):
        found = token_match(values, places, r, **how, backend="native")
    wanted = token_match(values.double(), places, r, **how, backend="reference")
    assert_same(found, wanted._replace(best=wanted.best.float()))


@native
@every_similarity
@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    b=st.integers(1, 3),
    n=st.integers(4, 60),
    d=st.integers(2, 40),
    k=st.integers(0, 2),
    seed=st.integers(0, 2**20),
    rank=st.sampled_from([1, 2, 3, 40]),
    first=st.integers(0, 1),
    share=st.floats(0, 1),
    by_sequence=st.booleans(),
)
def test_equals_the_reference_anywhere(similarity: str, b, n, d, k, seed, rank, first, share, by_sequence) -> None:
    values, places = make(b, n, d, k, seed)
    how = {"similarity": similarity, "rank": rank, "first": first}
    if not apart(values, places, **how):
        return
    r = round(share * ((n - k - first + 1) // 2))
    found, wanted = (
        token_match(values, places, r, **how, by_sequence=by_sequence, backend=name) for name in ("native", "reference")
    )
    assert_same(found, wanted)


@native
@every_similarity
@settings(max_examples=60, deadline=None, derandomize=True)
@given(n=st.integers(4, 90), kinds=st.integers(1, 6), seed=st.integers(0, 2**20), rank=st.integers(1, 4))
def test_exact_ties_are_settled_by_sequence_as_in_the_reference(similarity: str, n, kinds, seed, rank) -> None:
    """Few kinds of tokens, each copied many times; their similarities are whole numbers of sixteenths."""
    random = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (kinds, 16), generator=random) * 2.0 - 1
    values = signs[torch.randint(kinds, (2, n), generator=random)]
    places = torch.empty(2, 0, dtype=torch.int64)
    for name in instruction_sets():
        with use_instruction_set(name):
            found = token_match(values, places, n // 4, similarity=similarity, rank=rank, backend="native")
        wanted = token_match(values, places, n // 4, similarity=similarity, rank=rank, backend="reference")
        assert_same(found, wanted)


@native
@every_similarity
def test_copies_of_a_token_are_exactly_equally_alike(similarity: str) -> None:
    """Wherever in a tile they stand: the first of them is chosen, and sources of one kind leave in their order."""
    values, _ = make(1, 150, 37, 0)
    values[:, 1::2] = values[:, 1:2]
    values[:, 0::2] = values[:, 0:1]
    for name in instruction_sets():
        with use_instruction_set(name):
            found = token_match(values, torch.empty(1, 0).long(), 75, similarity=similarity, backend="native")
        assert found.joined.unique().tolist() == [1]
        assert found.leaving[0].tolist() == list(range(0, 150, 2))
        assert found.best.unique().numel() == 1


@both
@every_similarity
@pytest.mark.parametrize("rank", [1, 2])
def test_ties_are_settled_by_sequence(backend: str, similarity: str, rank: int) -> None:
    # All rows alike: every source chooses the first (second) destination, the first sources leave.
    match = token_match(
        torch.ones(2, 9, 4), torch.empty(2, 0).long(), 5, similarity=similarity, rank=rank, backend=backend
    )
    assert match.joined.tolist() == [[2 * rank - 1] * 5] * 2
    assert match.leaving.tolist() == [[0, 2, 4, 6, 8]] * 2


@both
@every_similarity
@pytest.mark.parametrize("rows", [slice(0, 1), slice(1, 2), slice(0, 9)])
def test_zero_rows_are_safe(backend: str, similarity: str, rows: slice) -> None:
    values, places = make(1, 9, 4, 0)
    values[:, rows] = 0
    match = token_match(values, places, 5, similarity=similarity, backend=backend)
    assert sorted(match.leaving[0].tolist()) == [0, 2, 4, 6, 8]
    assert set(match.joined[0].tolist()) <= {1, 3, 5, 7}
    assert match.best.isfinite().all()
    wanted = token_match(values, places, 5, similarity=similarity, backend="reference")
    torch.testing.assert_close(match.best, wanted.best, rtol=0, atol=1e-6)


@native
@every_similarity
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, 1e-30])
@pytest.mark.parametrize("place", [0, 1, 6, 13])
@pytest.mark.parametrize("rank", [1, 3])
def test_strange_numbers_are_taken_as_in_the_reference(similarity: str, value: float, place: int, rank: int) -> None:
    values, places = make(1, 20, 8, 0, seed=2)
    values[0, place, 3] = value
    found, wanted = (
        token_match(values, places, 10, similarity=similarity, rank=rank, backend=name)
        for name in ("native", "reference")
    )
    assert_same(found, wanted)


@both
def test_scale_of_a_row_does_not_matter(backend: str) -> None:
    values, places = make(2, 12, 5, 0)
    scaled = values * torch.logspace(-9, 9, 12).view(1, 12, 1)
    one, other = (token_match(v, places, 6, backend=backend) for v in (values, scaled))
    assert torch.equal(one.leaving, other.leaving)
    assert torch.equal(one.joined, other.joined)


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_compared_in_single(backend: str, dtype: torch.dtype) -> None:
    # Similar rows, whose products bfloat16 could not tell apart.
    values, places = make(2, 64, 16, 0)
    values = (1 + 0.1 * values).to(dtype)
    expected = token_match(values.float(), places, 32, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        for given_as in (values, values.float()):
            found = token_match(given_as, places, 32, backend=backend)
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@native
def test_the_number_of_threads_changes_nothing() -> None:
    values, places = make(1, 500, 40)
    for rank in (1, 2):
        first, *others = by_threads(partial(token_match, values, places, 99, rank=rank, backend="native"))
        assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@native
def test_slices_strange_strides_and_given_rows() -> None:
    values, places = make(2, 40, 24, 2)
    wanted = token_match(values, places, 9, backend="native")
    rows = reference.patch_rows(places, 40)
    for other in (torch.cat([values, values], -1)[..., 24:], values.transpose(0, 1).contiguous().transpose(0, 1)):
        for given_rows in (None, rows):
            assert_same(token_match(other, places, 9, rows=given_rows, backend="native"), wanted)
    turned = rows.flip(1)
    assert_same(*(token_match(values, places, 9, rows=turned, backend=name) for name in ("native", "reference")))


def test_the_reference_in_blocks_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    values, places = make(2, 60, 8)
    whole = token_match(values, places, 9, similarity="l1", backend="reference")
    monkeypatch.setattr(reference, "AT_ONCE", 2 * 30 * 7)
    assert_same(token_match(values, places, 9, similarity="l1", backend="reference"), whole)


@native
@pytest.mark.parametrize("places", [[[40]], [[-1]]])
def test_a_place_that_is_none_is_refused(places: list[list[int]]) -> None:
    with pytest.raises(IndexError, match="outside its range"):
        token_match(torch.randn(1, 40, 3), torch.tensor(places), 3, backend="native")


@both
def test_an_empty_batch_passes(backend: str) -> None:
    match = token_match(torch.empty(0, 9, 4), torch.empty(0, 1).long(), 2, backend=backend)
    assert [tuple(t.shape) for t in match] == [(0, 2), (0, 2), (0, 2), (0, 4)]


@native
def test_opcheck_and_one_graph() -> None:
    values, places = make(2, 19, 6)
    op = torch.ops.rmeeto.token_match.default
    torch.library.opcheck(op, (values, places, None, 3, "l2", 2, 1, True))
    wanted = token_match(values, places, 3)
    found = torch.compile(token_match, fullgraph=True, backend="aot_eager")(values, places, 3)
    assert_same(found, wanted)


def test_the_flop_counter_sees_the_products() -> None:
    values, places = (t.to("meta") for t in make(2, 20, 6))
    for backend in ("reference", "native") if native_info() else ("reference",):
        with FlopCounterMode(display=False) as counter:
            token_match(values, places, 3, backend=None if backend == "native" else backend)
        assert counter.get_total_flops() == 2 * 2 * 10 * 9 * 6


@native
def test_float64_runs_the_reference_and_native_is_refused() -> None:
    values, places = make(1, 9, 4)
    assert token_match(values.double(), places, 2).best.dtype is torch.float64
    with pytest.raises(BackendError, match="float64"):
        token_match(values.double(), places, 2, backend="native")


MISFITS = [
    ((2, 5), (2, 1), {}, "values have shape"),
    ((2, 5, 3), (1, 1), {}, "values have shape"),
    ((2, 5, 3), (2, 4), {}, "r = 1 of 1 patch tokens"),
    ((2, 6, 3), (2, 1), {"r": 4}, "r = 4 of 5"),
    ((2, 6, 3), (2, 1), {"r": 3, "first": 1}, "r = 3 of 5"),
    ((2, 6, 3), (2, 1), {"first": 2}, "first = 2"),
    ((2, 6, 3), (2, 1), {"rank": 0}, "rank = 0"),
    ((2, 6, 3), (2, 1), {"similarity": "dot"}, "similarity = 'dot'"),
    ((2, 6, 3), (2, 1), {"rows": torch.zeros(2, 4)}, "rows has shape"),
]


@pytest.mark.parametrize(("values", "places", "how", "message"), MISFITS)
def test_what_does_not_fit_is_named(values: tuple, places: tuple, how: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message) as caught:
        token_match(torch.zeros(values), torch.zeros(places).long(), **({"r": 1} | how))
    assert "\n" not in str(caught.value)
