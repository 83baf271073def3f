"""Which numbers of a token are compared."""

from __future__ import annotations

from torch import Tensor

from rmeeto.errors import SettingsError
from rmeeto.reduction.settings import Feature
from rmeeto.tokens import Tokens


def compared(tokens: Tokens, feature: Feature) -> Tensor:
    """The (b, n, d) values that matching compares, a scan's directions or a ViT's heads averaged token by token.

    Raises:
        SettingsError: the tokens carry no such feature.
    """
    if feature == "x":
        return tokens.x
    value = getattr(tokens.features, feature, ())
    if isinstance(value, Tensor):
        return value
    if not value:
        raise SettingsError(
            f"feature {feature!r} is not known for these tokens; put the reducer behind a block that sets it, or "
            "compare feature='x', which all have"
        )
    return sum(value[1:], start=value[0]) / len(value)


def feature_width(feature: Feature, *, embed_dim: int, inner_dim: int, state_size: int) -> int:
    """Numbers per token of a Vision Mamba that matching compares: c for hidden and x, s for B and C, e for delta.

    The published cost of a merge grows with it (method of arXiv 2412.12496: 6 n d + 2 d (n/2)^2 + r c).

    Raises:
        SettingsError: a feature of attention.
    """
    widths = {"hidden": embed_dim, "x": embed_dim, "B": state_size, "C": state_size, "delta": inner_dim}
    if feature not in widths:
        raise SettingsError(f"feature {feature!r} is of attention; a Vision Mamba has {', '.join(widths)}")
    return widths[feature]
