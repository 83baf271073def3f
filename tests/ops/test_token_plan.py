"""The numbering of the new sequence: the native kernel gives the integers of the law."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rmeeto.errors import ShapeError
from rmeeto.ops import native_info, token_plan
from rmeeto.ops.token_plan.reference import patch_rows

native = pytest.mark.skipif(native_info() is None, reason="no native kernels here")
PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)


def draw(b: int, n: int, k: int, r: int, h: int, seed: int = 0) -> list[torch.Tensor]:
    """leaving, joined, heads, places, and rows in a random order."""
    random = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(n - k, generator=random) for _ in range(b)])
    leaving, staying = order[:, :r], order[:, r:]
    joined = staying.gather(1, torch.randint(staying.shape[1], (b, r), generator=random))
    places = torch.stack([torch.randperm(n, generator=random)[:k] for _ in range(b)]).long()
    rows = patch_rows(places, n)[:, torch.randperm(n - k, generator=random)]
    return [leaving, joined, staying[:, :h], places, rows]


@native
@given(
    b=st.integers(1, 3),
    patches=st.integers(2, 40),
    k=st.integers(0, 4),
    seed=st.integers(0, 2**20),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
)
@PROPERTY
def test_equals_the_reference(b, patches, k, seed, shares, flags) -> None:
    r = 1 + round(shares[0] * (patches // 2 - 1))
    ordered, official, prune, shuffled = flags
    *plan, rows = draw(b, patches + k, k, r, round(shares[1] * (patches - r)), seed)
    how = {"rows": rows if shuffled else None, "ordered": ordered, "official": official and k == 1, "prune": prune}
    index, kept = token_plan(*plan, patches + k, **how, backend="native")
    wanted, wanted_kept = token_plan(*plan, patches + k, **how, backend="reference")
    assert torch.equal(index, wanted)
    assert torch.equal(kept, wanted_kept) if prune else kept is wanted_kept is None


@native
@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("value", [-1, 40])
def test_what_is_no_row_or_place_is_refused(part: int, value: int) -> None:
    *plan, rows = draw(2, 40, 2, 5, 6)
    parts = [*plan, rows]
    parts[part] = parts[part].clone()
    parts[part][1, 1] = value
    with pytest.raises(IndexError, match="outside its range"):
        token_plan(*parts[:4], 40, rows=parts[4], ordered=False, backend="native")


@native
def test_opcheck_and_one_graph() -> None:
    *plan, rows = draw(2, 20, 1, 5, 6)
    op = torch.ops.rmeeto.token_plan.default
    for given_rows, flags in ((None, (True, True, False)), (rows, (False, False, True))):
        torch.library.opcheck(op, (*plan, 20, given_rows, *flags))
    compiled = torch.compile(token_plan, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*plan, 20, official=True)[0], token_plan(*plan, 20, official=True)[0])


MISFITS = [
    ([(2, 3), (2, 2), (2, 1), (2, 1)], None, "joined has shape"),
    ([(1, 3), (2, 3), (2, 1), (2, 1)], None, "leaving has shape"),
    ([(2, 3), (2, 3), (1, 1), (2, 1)], None, "heads has shape"),
    ([(2, 3), (2, 3), (2, 1), (2, 1)], (2, 4), "rows has shape"),
    ([(2, 3), (2, 3), (2, 7), (2, 1)], None, "plan for fewer"),
]


@pytest.mark.parametrize(("shapes", "rows", "message"), MISFITS)
def test_shapes_that_do_not_fit_are_named(shapes: list[tuple], rows: tuple | None, message: str) -> None:
    with pytest.raises(ShapeError, match=message) as caught:
        token_plan(
            *(torch.zeros(shape).long() for shape in shapes), 10, rows=None if rows is None else torch.zeros(rows)
        )
    assert "\n" not in str(caught.value)


@given(places=st.sets(st.integers(0, 11), max_size=4))
@example(places=set())
@PROPERTY
def test_patch_rows_are_the_rest(places: set[int]) -> None:
    rows = patch_rows(torch.tensor([sorted(places, reverse=True)], dtype=torch.int64).view(1, -1), 12)
    assert rows.tolist() == [[place for place in range(12) if place not in places]]
