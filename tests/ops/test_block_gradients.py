"""The gradients of a whole block in one go against those of the same block composed of reference ops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.evaluate.mode import on_threads
from rmeeto.ops import block, instruction_sets, use_instruction_set
from rmeeto.ops.block.native import MOST_SHARES, fits_training, shares_of

from .kernels import by_threads, native
from .test_block import OTHERS, assert_close, make, mapped, tensors_of

SHAPES = [  # b, n, c, e, s, R, k
    (2, 1, 1, 1, 1, 1, 1),
    (2, 2, 4, 8, 8, 4, 4),
    (3, 16, 16, 16, 4, 1, 4),
    (2, 33, 20, 40, 16, 12, 4),
    (4, 50, 35, 70, 16, 3, 8),  # two groups of channels, the second one short
    (5, 65, 65, 130, 8, 20, 2),
    (3, 21, 40, 9, 67, 5, 4),  # fewer inner channels than outer ones
    (40, 6, 24, 48, 8, 2, 4),  # more images than shares, and several that go together
    (37, 70, 16, 32, 8, 2, 4),  # shares of two images and of three, of which two at most go together
    (6, 17, 8, 2000, 2, 1, 2),
    (2, 300, 48, 96, 8, 3, 4),
]
WANTED = ["y", "hidden", "both"]


def trained(arguments: dict[str, Any], backend: str, wanted: str = "both") -> list[Tensor]:
    """y, hidden, and the gradient of every input, under fixed random gradients of what is wanted."""
    leaves = mapped(arguments, lambda t: t.detach().clone().requires_grad_())
    made = block(**leaves, backend=backend)
    if backend == "native":
        assert type(made.y.grad_fn).__name__ == "_BlockBackward"
    random = torch.Generator().manual_seed(7)
    given = {name: torch.randn(made.y.shape, generator=random).to(made.y) for name in ("y", "hidden")}
    names = [name for name in given if wanted in (name, "both")]
    made_of = tensors_of(leaves)
    found = torch.autograd.grad([getattr(made, name) for name in names], made_of, [given[name] for name in names])
    return [made.y.detach(), made.hidden.detach(), *found]


def assert_lawful(arguments: dict[str, Any], wanted: str = "both") -> None:
    with on_threads(1):
        found = trained(arguments, "native", wanted)
    assert_close(found, trained(mapped(arguments, Tensor.double), "reference", wanted))


@native
@pytest.mark.parametrize("time", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(shape: tuple[int, ...], time: bool) -> None:
    assert_lawful(make(*shape, time=time))


@native
@pytest.mark.parametrize("wanted", WANTED)
def test_whatever_of_its_results_went_on(wanted: str) -> None:
    assert_lawful(make(*SHAPES[3], time=True), wanted)


@native
@pytest.mark.parametrize("shape", SHAPES[1:8])
@pytest.mark.parametrize("name", instruction_sets()[1:])
def test_every_instruction_set_equals_the_reference(name: str, shape: tuple[int, ...]) -> None:
    with use_instruction_set(name):
        assert_lawful(make(*shape, time=True))


@native
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] >= 6])
def test_threads_change_no_bit(shape: tuple[int, ...]) -> None:
    first, *others = by_threads(lambda: trained(make(*shape, time=True), "native"))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@native
def test_the_forward_pass_is_that_without_gradients() -> None:
    arguments = make(8, 40, 24, 48, 8, 2, 4, time=True)
    bare = block(**arguments)
    y, hidden, *_ = trained(arguments, "native")
    assert torch.equal(y, bare.y)
    assert torch.equal(hidden, bare.hidden)


@native
def test_scratch_memory_of_all_sizes_in_turn() -> None:
    for shape in (SHAPES[9], SHAPES[1], SHAPES[10], SHAPES[4], SHAPES[9]):
        assert_lawful(make(*shape))


@native
def test_strange_strides() -> None:
    arguments = make(8, 19, 12, 24, 4, 3, 4, time=True)
    wanted = trained(arguments, "native")
    turned = mapped(arguments, lambda t: t.mT.contiguous().mT if t.dim() > 1 else t)
    assert all(map(torch.equal, trained(turned, "native"), wanted))
    x = arguments["x"].clone().requires_grad_()
    y = block(**{**arguments, "x": x}).y
    spread = torch.zeros(8, 19, 40)
    spread[..., 5:17] = torch.randn(y.shape, generator=torch.Generator().manual_seed(7))
    dense = spread[..., 5:17].contiguous()
    grad = torch.autograd.grad
    assert torch.equal(grad(y, x, spread[..., 5:17], retain_graph=True)[0], grad(y, x, dense, retain_graph=True)[0])
    assert torch.equal(grad(y.sum(), x, retain_graph=True)[0], grad(y, x, torch.ones_like(y))[0])


@native
def test_no_gradient_is_made_that_nobody_wants() -> None:
    arguments = make(8, 18, 9, 18, 4, 2, 4, time=True)
    _, _, dx, _, _, _, dtime, *_ = trained(arguments, "native", "y")
    x = arguments["x"].clone().requires_grad_()
    made = block(**{**arguments, "x": x})
    assert not any(p.requires_grad for p in made.projected)
    dy = torch.randn(made.y.shape, generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.autograd.grad(made.y, x, dy)[0], dx)
    time = arguments["time"].clone().requires_grad_()
    y = block(**{**arguments, "time": time}).y
    assert torch.equal(torch.autograd.grad(y, time, dy)[0], dtime)


@native
def test_it_keeps_a_fraction_of_what_its_parts_keep() -> None:
    leaves = mapped(make(8, 50, 64, 128, 8, 4, 4), lambda t: t.requires_grad_())
    kept: list[int] = []

    def weigh(tensor: Tensor) -> Tensor:
        kept[-1] += 0 if tensor.requires_grad and tensor.is_leaf else tensor.numel()
        return tensor

    for threads in (1, 8):  # of eight threads each would have one image
        kept.append(0)
        with on_threads(threads), torch.autograd.graph.saved_tensors_hooks(weigh, lambda t: t):
            block(**leaves)
    assert kept[0] < 0.4 * kept[1]


@native
def test_a_thread_without_images_of_its_own_means_the_parts() -> None:
    for threads, fused in ((1, True), (2, True), (3, False)):
        with on_threads(threads):
            leaves = mapped(make(5, 9, 4, 8, 3, 2, 4), lambda t: t.requires_grad_())
            assert (type(block(**leaves).y.grad_fn).__name__ == "_BlockBackward") is fused


@native
@pytest.mark.parametrize("name", [name for name in OTHERS if name != "wanted"])
def test_what_the_kernel_is_not_for_is_composed(name: str) -> None:
    arguments = OTHERS[name](make(8, 5, 4, 8, 3, 2, 4))
    weights = [arguments[field] for field in ("norm_weight", "in_proj", "out_proj")]
    weights += [*arguments["directions"][0], *arguments["directions"][1]]
    assert not fits_training(arguments["x"], arguments["time"], weights, arguments["directions"])


@pytest.mark.parametrize(
    ("batch", "floats", "shares"),
    [(64, 33_000, MOST_SHARES), (5, 33_000, 5), (64, 1_000_000, 8), (64, 4_000_000, 4), (3, 4_000_000, 3)],
)
def test_shares_follow_batch_and_weights(batch: int, floats: int, shares: int) -> None:
    assert shares_of(torch.empty(batch, 2, 2), [torch.empty(floats, device="meta")]) == shares


@native
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_stay_with_their_image(value: float) -> None:
    arguments = make(8, 20, 12, 24, 4, 3, 4)
    arguments["x"][3, 7, 5] = value
    found, wanted = trained(arguments, "native"), trained(arguments, "reference")
    assert torch.equal(found[2].isnan(), wanted[2].isnan())
    assert found[2].isnan().flatten(1).any(1).tolist() == [image == 3 for image in range(8)]


@native
def test_an_empty_batch_passes() -> None:
    leaves = mapped(make(0, 5, 4, 8, 3, 2, 4), lambda t: t.requires_grad_())
    found = torch.autograd.grad(block(**leaves).y.sum(), tensors_of(leaves))
    assert found[0].shape == (0, 5, 4)
    assert torch.equal(found[2], torch.zeros(16, 4))


def op_arguments(*, requires: bool) -> tuple[Any, ...]:
    # 32 channels, for of kept states those that fill up the last 16 are never written
    a = mapped(make(8, 19, 12, 32, 4, 3, 4, time=True), lambda t: t.requires_grad_(requires))
    weights = (a["norm_weight"], a["in_proj"], a["out_proj"])
    return (a["x"], a["time"], *weights, *a["directions"][0], *a["directions"][1], 1e-5, 0.5, requires)


@native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.rmeeto.block.default, op_arguments(requires=True))


@native
@pytest.mark.parametrize("missing", [None, 0, 1])
@pytest.mark.parametrize("parameters", [True, False])
def test_opcheck_of_the_backward_pass(missing: int | None, parameters: bool) -> None:
    *inputs, _requires = op_arguments(requires=False)
    made = torch.ops.rmeeto.block.default(*inputs, True)
    given = [None if missing == i else torch.randn(8, 19, 12) for i in range(2)]
    torch.library.opcheck(torch.ops.rmeeto.block_backward.default, (*given, *made[2:], *inputs, parameters))


@native
def test_it_compiles_as_one_graph() -> None:
    arguments = mapped(make(8, 19, 12, 24, 4, 3, 4), lambda t: t.requires_grad_())
    leaves = tensors_of(arguments)
    compiled = torch.compile(lambda x: block(**{**arguments, "x": x}).y, fullgraph=True, backend="aot_eager")
    wanted = torch.autograd.grad(block(**arguments).y.square().sum(), leaves)
    found = torch.autograd.grad(compiled(arguments["x"]).square().sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@native
def test_the_flop_counter_sees_twice_the_forward_pass() -> None:
    arguments = mapped(make(8, 19, 12, 24, 4, 3, 4), lambda t: t.requires_grad_())
    with FlopCounterMode(display=False) as forward:
        y = block(**arguments).y
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert backward.get_total_flops() == 2 * forward.get_total_flops() > 0
