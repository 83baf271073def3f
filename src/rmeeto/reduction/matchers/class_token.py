"""The tokens least like the class token leave: the idea of EViT (arXiv 2202.07800), where attention is not at hand.

EViT ranks patch tokens by the attention that the class token pays them, keeps the first and fuses the rest into one. A
Mamba has no attention: here the compared feature's similarity to the class token's ranks them. The fused token weighs
by size, and stands where the most alike of its tokens stood (unordered: at the end). `mode="prune"` fuses nothing.
"""

from __future__ import annotations

from rmeeto.errors import SettingsError
from rmeeto.ops.token_match.reference import normalised, pairwise
from rmeeto.reduction.features import compared
from rmeeto.reduction.plan import Plan, Sight


def plan(sight: Sight, r: int) -> Plan:
    """The r patch tokens least similar to the class token join the next least similar one.

    Raises:
        SettingsError: the model has no class token.
    """
    tokens, settings = sight.tokens, sight.settings
    if tokens.places.shape[1] == 0:
        raise SettingsError("matcher='class_token' needs a class token and this model has none; use 'bipartite'")
    feature = compared(tokens, settings.feature)
    class_token = feature.gather(1, tokens.places[:, :1, None].expand(-1, -1, feature.shape[-1]))
    alike = pairwise(normalised(sight.patches(feature)), normalised(class_token), settings.similarity)
    ranking = alike.argsort(dim=1, stable=True)
    leaving, fused = ranking[:, :r], ranking[:, r : r + 1]
    return Plan(leaving, fused.expand_as(leaving), ranking[:, r + 1 :].flip(1))
