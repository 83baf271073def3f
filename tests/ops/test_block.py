"""A whole block in one go against the same block composed of reference ops; and that nobody's change is passed over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.errors import BackendError, ShapeError
from rmeeto.evaluate.mode import on_threads
from rmeeto.ops import (
    Direction,
    Merging,
    bipartite_merge,
    block,
    instruction_sets,
    merged_block,
    use_instruction_set,
)  # fmt: skip
from rmeeto.ops.block.merging import MOST_TOKENS
from rmeeto.ops.block.merging import fits as merge_fits
from rmeeto.ops.block.native import fits

from .kernels import by_threads, native
from .test_bimamba import make as parameters_of

TOLERANCE = 5e-6  # largest error over largest value (at least 1)

SHAPES = [  # b, n, c, e, s, R, k
    (1, 1, 1, 1, 1, 1, 4),
    (2, 2, 4, 8, 8, 4, 4),
    (1, 3, 9, 17, 5, 2, 3),
    (3, 16, 16, 16, 4, 1, 4),
    (2, 33, 20, 40, 16, 12, 4),
    (1, 50, 35, 70, 16, 3, 8),
    (5, 65, 65, 130, 8, 20, 2),  # so many images that the weights are laid out beforehand
    (1, 21, 40, 9, 67, 5, 4),  # fewer inner channels than outer ones
    (7, 40, 48, 96, 16, 3, 4),
    (19, 6, 24, 48, 8, 2, 4),  # so few tokens that several images share the rows of a product
    (16, 17, 8, 2000, 2, 1, 2),  # and not as many everywhere
]
LONG = [
    (1, 1500, 96, 192, 4, 6, 4),  # rows in several tasks
    (1, 1101, 480, 960, 2, 6, 4),  # and the weights laid out
]


def make(b: int, n: int, c: int, e: int, s: int, rank: int, taps: int, *, time: bool = False) -> dict[str, Any]:
    """Arguments by name."""
    _, times, *parameters = parameters_of(b, n, e, s, rank, taps, time=time)
    random = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    return {
        "x": normal(b, n, c),
        "norm_weight": 1 + 0.2 * normal(c),
        "in_proj": normal(2 * e, c) * c**-0.5,
        "directions": (Direction(*parameters[:7]), Direction(*parameters[7:])),
        "out_proj": normal(c, e) * e**-0.5,
        "time": times,
        "scale": 0.5,
    }


def tensors_of(arguments: dict[str, Any]) -> list[Tensor]:
    flat = [value for value in arguments.values() if isinstance(value, Tensor)]
    return [*flat, *arguments["directions"][0], *arguments["directions"][1]]


def mapped(arguments: dict[str, Any], change: Any) -> dict[str, Any]:
    """Every tensor changed."""
    new = {name: change(value) if isinstance(value, Tensor) else value for name, value in arguments.items()}
    return {**new, "directions": tuple(Direction(*map(change, way)) for way in arguments["directions"])}


def results(arguments: dict[str, Any], backend: str) -> list[Tensor]:
    y, hidden, projected = block(**arguments, backend=backend)
    return [y, hidden, *projected]


def assert_close(found: list[Tensor], wanted: list[Tensor], tolerance: float = TOLERANCE) -> None:
    for mine, law in zip(found, wanted, strict=True):
        assert mine.shape == law.shape
        error = (mine.double() - law.double()).abs().max()
        assert error <= tolerance * law.double().abs().max().clamp(min=1)


@native
@pytest.mark.parametrize("time", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, *LONG])
def test_equals_the_reference(shape: tuple[int, ...], time: bool) -> None:
    arguments = make(*shape, time=time)
    assert fits(tensors_of(arguments), arguments["directions"])
    assert_close(results(arguments, "native"), results(mapped(arguments, Tensor.double), "reference"))


@native
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", instruction_sets()[1:])
def test_every_instruction_set_equals_the_reference(name: str, shape: tuple[int, ...]) -> None:
    arguments = make(*shape, time=True)
    with use_instruction_set(name):
        found = results(arguments, "native")
    assert_close(found, results(mapped(arguments, Tensor.double), "reference"))


@native
@pytest.mark.parametrize("shape", [*SHAPES, *LONG])
def test_neither_threads_nor_the_batch_change_a_bit(shape: tuple[int, ...]) -> None:
    arguments = make(*shape)
    found = by_threads(lambda: results(arguments, "native"))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    alone = results({**arguments, "x": arguments["x"][-1:]}, "native")
    assert all(torch.equal(one[0], all_of_them[-1]) for one, all_of_them in zip(alone, found[0], strict=True))


@native
def test_scratch_memory_of_all_sizes_in_turn() -> None:
    for shape in (SHAPES[4], LONG[0], SHAPES[1], SHAPES[6], SHAPES[4]):
        test_equals_the_reference(shape, time=False)


@native
def test_strange_strides() -> None:
    arguments = make(2, 19, 12, 24, 4, 3, 4, time=True)
    wanted = results(arguments, "native")
    wide = torch.zeros(2, 19, 40)
    wide[..., 5:17] = arguments["x"]
    assert all(map(torch.equal, results({**arguments, "x": wide[..., 5:17]}, "native"), wanted))
    turned = mapped(arguments, lambda t: t.mT.contiguous().mT if t.dim() > 1 else t)
    assert all(map(torch.equal, results(turned, "native"), wanted))


@native
def test_gradients_are_those_of_the_parts() -> None:
    arguments = mapped(make(2, 20, 12, 24, 4, 3, 4, time=True), lambda t: t.requires_grad_())
    leaves, random = tensors_of(arguments), torch.Generator().manual_seed(2)
    law = mapped(arguments, lambda t: t.detach().double().requires_grad_())
    dy = torch.randn(2, 20, 12, generator=random)
    y, wanted = block(**arguments).y, block(**law, backend="reference").y
    found = torch.autograd.grad(y, leaves, dy)
    assert_close([y.detach(), *found], [wanted.detach(), *torch.autograd.grad(wanted, tensors_of(law), dy.double())])


@native
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_come_out_as_in_the_reference(value: float) -> None:
    arguments = make(2, 20, 12, 24, 4, 3, 4)
    arguments["directions"][0].D[3] = value
    for found, wanted in zip(results(arguments, "native"), results(arguments, "reference"), strict=True):
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.equal(found.isinf(), wanted.isinf())


OTHERS = {
    "half": lambda a: mapped(a, Tensor.bfloat16),
    "wanted": lambda a: mapped(a, lambda t: t.requires_grad_()),
    "meta": lambda a: mapped(a, lambda t: t.to("meta")),
    "a type of its own": lambda a: {**a, "in_proj": a["in_proj"].as_subclass(type("Own", (Tensor,), {}))},
    "two sizes": lambda a: {**a, "directions": (a["directions"][0], make(2, 5, 4, 8, 7, 2, 4)["directions"][0])},
}


@native
@pytest.mark.parametrize("name", OTHERS)
def test_what_the_kernel_is_not_for_is_composed(name: str) -> None:
    arguments = OTHERS[name](make(2, 5, 4, 8, 3, 2, 4))
    assert not fits(tensors_of(arguments), arguments["directions"])
    assert block(**arguments).y.shape == (2, 5, 4)


@native
def test_autocast_goes_to_the_parts() -> None:
    arguments = make(2, 5, 4, 8, 3, 2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not fits(tensors_of(arguments), arguments["directions"])


@native
def test_an_empty_batch_passes() -> None:
    found = block(**make(0, 5, 4, 8, 3, 2, 4))
    assert (found.y.shape, found.hidden.shape, found.projected[1].shape) == ((0, 5, 4), (0, 5, 4), (0, 5, 8))


@native
def test_opcheck() -> None:
    a = make(2, 19, 12, 24, 4, 3, 4, time=True)
    weights = (a["norm_weight"], a["in_proj"], a["out_proj"])
    tensors = (a["x"], a["time"], *weights, *a["directions"][0], *a["directions"][1])
    torch.library.opcheck(torch.ops.rmeeto.block.default, (*tensors, 1e-5, 0.5, False))


@native
def test_it_compiles_as_one_graph() -> None:
    arguments = make(2, 19, 12, 24, 4, 3, 4)
    compiled = torch.compile(lambda x: block(**{**arguments, "x": x}).y, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(arguments["x"]), block(**arguments).y)


@native
def test_the_flop_counter_sees_as_much_as_in_the_parts() -> None:
    arguments, totals = make(2, 19, 12, 24, 4, 3, 4), []
    for given in (arguments, mapped(arguments, lambda t: t.to("meta"))):
        with FlopCounterMode(display=False) as counter:
            block(**given)
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1] > 2 * 2 * 19 * 12 * (2 * 24 + 24)


MISFITS = [
    ({"x": torch.zeros(2, 5)}, "x has shape"),
    ({"x": torch.zeros(2, 0, 4)}, "x has shape"),
    ({"x": torch.zeros(2, 5, 3)}, "norm_weight has shape"),
    ({"in_proj": torch.zeros(15, 4)}, "in_proj has shape"),
    ({"out_proj": torch.zeros(3, 8)}, "out_proj has shape"),
    ({"time": torch.zeros(2, 4)}, "time has shape"),
    ({"directions": make(2, 5, 4, 7, 3, 2, 4)["directions"]}, "conv_weight of the forward direction"),
]


@pytest.mark.parametrize(("change", "message"), MISFITS)
def test_shapes_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message) as caught:
        block(**{**make(2, 5, 4, 8, 3, 2, 4), **change})
    assert "\n" not in str(caught.value)


def test_native_is_refused_where_it_cannot_be_had() -> None:
    with pytest.raises(BackendError, match="float64 has no kernel"):
        results(mapped(make(1, 5, 4, 8, 3, 2, 4), Tensor.double), "native")


MERGINGS = [
    (Merging(3), "hidden", True),
    (Merging(3), "x", False),
    (Merging(5, ordered=False, official=True), "hidden", True),
    (Merging(4, "l1", 2, 1, True, mode="prune"), "hidden", True),
    (Merging(2, "l2", mode="mean"), "x", True),
]


def merged_both_ways(
    shape: tuple[int, ...], merging: Merging, feature: str, *, sized: bool
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """A block and a merge in one go, and one after the other."""
    arguments = make(*shape, time=sized)
    b, n = shape[:2]
    random = torch.Generator().manual_seed(3)
    size = torch.randint(1, 5, (b, n), generator=random).float() if sized else None
    places = torch.randint(n, (b, 1), generator=random)
    made = block(**arguments, backend="native")
    values = made.hidden if feature == "hidden" else made.y
    apart = bipartite_merge(made.y, size, values, places, **merging._asdict(), backend="native")
    at_once = merged_block(**arguments, size=size, places=places, merging=merging, feature=feature)
    return [[m.x, m.size, m.places, m.mapping.index, m.mapping.kept] for m in (at_once, apart)]


@native
@pytest.mark.parametrize(("merging", "feature", "sized"), MERGINGS)
@pytest.mark.parametrize("shape", [SHAPES[4], SHAPES[6], SHAPES[8], *LONG])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_merge_in_the_same_go_equals_one_behind(
    shape: tuple[int, ...], merging: Merging, feature: str, sized: bool, threads: int
) -> None:
    with on_threads(threads):
        at_once, apart = merged_both_ways(shape, merging, feature, sized=sized)
    for one, other in zip(at_once, apart, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_where_the_kernel_cannot_it_is_a_block_and_a_merge() -> None:
    arguments, places = make(2, 20, 8, 16, 4, 2, 4), torch.full((2, 1), 9)
    wanted = merged_block(**arguments, size=None, places=places, merging=Merging(4), backend="reference")
    leaves = mapped(arguments, lambda t: t.requires_grad_())
    found = merged_block(**leaves, size=None, places=places, merging=Merging(4))
    assert torch.equal(found.mapping.index, wanted.mapping.index)
    torch.testing.assert_close(found.x, wanted.x, rtol=1e-4, atol=1e-5)
    assert torch.autograd.grad(found.x.square().sum(), leaves["x"])[0].abs().sum() > 0


@native
def test_too_many_tokens_for_one_thread_are_merged_apart() -> None:
    long = torch.zeros(1, MOST_TOKENS + 1, 4)
    assert not merge_fits(long, None, torch.zeros(1, 1, dtype=torch.int64), "sum")
    assert merge_fits(long[:, 1:], None, torch.zeros(1, 1, dtype=torch.int64), "sum")


@native
def test_an_empty_batch_of_a_block_that_merges() -> None:
    places = torch.empty(0, 1, dtype=torch.int64)
    made = merged_block(**make(0, 9, 4, 8, 3, 2, 4), size=None, places=places, merging=Merging(2))
    assert (made.x.shape, made.mapping.index.shape) == ((0, 7, 4), (0, 9))


@native
def test_places_that_are_none_are_refused() -> None:
    arguments = make(2, 9, 4, 8, 3, 2, 4)
    with pytest.raises(IndexError, match="outside its range"):
        merged_block(**arguments, size=None, places=torch.full((2, 1), 9), merging=Merging(2))
    with pytest.raises(ShapeError, match="r = 5 of 8 patch tokens"):
        merged_block(**arguments, size=None, places=torch.zeros(2, 1, dtype=torch.int64), merging=Merging(5))


@native
def test_opcheck_of_a_block_that_merges() -> None:
    a = make(2, 19, 12, 24, 4, 3, 4, time=True)
    weights = (a["norm_weight"], a["in_proj"], a["out_proj"])
    tensors = (a["x"], a["time"], *weights, *a["directions"][0], *a["directions"][1])
    merge = (1e-5, 0.5, "hidden", torch.ones(2, 19), torch.full((2, 1), 9), *Merging(4, mode="prune"))
    torch.library.opcheck(torch.ops.rmeeto.block_merge.default, (*tensors, *merge))


@native
def test_the_flop_counter_sees_block_and_merge() -> None:
    arguments, totals = {**make(2, 20, 12, 24, 4, 3, 4)}, []
    places = torch.zeros(2, 1, dtype=torch.int64)
    for backend in ("auto", "reference"):
        with FlopCounterMode(display=False) as counter:
            if backend == "auto":
                merged_block(**arguments, size=None, places=places, merging=Merging(4))
            else:
                made = block(**arguments)
                bipartite_merge(made.y, None, made.hidden, places, 4)
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1] > 0
