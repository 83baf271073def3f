"""What one forward pass costs, by two conventions that do not compare: each number names its own.

Letters: c model width, e = 2c inner width, s state size, R rank of the time step, l tokens of one block,
n tokens that a merge looks at, r tokens that it removes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.evaluate.mode import evaluating
from rmeeto.ops import use_backend
from rmeeto.records import Cost

COUNTED = "torch FLOP counter, forward, both directions, 2 per multiply-add"
PUBLISHED = "published formula, one direction, multiply-adds and operations mixed"


def counted_cost(model: Callable[[Tensor], Tensor], example: Tensor) -> Cost:
    """Count the operations of one image: matrix products, attention, convolutions, scans.

    A module is counted by shapes alone: a copy of it without values runs, so that the count is the same on every
    device and with every backend. A model that reads values to choose its way runs as it is; there, torch counts
    neither what attention fuses on a CPU nor the scans of the reference.

    Args:
        model: images -> logits; a module is run in eval mode.
        example: (b, c, h, w) images; the count is divided by b.

    Returns:
        The cost per image, with the share of each operator. Element-wise operations are not counted.
    """
    flops = _by_shapes(model, example) if isinstance(model, nn.Module) else None
    if flops is None:
        flops = _flops(model, example)
    images = len(example)
    by_operator = {operator: count / images / 1e9 for operator, count in flops.items()}
    largest_first = dict(sorted(by_operator.items(), key=lambda item: -item[1]))
    return Cost(sum(flops.values()) / images / 1e9, COUNTED, largest_first)


def _by_shapes(model: nn.Module, example: Tensor) -> dict[str, int] | None:
    """FLOPs by operator from shapes alone, or None where they do not say all."""
    tensors = (*model.parameters(), *model.buffers())
    try:
        without_values = {id(t): _without_values(t) for t in tensors}
        with use_backend("auto"):  # an op's formula does not ask what would compute it
            return _flops(copy.deepcopy(model, without_values), example.to("meta"))
    except (NotImplementedError, RuntimeError):  # torch's words where values are needed; a true error comes again
        return None


def _without_values(tensor: Tensor) -> Tensor:
    bare = tensor.detach().to("meta")
    return nn.Parameter(bare, requires_grad=False) if isinstance(tensor, nn.Parameter) else bare


def _flops(model: Callable[[Tensor], Tensor], example: Tensor) -> dict[str, int]:
    counter = FlopCounterMode(display=False)
    with evaluating(model), counter:
        model(example)
    return {str(operator): flops for operator, flops in counter.get_flop_counts().get("Global", {}).items()}


def published_cost(
    lengths: Sequence[int],
    merges: Sequence[tuple[int, int]] = (),
    *,
    embed_dim: int,
    num_classes: int = 1000,
    patch_values: int = 768,
    state_size: int = 16,
    feature_width: int | None = None,
) -> Cost:
    """The cost of one image by the formula of R-MeeTo (arXiv 2412.12496), whose tables it reproduces.

    The formula takes one scan direction, counts a multiply-add once in some places and twice in others, and
    embeds as many patches as there are tokens. It serves to compare with published numbers.

    Args:
        lengths: tokens that each block works on (`Schedule.lengths`).
        merges: (n, r) of each merge, to count them in; none for the cost without them.
        embed_dim: c.
        num_classes: outputs of the head.
        patch_values: numbers in one patch, 3 * 16 * 16 as published.
        state_size: s.
        feature_width: numbers per token that matching compares; None means c, the mixer's output.
    """
    c, e, s = embed_dim, 2 * embed_dim, state_size
    d = c if feature_width is None else feature_width
    rank = math.ceil(c / 16)

    def mixer(l: int) -> int:
        projections = 4 * l * c**2 + 2 * l * c**2 + l * e * (rank + 2 * s) + l * rank * e
        return projections + 4 * (l + 3) * e + 9 * l * e * s + 2 * l * e

    def merge(n: int, r: int) -> float:
        return 6 * n * d + 2 * d * (n / 2) ** 2 + r * c

    blocks = sum(mixer(l) for l in lengths)
    ends = lengths[0] * c * patch_values + c * num_classes
    total = blocks + ends + sum(merge(n, r) for n, r in merges)
    merges_in_words = "merges counted" if merges else "without merges"
    return Cost(total / 1e9, f"{PUBLISHED}, {merges_in_words}")
