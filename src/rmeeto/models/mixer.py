"""The bidirectional Mamba mixer ("bimamba v2"), channel last throughout."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from rmeeto._shapes import Float
from rmeeto.models.configs import VimConfig
from rmeeto.models.layers import Linear, parameter
from rmeeto.ops import Direction, bimamba
from rmeeto.tokens import Columns, Features, TimeSteps


class Mixer(nn.Module):
    """Mix tokens along the sequence, forward and backward, each direction with its own parameters.

    Per direction: u' = silu(causal_conv(u)), (dt0, B, C) = W_x u', delta = W_dt dt0,
    y = scan(u', delta, A, B, C) * silu(z); the two are averaged (Vim) or added (VideoMamba) and
    projected back. Parameter names are the official ones: without a suffix the forward direction,
    with `_b` the backward one (Vim, arXiv 2401.09417, algorithm 1).
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
        y, projected = bimamba(self.in_proj(x), self.directions, time, scale=self.scale)
        return self.features(self.out_proj(y), projected)

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


def _initial_log_rates(e: int, s: int) -> Tensor:
    """(e, s) logarithms of the decay rates 1, 2, ..., s (S4D-real)."""
    return torch.log(torch.arange(1, s + 1, dtype=torch.float32)).repeat(e, 1)


def _initialise_time_projection(dt_proj: nn.Linear) -> None:
    """Weights uniform in +-R^-0.5; bias so that softplus(bias) is log-uniform in 0.001..0.1."""
    nn.init.uniform_(dt_proj.weight, -(dt_proj.in_features**-0.5), dt_proj.in_features**-0.5)
    steps = torch.exp(torch.empty(dt_proj.out_features).uniform_(math.log(0.001), math.log(0.1)))
    with torch.no_grad():
        dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))
