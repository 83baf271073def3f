"""What the teacher says of images: computed for each batch, or once for each image that comes again as it was."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import torch
from torch import Tensor

# Logits are kept until they fill so many bytes; what comes later is computed every time.
MOST_KEPT = 1 << 28
AROUND = 256  # bytes that Python has around an image's key
_KEY_BYTES = 16


class Memory:
    """The teacher's logits of images seen before, known by all their bytes.

    A teacher in eval mode says the same of an image whatever stands beside it (to rounding), so that only new ones are
    computed. That pays where images come again unchanged: few, mirrored at most, and not mixed with one another.

    Args:
        teach: (b, ...) images -> (b, classes) logits.
        most: bytes that are kept.
    """

    def __init__(self, teach: Callable[[Tensor], Tensor], most: int = MOST_KEPT) -> None:
        self._teach, self._most = teach, most
        self._places: dict[bytes, int] = {}
        self._kept = torch.empty(0, 0)  # (room, classes): one tensor, for many small ones would scatter all over memory

    def __call__(self, images: Tensor) -> Tensor:
        """(b, ...) images -> (b, classes) logits of `teach`."""
        keys = _keys(images)
        places = [self._places.get(key, -1) for key in keys]
        new = [row for row, place in enumerate(places) if place < 0]
        if len(new) == len(keys):
            logits = self._teach(images)
        else:
            logits = self._kept[places]  # the last row where none is kept
            if new:
                logits[new] = self._teach(images[new])
        if new:
            self._keep([keys[row] for row in new], logits[new])
        return logits

    def _keep(self, keys: list[bytes], logits: Tensor) -> None:
        most = self._most // (logits.shape[1] * logits.element_size() + AROUND)
        for key, row in zip(keys, logits, strict=True):
            if key in self._places or len(self._places) == most:
                continue
            if len(self._places) == len(self._kept):
                self._kept = _grown(self._kept, logits, min(most, max(len(logits), 2 * len(self._kept))))
            self._kept[len(self._places)] = row
            self._places[key] = len(self._places)


def _grown(kept: Tensor, logits: Tensor, room: int) -> Tensor:
    """Room for so many rows like `logits`, the first of them those of `kept`."""
    larger = logits.new_empty(room, logits.shape[1])
    if len(kept):
        larger[: len(kept)] = kept
    return larger


def _keys(images: Tensor) -> list[bytes]:
    """(b, ...) images -> one key each."""
    rows = images.detach().cpu().contiguous().flatten(1).numpy()
    return [blake2b(row, digest_size=_KEY_BYTES).digest() for row in rows]
