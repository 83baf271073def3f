"""Blocks in a row as one op, against the same blocks and merges one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.errors import ShapeError
from rmeeto.evaluate.mode import on_threads
from rmeeto.ops import (
    BlockWeights,
    Merging,
    Stacked,
    block,
    blocks,
    instruction_sets,
    merged_block,
    use_instruction_set,
)
from rmeeto.ops.block import stack

from .kernels import native
from .test_block import make

PRUNED = Merging(4, "l1", 2, 1, True, mode="prune")
# b, n, c, e, s, R, k; merges; feature
STACKS = [
    ((2, 33, 20, 40, 16, 12, 4), [None, None, None], "hidden"),
    ((2, 33, 20, 40, 16, 12, 4), [None, Merging(5), None, Merging(7), None], "hidden"),
    ((5, 40, 24, 48, 8, 3, 4), [Merging(3), Merging(3), Merging(3), Merging(3)], "hidden"),
    ((7, 29, 24, 48, 8, 3, 4), [Merging(3), None, Merging(6, ordered=False, official=True)], "x"),
    ((3, 50, 16, 16, 4, 1, 4), [PRUNED, None, PRUNED], "hidden"),
    ((1, 30, 16, 32, 4, 2, 4), [Merging(2, "l2", mode="mean"), Merging(4), None], "hidden"),
    ((19, 21, 24, 48, 8, 2, 4), [Merging(8), None, Merging(5), None], "hidden"),
    ((3, 140, 16, 1024, 2, 1, 4), [Merging(9), None, Merging(40)], "hidden"),  # few images, each by itself
]


def given(shape: tuple[int, ...], count: int, *, sized: bool = True) -> dict[str, Any]:
    """Arguments by name: as many blocks, each with weights of its own."""
    made = []
    for number in range(count):
        arguments = make(*shape)
        scale = 1 + 0.1 * number
        own = {name: arguments[name] * scale for name in ("norm_weight", "in_proj", "out_proj")}
        made.append(BlockWeights(directions=arguments["directions"], **own))
    b, n = shape[:2]
    random = torch.Generator().manual_seed(3)
    size = torch.randint(1, 5, (b, n), generator=random).float() if sized else None
    places = torch.randint(n, (b, 1), generator=random)
    return {"x": arguments["x"], "size": size, "places": places, "weights": made, "scale": 0.5}


def flat(found: Stacked) -> list[Tensor | None]:
    merged, last = found.merged, found.last
    ends = [None] * 3 if last is None else [last.hidden, *last.projected]
    left = [] if merged is None else [merged.x, merged.size, merged.places, merged.mapping.index, merged.mapping.kept]
    return [found.y, *ends, *left]


def equal(found: Stacked, wanted: Stacked) -> bool:
    pairs = list(zip(flat(found), flat(wanted), strict=True))
    return all(one is other or (one is not None and torch.equal(one, other)) for one, other in pairs)


def one_after_the_other(
    x: Tensor,
    size: Tensor | None,
    places: Tensor,
    weights: list[BlockWeights],
    merges: list[Merging | None],
    feature: Any = "hidden",
    **how: Any,
) -> Stacked:
    last, merged = None, None
    for own, merging in zip(weights, merges, strict=True):
        if merging is None:
            last = block(x, *own, **how)
            x = last.y
        else:
            merged = merged_block(x, *own, None, size, places, merging, feature=feature, **how)
            last, (x, size, places, _) = None, merged
    return Stacked(x, last, None if merged is None else merged._replace(x=x))


@native
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("shape", "merges", "feature"), STACKS)
def test_equals_one_after_the_other_bit_for_bit(shape, merges, feature, threads) -> None:
    how = {"merges": merges, "feature": feature}
    arguments = given(shape, len(merges))
    with on_threads(threads):
        assert equal(blocks(**arguments, **how), one_after_the_other(**arguments, **how))


@native
@pytest.mark.parametrize("threads", [2, 5, 9])
@pytest.mark.parametrize("batch", [9, 2])
def test_whoever_is_first_no_bit_changes(batch: int, threads: int) -> None:
    """Blocks flow into one another: more threads than cores overtake each other in a new order every time."""
    merges = [None, *[Merging(4), None] * 5, Merging(7)]
    arguments = {**given((batch, 60, 12, 24, 4, 2, 4), len(merges)), "merges": merges}
    with on_threads(1):
        wanted = blocks(**arguments)
    with on_threads(threads):
        assert all(equal(blocks(**arguments), wanted) for _ in range(20))


@native
@pytest.mark.parametrize("name", instruction_sets())
@pytest.mark.parametrize(("shape", "merges", "feature"), STACKS[:2])
def test_equals_the_reference(shape, merges, feature, name) -> None:
    arguments = given(shape, len(merges), sized=False)
    with use_instruction_set(name):
        found = blocks(**arguments, merges=merges, feature=feature)
    wanted = blocks(**arguments, merges=merges, feature=feature, backend="reference")
    for mine, law in zip(flat(found), flat(wanted), strict=True):
        if mine is not None and law is not None:
            torch.testing.assert_close(mine, law, rtol=1e-3, atol=1e-4)


@native
def test_strange_strides_and_no_sizes() -> None:
    arguments = given((3, 23, 12, 24, 4, 3, 4), 3, sized=False)
    merges = [Merging(4), None, Merging(3)]
    plain = blocks(**arguments, merges=merges)
    wide = torch.zeros(3, 30, 12)
    wide[:, 4:27] = arguments["x"]
    assert equal(blocks(**{**arguments, "x": wide[:, 4:27]}, merges=merges), plain)
    assert equal(plain, one_after_the_other(**arguments, merges=merges))


@native
@pytest.mark.parametrize("other", [(3, 20, 12, 24, 2, 5, 4), (3, 20, 12, 20, 4, 1, 4), (3, 20, 12, 24, 4, 1, 3)])
def test_blocks_of_several_shapes_are_one_after_the_other(other) -> None:
    arguments = given((3, 20, 12, 24, 4, 1, 4), 2)  # the first of the others projects as many numbers
    weights = [*arguments["weights"], *given(other, 1)["weights"]]
    merges = [None, Merging(4), None]
    found = blocks(**{**arguments, "weights": weights}, merges=merges)
    assert equal(found, one_after_the_other(**{**arguments, "weights": weights}, merges=merges))


def test_with_gradients_it_is_one_after_the_other() -> None:
    arguments = given((2, 20, 8, 16, 4, 2, 4), 2)
    leaf = arguments["x"].requires_grad_()
    made = blocks(**{**arguments, "x": leaf}, merges=[Merging(4), None])
    assert torch.autograd.grad(made.y.square().sum(), leaf)[0].abs().sum() > 0


@native
def test_an_empty_batch() -> None:
    made = blocks(**given((0, 9, 4, 8, 3, 2, 4), 2), merges=[Merging(2), None])
    assert made.last is not None
    assert made.merged is not None
    assert (made.y.shape, made.last.hidden.shape, made.merged.mapping.index.shape) == ((0, 7, 4), (0, 7, 4), (0, 9))


OF_TWO_WIDTHS = [given((2, 9, width, 8, 3, 2, 4), 1)["weights"][0] for width in (4, 6)]
BAD = [
    ({"merges": [None]}, ShapeError, "2 blocks and 1 merges"),
    ({"merges": [None, None], "weights": []}, ShapeError, "0 blocks and 2 merges"),
    ({"merges": [Merging(3), Merging(4)]}, ShapeError, "r = 4 of 5 patch tokens"),
    ({"merges": [Merging(3), None], "places": torch.full((2, 1), 9)}, IndexError, "outside its range"),
    ({"merges": [Merging(3), None], "size": torch.ones(2, 8)}, ShapeError, "do not fit x"),
    ({"merges": [None, None], "x": torch.zeros(2, 9, 5)}, ShapeError, "norm_weight has shape"),
    ({"merges": [None, None], "weights": OF_TWO_WIDTHS}, ShapeError, "norm_weight has shape"),
    ({"merges": [Merging(3), None], "places": torch.zeros(2, dtype=torch.int64)}, ShapeError, "and places"),
]


@native
@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_what_does_not_fit_is_named(change, error, message) -> None:
    with pytest.raises(error, match=message):
        blocks(**{**given((2, 9, 4, 8, 3, 2, 4), 2), **change})


@native
def test_opcheck() -> None:
    arguments = given((2, 19, 12, 24, 4, 3, 4), 2)
    weights = [t for w in arguments["weights"] for t in w.tensors]
    for merges in ([PRUNED, None], [None, Merging(3)], [None, None]):
        numbers = [n for each in merges for n in stack.numbers_of(each, by_stream=False)]
        given_to_it = (arguments["x"], arguments["size"], arguments["places"], weights, numbers, 1e-5, 0.5)
        torch.library.opcheck(torch.ops.rmeeto.blocks.default, given_to_it)


@native
def test_the_flop_counter_sees_all() -> None:
    arguments, totals = given((2, 20, 12, 24, 4, 3, 4), 3), []
    merges = [Merging(4), None, Merging(3)]
    for call in (blocks, one_after_the_other):
        with FlopCounterMode(display=False) as counter:
            call(**arguments, merges=merges)
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1] > 0
