"""The scan on tiles in registers, (tokens, states, channels): lanes are channels, and a lane has all tokens."""

from __future__ import annotations

import triton
import triton.language as tl

from rmeeto.ops._jit import LOG2_E


@triton.jit
def _compose(slope, shift, _entry_slope, _entry_shift, slope2, shift2, entry_slope2, entry_shift2):
    """Of two stretches of tokens: the map through both, x -> slope x + shift, and the map to the last token's entry."""
    return slope2 * slope, slope2 * shift + shift2, entry_slope2 * slope, entry_slope2 * shift + entry_shift2


@triton.jit
def recur(slope, shift, start, first):
    """x <- slope x + shift along the tokens, from `start` before the first: x after and x before each token."""
    shift = tl.where(first, slope * start[None] + shift, shift)
    # -0.0 adds nothing at all: in a lane these sums, and the products with 1, vanish when they are compiled.
    entry = tl.where(first, start[None], tl.full(shift.shape, -0.0, tl.float32))
    maps = (slope, shift, tl.full(shift.shape, 1.0, tl.float32), entry)
    through = tl.associative_scan(maps, 0, _compose)
    return through[1], through[3]


@triton.jit
def pick(x, chosen):
    """The numbers of the one chosen token."""
    return tl.sum(tl.where(chosen, x, tl.full(x.shape, -0.0, tl.float32)), 0)


@triton.jit
def decay(rate, decaying):
    """What the states leave of themselves at each token of a tile, (tokens, states, channels)."""
    return tl.exp2(decaying[:, None, :] * (rate * LOG2_E)[None])


@triton.jit
def _exchange(low, high, STEP: tl.constexpr):
    """One step of a sum over the lanes of two tiles: a lane gives one tile's numbers to the lane `STEP` away and adds

    the other's from there to its own. Half of the lanes go on with the one tile, half with the other.
    """
    lane = tl.arange(0, low.shape[2])[None, None, :]
    upper = (lane // STEP) % 2 == 1
    sent, own = tl.where(upper, low, high), tl.where(upper, high, low)
    return own + tl.gather(sent, tl.broadcast_to(lane ^ STEP, low.shape), 2)


@triton.jit
def _halve(x, STEP: tl.constexpr):
    """The same for the two halves of a tile's tokens."""
    ROWS: tl.constexpr = x.shape[0] // 2
    low, high = tl.split(tl.permute(tl.reshape(x, (2, ROWS, x.shape[1], x.shape[2])), (1, 2, 3, 0)))
    return _exchange(low, high, STEP)


@triton.jit
def _lane_sums(x, y):
    """Of two tiles (8 tokens, states, 32 lanes) the sums over the lanes, (states, 32): lane 16 i + 2 t, and the next

    one, have that of the i-th's token t.
    """
    tl.static_assert(x.shape[0] == 8 and x.shape[2] == 32)
    sums = _halve(_halve(_halve(_exchange(x, y, 16), 8), 4), 2)
    return tl.reshape(_exchange(sums, sums, 1), (x.shape[1], x.shape[2]))


@triton.jit
def back_through(rate, decay, start, flow, B, C, decaying, drive, g, row, TILE: tl.constexpr):
    """Some states of a tile backwards; `flow` is the gradient of the states that leave it.

    What they add to the output and to the gradients of drive and step, (tokens, states, channels); the gradients of B
    and of C by `_lane_sums`, and of A, (states, channels); the gradient of the states that entered, (states, channels).
    """
    first, last = (row == 0)[:, None, None], (row == TILE - 1)[:, None, None]
    h, entered = recur(decay, drive * B, start, first)
    direct = g * C
    # Turned round by hand: in a lane that costs nothing, where a scan in reverse would turn round the lanes, too.
    flows, carried = recur(tl.flip(decay, 0), tl.flip(decay * direct, 0), flow, first)
    flow, flows, carried = pick(flows, last), tl.flip(flows, 0), tl.flip(carried, 0)
    dh, slope = direct + carried, flows * entered  # slope: of the exponent
    return h * C, dh * B, slope * rate[None], _lane_sums(dh * drive, g * h), tl.sum(slope * decaying, 0), flow
