"""A whole merge in one go against the three ops it is made of, outputs and gradients, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.errors import BackendError, ShapeError
from rmeeto.ops import bipartite_merge, instruction_sets, native_info, use_instruction_set
from rmeeto.ops.bipartite_merge import bipartite_merge_reference
from rmeeto.ops.bipartite_merge.native import fits

from .kernels import by_threads

native = pytest.mark.skipif(native_info() is None, reason="no native kernels here")


def make(b: int, n: int, c: int, d: int, k: int = 1, *, sized: bool = True, seed: int = 0) -> dict[str, Any]:
    """Arguments by name, r apart."""
    random = torch.Generator().manual_seed(seed)
    places = [torch.randperm(n, generator=random)[:k] for _ in range(b)]
    return {
        "x": torch.randn(b, n, c, generator=random),
        "size": torch.randint(1, 9, (b, n), generator=random).float() if sized else None,
        "values": torch.randn(b, n, d, generator=random),
        "places": torch.stack(places).long() if b else torch.empty(0, k, dtype=torch.int64),
    }


def run(arguments: dict[str, Any], r: int, backend: str | None, **how: Any) -> list[Tensor | None]:
    """What comes out in one go, or of the native parts (None), and the gradient of the values that are merged."""
    leaf = arguments["x"].detach().clone().requires_grad_()
    given = {**arguments, "x": leaf}
    if backend is None:
        y, size, places, mapping = bipartite_merge_reference(**given, r=r, **how, backend="native")
    else:
        y, size, places, mapping = bipartite_merge(**given, r=r, **how, backend=backend)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y.dtype)
    gradient = torch.autograd.grad(y, leaf, dy)[0]
    assert mapping.length == arguments["x"].shape[1] - r
    return [y.detach(), size, places, mapping.index, mapping.kept, gradient]


def assert_equal(found: list[Tensor | None], wanted: list[Tensor | None]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype is other.dtype
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


WAYS = [
    {},
    {"ordered": False},
    {"ordered": False, "by_sequence": True, "first": 1},
    {"official": True},
    {"official": True, "ordered": False, "mode": "prune"},
    {"mode": "prune"},
    {"mode": "mean", "similarity": "l1"},
    {"similarity": "l2", "rank": 3},
]


@native
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", instruction_sets())
@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (2, 38, 16, 20), (3, 197, 24, 24)])
def test_equals_its_parts_with_every_instruction_set(shape: tuple[int, ...], name: str, how: dict[str, Any]) -> None:
    arguments, r = make(*shape, sized=shape[0] > 1), (shape[1] - 1) // 4
    with use_instruction_set(name):
        assert_equal(run(arguments, r, "native", **how), run(arguments, r, None, **how))


@native
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    b=st.integers(1, 3),
    n=st.integers(4, 60),
    k=st.integers(0, 2),
    first=st.integers(0, 1),
    share=st.floats(0, 1),
    ordered=st.booleans(),
    official=st.booleans(),
    mode=st.sampled_from(["sum", "mean", "prune"]),
    seed=st.integers(0, 99),
)
def test_equals_its_parts_anywhere(b, n, k, first, share, ordered, official, mode, seed) -> None:
    arguments, r = make(b, n, 7, 5, k, seed=seed), round(share * ((n - k - first + 1) // 2))
    how = {"first": first, "ordered": ordered, "official": official and k == 1, "mode": mode}
    assert_equal(run(arguments, r, "native", **how), run(arguments, r, None, **how))


@native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_merged_as_in_the_parts(dtype: torch.dtype) -> None:
    arguments = make(2, 30, 8, 6)
    arguments.update(x=arguments["x"].to(dtype), values=arguments["values"].to(dtype))
    assert_equal(run(arguments, 7, "native"), run(arguments, 7, None))


@native
def test_the_number_of_threads_changes_nothing() -> None:
    arguments = make(3, 99, 130, 33)
    found = by_threads(lambda: run(arguments, 20, "native"))
    assert_equal(found[1], found[0])
    assert_equal(found[2], found[0])


def test_the_reference_composes_references() -> None:
    arguments = make(2, 20, 4, 4)
    wanted = run(arguments, 5, "reference")
    double = {name: t.double() if name in ("x", "values") else t for name, t in arguments.items()}
    assert not fits(*double.values(), mode="sum")
    found = run(double, 5, "auto")
    assert torch.equal(found[3], wanted[3])
    torch.testing.assert_close(found[0], wanted[0].double(), rtol=1e-5, atol=1e-6)


@native
def test_sizes_that_want_gradients_go_to_the_parts() -> None:
    arguments = make(2, 20, 4, 4)
    arguments["size"].requires_grad_()
    made = bipartite_merge(**arguments, r=5)
    assert torch.autograd.grad(made.x.square().sum(), arguments["size"])[0].abs().sum() > 0


@native
def test_an_empty_batch_passes() -> None:
    made = bipartite_merge(**make(0, 9, 4, 4), r=3)
    assert (made.x.shape, made.size.shape, made.places.shape) == ((0, 6, 4), (0, 6), (0, 1))
    assert made.mapping.index.shape == (0, 9)


@native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@pytest.mark.parametrize("mode", ["sum", "prune"])
def test_opcheck(mode: str) -> None:
    a = make(2, 19, 6, 5)
    tensors = (a["x"].requires_grad_(), a["size"], a["values"], a["places"])
    torch.library.opcheck(
        torch.ops.rmeeto.bipartite_merge.default, (*tensors, 4, "cosine", 1, 0, False, True, False, mode)
    )


@native
def test_the_flop_counter_sees_as_much_as_in_the_parts() -> None:
    totals = []
    for compute in (bipartite_merge, bipartite_merge_reference):
        with FlopCounterMode(display=False) as counter:
            compute(**make(2, 20, 6, 5), r=4, backend="native")
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1] > 0


MISFITS = [
    ({"x": torch.zeros(2, 5)}, {}, "must be"),
    ({"values": torch.zeros(2, 8, 4)}, {}, "must be"),
    ({"size": torch.ones(2, 8)}, {}, "sizes"),
    ({"places": torch.zeros(3, 1, dtype=torch.int64)}, {}, "places"),
    ({}, {"r": 5}, "r = 5 of 8 patch tokens"),
    ({}, {"r": -1}, "r = -1"),
    ({}, {"rank": 0}, "rank = 0"),
    ({}, {"first": 2}, "first = 2"),
    ({}, {"similarity": "dot"}, "'dot'"),
]


@native
@pytest.mark.parametrize(("change", "how", "message"), MISFITS)
def test_what_does_not_fit_is_named(change: dict[str, Any], how: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message) as caught:
        bipartite_merge(**{**make(2, 9, 4, 4), "r": 2, **change, **how})
    assert "\n" not in str(caught.value)


@native
def test_places_that_are_none_are_refused() -> None:
    with pytest.raises(IndexError, match="outside its range"):
        bipartite_merge(**{**make(2, 9, 4, 4), "places": torch.full((2, 1), 9)}, r=2)


def test_native_is_refused_where_it_cannot_be_had() -> None:
    arguments = make(2, 9, 4, 4)
    arguments.update(x=arguments["x"].double(), values=arguments["values"].double())
    with pytest.raises(BackendError, match="float64 has no kernel"):
        bipartite_merge(**arguments, r=2, backend="native")
