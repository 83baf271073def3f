"""The bidirectional Mamba mixer ("bimamba v2"), channel last throughout."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils.parametrize import is_parametrized

from rmeeto._bare import is_bare
from rmeeto._shapes import Float
from rmeeto.errors import SettingsError
from rmeeto.models.configs import VimConfig
from rmeeto.models.layers import Linear, parameter
from rmeeto.ops import Direction, bimamba, causal_conv, selective_scan
from rmeeto.tokens import Columns, Features, TimeSteps


class _Way(NamedTuple):
    """What one direction gives, and what it knows of each token, as in `Features`."""

    y: Tensor  # (b, n, e)
    delta: Tensor  # (b, n, e)
    B: Tensor  # (b, n, s)
    C: Tensor  # (b, n, s)


class Mixer(nn.Module):
    """Mix tokens along the sequence, forward and backward, each direction with its own parameters.

    Per direction: u' = silu(causal_conv(u)), (dt0, B, C) = W_x u', delta = W_dt dt0,
    y = scan(u', delta, A, B, C) * silu(z); the two are averaged (Vim) or added (VideoMamba) and
    projected back. Parameter names are the official ones: without a suffix the forward direction,
    with `_b` the backward one (Vim, arXiv 2401.09417, algorithm 1).

    W_x and W_dt are read and not called where they are plain linear layers that nobody hooks; others (adapters,
    8-bit layers, parametrisations) are called. The convolution is never called: its weights are read, whoever makes
    them.
    """

    def __init__(self, config: VimConfig) -> None:
        super().__init__()
        c, e, s, rank = config.embed_dim, config.inner_dim, config.state_size, config.time_rank
        self.state_size, self.time_rank = s, rank
        self.scale = 0.5 if config.directions == "mean" else 1.0
        self.in_proj = Linear(c, 2 * e, bias=False)
        self.conv1d = nn.Conv1d(e, e, config.conv_width, groups=e)
        self.x_proj = nn.Linear(e, rank + 2 * s, bias=False)
        self.dt_proj = nn.Linear(rank, e)
        self.A_log = nn.Parameter(_initial_log_rates(e, s))
        self.D = nn.Parameter(torch.ones(e))
        self.conv1d_b = nn.Conv1d(e, e, config.conv_width, groups=e)
        self.x_proj_b = nn.Linear(e, rank + 2 * s, bias=False)
        self.dt_proj_b = nn.Linear(rank, e)
        self.A_b_log = nn.Parameter(_initial_log_rates(e, s))
        self.D_b = nn.Parameter(torch.ones(e))
        self.out_proj = Linear(e, c, bias=False)
        for dt_proj in (self.dt_proj, self.dt_proj_b):
            _initialise_time_projection(dt_proj)
        with torch.no_grad():
            self.out_proj.weight /= math.sqrt(config.depth)

    def forward(self, x: Float[Tensor, "b n c"], time: Float[Tensor, "b n"] | None = None) -> Features:
        """Mix.

        Args:
            x: (b, n, c) normed tokens.
            time: (b, n) factor on A, the time each token stands for; None means one.

        Returns:
            the mixer's output as `hidden`, and B, C and delta of both directions.
        """
        xz = self.in_proj(x)
        if self.has_bare_layers():
            y, projected = bimamba(xz, self.directions, time, scale=self.scale)
            return self.features(self.out_proj(y), projected)
        u, z = xz.chunk(2, dim=-1)
        one, other = self._one_way("", u, z, time), self._one_way("_b", u, z, time)
        hidden = self.out_proj((one.y + other.y) * self.scale)
        return Features(hidden, (one.B, other.B), (one.C, other.C), (one.delta, other.delta))

    def has_bare_layers(self) -> bool:
        """Whether nobody has changed or watches the layers between the convolution and the scan."""
        parts: Any = self._modules
        return (
            type(parts["conv1d"]) is type(parts["conv1d_b"]) is nn.Conv1d
            and _is_read(parts["x_proj"], biased=False)
            and _is_read(parts["dt_proj"], biased=True)
            and _is_read(parts["x_proj_b"], biased=False)
            and _is_read(parts["dt_proj_b"], biased=True)
        )

    # torch.compile asks once and keeps the answer.
    has_bare_layers._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _one_way(self, suffix: str, u: Tensor, z: Tensor, time: Tensor | None) -> _Way:
        """One direction, its layers called.

        Raises:
            SettingsError: something else stands in the place of a convolution.
        """
        conv: Any = getattr(self, "conv1d" + suffix)
        if type(conv) is not nn.Conv1d and not is_parametrized(conv):
            raise SettingsError(
                f"conv1d{suffix} is a {type(conv).__name__}, which would not be called: its weights are read; put a "
                "Conv1d there, or change its weights by torch.nn.utils.parametrize"
            )
        u = causal_conv(u, conv.weight.squeeze(1), conv.bias, reverse=bool(suffix))
        projected = getattr(self, "x_proj" + suffix)(u)
        dt, B, C = projected.split([self.time_rank, self.state_size, self.state_size], dim=-1)
        delta, bias, bare = _steps(getattr(self, "dt_proj" + suffix), dt)
        rates, D = (self.A_b_log, self.D_b) if suffix else (self.A_log, self.D)
        wide = torch.promote_types(rates.dtype, torch.float32)  # half types are computed in float32
        A = -torch.exp(rates.to(wide))
        y = selective_scan(u, delta, A, B, C, D.to(wide), z, bias, time, reverse=bool(suffix))
        return _Way(y, bare, B, C)

    @property
    def directions(self) -> tuple[Direction, Direction]:
        """The parameters of both directions."""
        return self._direction("", "A_log"), self._direction("_b", "A_b_log")

    def _direction(self, suffix: str, rates: str) -> Direction:
        parts: Any = self._modules
        conv, x_proj, dt_proj = parts["conv1d" + suffix], parts["x_proj" + suffix], parts["dt_proj" + suffix]
        try:  # every block asks in every call, and an attribute costs a search in all of a module's tables
            own: Any = self._parameters
            a, b, c = conv._parameters, x_proj._parameters, dt_proj._parameters
            return Direction(a["weight"], a["bias"], b["weight"], c["weight"], c["bias"], own[rates], own["D" + suffix])
        except KeyError:  # something else stands in for a parameter
            named = conv.weight, conv.bias, x_proj.weight, dt_proj.weight, dt_proj.bias
            return Direction(*named, getattr(self, rates), getattr(self, "D" + suffix))

    def features(self, hidden: Tensor, projected: tuple[Tensor, Tensor]) -> Features:
        """(b, n, c) output and per direction (b, n, R + 2s) dt, B and C -> what `forward` returns."""
        rank, state = self.time_rank, self.state_size
        weights = (parameter(self._modules["dt_proj"], "weight"), parameter(self._modules["dt_proj_b"], "weight"))
        delta = TimeSteps(projected, weights)
        return Features(hidden, Columns(projected, rank, state), Columns(projected, rank + state, state), delta)


def _is_read(layer: Any, *, biased: bool) -> bool:
    """Whether all that a call of the layer would do is in the weights that are read."""
    return is_bare(layer, nn.Linear) and (layer._parameters["bias"] is not None) is biased


def _steps(layer: Any, dt: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """(b, n, R) -> what a layer makes of it, (b, n, e); the bias (e,) that is yet to come; and all without a bias."""
    bias = getattr(layer, "bias", None)
    bias = bias() if callable(bias) else bias  # as 8-bit layers have it
    if type(layer) is nn.Linear and bias is not None and bias.dtype is not layer.weight.dtype:
        delta = linear(dt, layer.weight)  # as cast weights are: torch cannot call the layer
        return delta, bias, delta
    delta = layer(dt)
    return delta, None, delta if bias is None else delta - bias


def _initial_log_rates(e: int, s: int) -> Tensor:
    """(e, s) logarithms of the decay rates 1, 2, ..., s (S4D-real)."""
    return torch.log(torch.arange(1, s + 1, dtype=torch.float32)).repeat(e, 1)


def _initialise_time_projection(dt_proj: nn.Linear) -> None:
    """Weights uniform in +-R^-0.5; bias so that softplus(bias) is log-uniform in 0.001..0.1."""
    nn.init.uniform_(dt_proj.weight, -(dt_proj.in_features**-0.5), dt_proj.in_features**-0.5)
    steps = torch.exp(torch.empty(dt_proj.out_features).uniform_(math.log(0.001), math.log(0.1)))
    with torch.no_grad():
        dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))
