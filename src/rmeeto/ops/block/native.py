"""The block as the torch ops `rmeeto::block` and `rmeeto::block_backward`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from rmeeto.ops import _library
from rmeeto.ops._op import Op, once_differentiable, wants_gradient
from rmeeto.ops._tensors import states_shape
from rmeeto.ops.bimamba.native import fits as taps_fit
from rmeeto.ops.bimamba.reference import Direction
from rmeeto.ops.block import cost
from rmeeto.ops.block.structs import TENSORS, BlockBackward, BlockForward, outputs_of

_PLAIN = {Tensor, torch.nn.Parameter, FakeTensor}  # the last one while a model is exported
_GIVEN = 2 + TENSORS  # x, time and the weights
_KEPT = 4  # p and states of both directions
NAMES = ", ".join(f"Tensor {name}{suffix}" for suffix in ("", "_b") for name in Direction._fields)
_INPUTS = (
    f"Tensor x, Tensor? time, Tensor norm_weight, Tensor in_proj, Tensor out_proj, {NAMES}, float eps, float scale"
)

# Gradients are added up in so many shares of a batch at most, in fewer where the weights are large.
MOST_SHARES = 16
_SHARED_FLOATS = 1 << 23

op = Op(
    "block",
    f"({_INPUTS}, bool keep) -> (Tensor y, Tensor hidden, Tensor p, Tensor p_b, Tensor states, Tensor states_b)",
)
backward_op = Op(
    "block_backward",
    f"(Tensor? dy, Tensor? dhidden, Tensor p, Tensor p_b, Tensor states, Tensor states_b, {_INPUTS},"
    f" bool parameters) -> ({', '.join(['Tensor'] * _GIVEN)})",
)


def fits(tensors: Sequence[Tensor | None], directions: tuple[Direction, Direction]) -> bool:
    """Whether the kernel is there and has code for these, which nobody wants gradients of.

    The tensors of many blocks of one shape may be asked about at once, with the directions of one of them.
    """
    return not wants_gradient(tensors) and _fits(tensors, directions)


def fits_training(
    x: Tensor, time: Tensor | None, weights: Sequence[Tensor], directions: tuple[Direction, Direction]
) -> bool:
    """The same where somebody wants gradients: there, each thread needs two shares of the batch or more.

    An exported model is one graph for any batch, which cannot be asked for its size: it has the kernel.
    """
    enough = torch.compiler.is_exporting() or shares_of(x, weights) >= 2 * _threads()
    return enough and _fits((x, time, *weights), directions)


def _threads() -> int:
    return torch.get_num_threads()


# torch.compile keeps the answer; it cannot trace the question.
_threads._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _fits(tensors: Sequence[Tensor | None], directions: tuple[Direction, Direction]) -> bool:
    given, (one, other) = [t for t in tensors if t is not None], directions
    return (
        # Other types of tensors (quantised, distributed) have ways of their own, whatever dtype they name.
        {type(t) for t in given} <= _PLAIN
        and {t.dtype for t in given} <= {torch.float32}
        and all(t.is_cpu for t in given)
        and not torch.is_autocast_enabled("cpu")
        and _library.problem() is None
        and one.projection.shape == other.projection.shape
        and one.A_log.shape == other.A_log.shape
        and one.conv_weight.shape == other.conv_weight.shape
        and taps_fit(directions)
    )


def shares_of(x: Tensor, weights: Sequence[Tensor]) -> int:
    """In how many shares of the batch gradients are added up: whatever the threads, for sums depend on it."""
    floats = sum(t.numel() for t in weights)
    return max(1, min(x.shape[0], MOST_SHARES, max(MOST_SHARES // 4, _SHARED_FLOATS // floats)))


def block(
    x: Tensor,
    norm_weight: Tensor,
    in_proj: Tensor,
    directions: tuple[Direction, Direction],
    out_proj: Tensor,
    time: Tensor | None,
    eps: float,
    scale: float,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The op: see `rmeeto.ops.block`."""
    made = op(x, time, norm_weight, in_proj, out_proj, *directions[0], *directions[1], eps, scale, keep)
    y, hidden, p, p_b, *_states = made
    return y, hidden, (p, p_b)


