"""The native merge against the law, outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.errors import BackendError, SettingsError, ShapeError
from rmeeto.ops import instruction_sets, native_info, token_merge, use_instruction_set
from rmeeto.tokens import TokenMap

from .kernels import by_threads

native = pytest.mark.skipif(native_info() is None, reason="no native kernels here")
modes = pytest.mark.parametrize("mode", ["sum", "mean", "prune"])


def make(b: int, n: int, c: int, m: int, *, seed: int = 0, pruned: bool = False, k: int = 2):
    """(values, sizes, map, places)."""
    random = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(n, generator=random) for _ in range(b)]) if b else torch.empty(0, n).long()
    groups = torch.cat([torch.arange(m), torch.randint(m, (n - m,), generator=random)]).expand(b, n)
    index = torch.empty(b, n, dtype=torch.int64).scatter(1, order, groups)
    kept = torch.ones(b, n, dtype=torch.bool).scatter(1, order[:, m:], value=False) if pruned else None
    size = torch.randint(1, 9, (b, n), generator=random).float()
    places = torch.randint(n, (b, k), generator=random)
    return torch.randn(b, n, c, generator=random), size, TokenMap(index, m, kept), places


def run(x: Tensor, size: Tensor | None, mapping: TokenMap, places: Tensor, backend: str, mode: str = "sum"):
    """The merge, and the gradient of the values under a fixed random gradient of the merged ones."""
    leaf = x.detach().clone().requires_grad_()
    y, sizes, moved = token_merge(leaf, size, mapping, places, mode, backend=backend)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y.dtype)
    return y.detach(), sizes, moved, torch.autograd.grad(y, leaf, dy)[0]


def assert_same(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], atol: float = 1e-6) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=atol, equal_nan=True)
    assert torch.equal(found[1], wanted[1])
    assert torch.equal(found[2], wanted[2])
    torch.testing.assert_close(found[3], wanted[3], rtol=0, atol=atol, equal_nan=True)


SHAPES = [(1, 1, 1, 1), (2, 5, 3, 2), (2, 33, 40, 20), (3, 50, 65, 49), (1, 197, 24, 98)]


@native
@modes
@pytest.mark.parametrize("name", instruction_sets())
@pytest.mark.parametrize("shape", SHAPES)
def test_every_instruction_set_equals_the_reference(name: str, shape: tuple[int, ...], mode: str) -> None:
    x, size, mapping, places = make(*shape, pruned=mode == "prune")
    with use_instruction_set(name):
        found = run(x, size, mapping, places, "native", mode)
    assert_same(found, run(x, size, mapping, places, "reference", mode))


@native
@modes
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    b=st.integers(1, 3),
    n=st.integers(1, 40),
    c=st.integers(1, 70),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**20),
    pruned=st.booleans(),
    sized=st.booleans(),
)
def test_equals_the_reference_anywhere(mode: str, b, n, c, share, seed, pruned, sized) -> None:
    x, size, mapping, places = make(b, n, c, 1 + round(share * (n - 1)), seed=seed, pruned=pruned)
    given_size = size if sized else None
    found, wanted = (run(x, given_size, mapping, places, name, mode) for name in ("native", "reference"))
    assert_same(found, wanted)


@native
def test_a_token_alone_passes_bit_for_bit_and_empty_groups_are_zero() -> None:
    x, size, _, places = make(2, 9, 20, 9)
    alone = TokenMap(torch.arange(9).flip(0).expand(2, 9), 11)
    y, sizes, _, dx = run(x, size, alone, places, "native")
    assert torch.equal(y[:, :9].flip(1), x)
    assert torch.equal(y[:, 9:], torch.zeros(2, 2, 20))
    assert torch.equal(sizes[:, 9:], torch.zeros(2, 2))
    assert_same((y, sizes, alone.move(places), dx), run(x, size, alone, places, "reference"))


@native
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1.6e-2), (torch.float16, 2e-3)])
def test_half_types_sum_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    x, size, mapping, places = make(2, 30, 17, 9)
    found = run(x.to(dtype), size, mapping, places, "native")
    assert [t.dtype for t in found] == [dtype, torch.float32, torch.int64, dtype]
    assert_same(found, run(x.to(dtype), size, mapping, places, "reference"), tolerance)
    mapping = TokenMap(torch.zeros(1, 300, dtype=torch.int64), 1)  # a sum carried in bfloat16 would stop at 256
    merged, sizes, _ = token_merge(torch.ones(1, 300, 1, dtype=dtype), None, mapping, mapping.index[:, :0])
    assert (merged.item(), sizes.item()) == (1.0, 300.0)


@native
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_strange_numbers_come_out_as_in_the_reference(value: float) -> None:
    x, size, mapping, places = make(2, 12, 18, 5, pruned=True)
    x[0, :6, 3] = value
    assert_same(*(run(x, size, mapping, places, name) for name in ("native", "reference")))


@native
def test_slices_and_strange_strides() -> None:
    x, size, mapping, places = make(2, 40, 24, 9)
    wanted = run(x, size, mapping, places, "native")
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    slanted = TokenMap(mapping.index.t().contiguous().t(), 9)
    for values, other in ((torch.cat([x, x], -1)[..., 24:], mapping), (turned, slanted)):
        y, sizes, moved = token_merge(values, size.t().contiguous().t(), other, places, backend="native")
        assert torch.equal(y, wanted[0])
        assert torch.equal(sizes, wanted[1])
        assert torch.equal(moved, wanted[2])


@native
def test_the_number_of_threads_changes_nothing() -> None:
    values = make(1, 60, 200, 30)
    results = by_threads(lambda: run(*values, "native"))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@native
def test_sizes_that_want_a_gradient_have_one() -> None:
    x, size, mapping, places = make(1, 6, 3, 3)
    size.requires_grad_()
    y, _, _ = token_merge(x, size, mapping, places)
    assert torch.autograd.grad(y.square().sum(), size)[0].abs().max() > 0


@native
@pytest.mark.parametrize("what", ["index", "places"])
@pytest.mark.parametrize("value", [-1, 20])
def test_what_is_outside_is_refused(what: str, value: int) -> None:
    x, size, mapping, places = make(2, 20, 3, 9)
    (mapping.index if what == "index" else places)[1, 1] = value
    with pytest.raises(IndexError, match="outside its range"):
        token_merge(x, size, mapping, places, backend="native")


@native
def test_an_empty_batch_passes() -> None:
    y, sizes, moved, dx = run(*make(0, 5, 4, 3), "native")
    assert [tuple(t.shape) for t in (y, sizes, moved, dx)] == [(0, 3, 4), (0, 3), (0, 2), (0, 5, 4)]


@native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@pytest.mark.parametrize("requires", [False, True])
@pytest.mark.parametrize("pruned", [False, True])
def test_opcheck(requires: bool, pruned: bool) -> None:
    x, size, mapping, places = make(2, 9, 5, 4, pruned=pruned)
    sizes = None if pruned else size
    arguments = (x.requires_grad_(requires), sizes, mapping.index, mapping.kept, places, 4, False)
    torch.library.opcheck(torch.ops.rmeeto.token_merge.default, arguments)
    backward = torch.ops.rmeeto.token_merge_backward.default
    torch.library.opcheck(backward, (torch.ones(2, 4, 5), sizes, mapping.index, mapping.kept))


@native
def test_it_compiles_as_one_graph() -> None:
    x, size, mapping, places = make(2, 9, 5, 4)
    x.requires_grad_()

    def merged(values: Tensor) -> Tensor:
        return token_merge(values, size, mapping, places)[0].square().sum()

    wanted = torch.autograd.grad(merged(x), x)[0]
    compiled = torch.compile(merged, fullgraph=True, backend="aot_eager")
    assert torch.equal(torch.autograd.grad(compiled(x), x)[0], wanted)


@native
def test_the_flop_counter_sees_it() -> None:
    x, size, mapping, places = make(2, 9, 5, 4)
    with FlopCounterMode(display=False) as counter:
        y = token_merge(x.requires_grad_(), size, mapping, places)[0]
    assert counter.get_total_flops() == 2 * 2 * 9 * 5
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * 9 * 5


@native
def test_float64_runs_the_reference_and_native_is_refused() -> None:
    x, size, mapping, places = make(1, 9, 4, 5)
    assert token_merge(x.double(), size, mapping, places)[0].dtype is torch.float64
    with pytest.raises(BackendError, match="float64"):
        token_merge(x.double(), size, mapping, places, backend="native")


def test_extremes_run_the_reference_and_unknown_modes_are_refused() -> None:
    x, size, mapping, places = make(1, 9, 4, 5)
    for mode in ("amax", "amin"):
        assert torch.equal(token_merge(x, size, mapping, places, mode)[0], mapping.merge(x, size, mode)[0])
    with pytest.raises(SettingsError, match="unknown"):
        token_merge(x, size, mapping, places, "median")


MISFITS = [
    ((2, 9), (2, 9), (2, 1)),
    ((2, 8, 4), (2, 9), (2, 1)),
    ((2, 9, 4), (2, 8), (2, 1)),
    ((2, 9, 4), (2, 9), (1, 1)),
]


@pytest.mark.parametrize(("x", "size", "places"), MISFITS)
def test_shapes_that_do_not_fit_are_named(x: tuple, size: tuple, places: tuple) -> None:
    mapping = make(2, 9, 4, 5)[2]
    with pytest.raises(ShapeError, match="do not fit a map") as caught:
        token_merge(torch.zeros(x), torch.zeros(size), mapping, torch.zeros(places).long())
    assert "\n" not in str(caught.value)