def _forward(x: Tensor, time: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    *weights, eps, scale, keep = arguments
    made = _results(x, weights, keep=keep)
    if x.numel():
        y, hidden, p, p_b, *states = made
        kept = (states[0], states[1]) if keep else None
        BlockForward(x, time, weights, eps, scale, (p, p_b), (y, hidden), states=kept).run()
    return made


def _fake(x: Tensor, time: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:  # noqa: ARG001
    *weights, _eps, _scale, keep = arguments
    return _results(x, weights, keep=keep)


def _results(x: Tensor, weights: Sequence[Tensor], *, keep: bool) -> tuple[Tensor, ...]:
    batch, tokens, width = x.shape
    outputs = outputs_of(weights)
    # Sizes one by one: torch takes a microsecond longer to read a tuple of them.
    y, hidden = x.new_empty(batch, tokens, width), x.new_empty(batch, tokens, width)
    p, p_b = x.new_empty(batch, tokens, outputs), x.new_empty(batch, tokens, outputs)
    if not keep:
        return y, hidden, p, p_b, x.new_empty(0), x.new_empty(0)
    shape = states_shape((batch, tokens), Direction(*weights[-len(Direction._fields) :]).A_log)
    return y, hidden, p, p_b, x.new_empty(shape), x.new_empty(shape)


def _backward(dy: Tensor | None, dhidden: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    p, p_b, states, states_b, x, time, *weights, eps, scale, parameters = arguments
    made = _gradients(x, time, weights, parameters=parameters)
    dx, dtime, *dweights = made
    if not x.numel() or (dy is None and dhidden is None):
        return tuple(t.zero_() for t in made)
    of = BlockForward(x, time, weights, eps, scale, (p, p_b), None, states=(states, states_b))
    shares = shares_of(x, weights)
    wanted = dweights if parameters else None
    BlockBackward(of, shares, dy, dhidden, dx, None if time is None else dtime, wanted).run()
    return made


def _backward_fake(dy: Tensor | None, dhidden: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:  # noqa: ARG001
    x, time, *weights, _eps, _scale, parameters = arguments[_KEPT:]
    return _gradients(x, time, weights, parameters=parameters)


def _gradients(x: Tensor, time: Tensor | None, weights: Sequence[Tensor], *, parameters: bool) -> tuple[Tensor, ...]:
    dx, dtime = x.new_empty(x.shape), x.new_empty(0) if time is None else time.new_empty(time.shape)
    return dx, dtime, *[t.new_empty(t.shape if parameters else 0) for t in weights]


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, eps, scale, _keep = arguments
        y, hidden, *made = op.below(*tensors, eps, scale, True)
        ctx.save_for_backward(*made, *tensors)
        ctx.numbers = eps, scale
        ctx.mark_non_differentiable(*made)
        ctx.set_materialize_grads(False)
        return (y, hidden, *made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dhidden: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:_GIVEN]
        gradients = backward_op(dy, dhidden, *ctx.saved_tensors, *ctx.numbers, any(needs[2:]))
        return (*[g if need else None for g, need in zip(gradients, needs, strict=True)], None, None, None)


def _backward_flops(dy: object, dhidden: object, *shapes: Any, out_shape: object = None) -> int:  # noqa: ARG001
    """Twice the forward pass; what is computed again is not counted, as in the model's own formula."""
    return 2 * cost.forward_formula(*shapes[_KEPT : _KEPT + _GIVEN])


op.register(cpu=_forward, fake=_fake, function=_Block, tensors=_GIVEN, flops=cost.forward_formula)
backward_op.register(cpu=_backward, fake=_backward_fake, flops=_backward_flops)
