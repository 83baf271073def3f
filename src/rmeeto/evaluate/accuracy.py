"""How often a model is right."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rmeeto.errors import DataError, ShapeError
from rmeeto.evaluate.mode import evaluating
from rmeeto.records import Accuracy

_CPU = torch.device("cpu")


def accuracy(
    model: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device | str = _CPU,
    progress: Callable[[int], None] | None = None,
    total: Callable[[Sequence[float]], Sequence[float]] | None = None,
) -> Accuracy:
    """Top-1 and top-5 accuracy over all batches.

    Args:
        model: (b, c, h, w) images -> (b, k) logits of k classes; a module is evaluated in eval mode.
        batches: pairs of images and (b,) int64 labels.
        device: where the model is.
        progress: called after each batch with the number of images done so far.
        total: adds numbers up over several processes, each of which has other batches; all of them call this function
            together and get the same result.

    Returns:
        Percentages of all images; with fewer than five classes top-5 is 100.

    Raises:
        DataError: there is no batch.
        ShapeError: a label is none of the model's classes.
    """
    started = time.perf_counter()
    sums = _Sums()
    with evaluating(model):
        for images, labels in batches:
            sums = sums + _judge(model(images.to(device)), labels.to(device))
            if progress is not None:
                progress(int(sums.images))
    if total is not None:
        sums = _Sums(*total(dataclasses.astuple(sums)))
    if not sums.images:
        raise DataError("there are no images to evaluate on; name a set that has some")
    return Accuracy(
        top1=100 * sums.first / sums.images,
        top5=100 * sums.within_five / sums.images,
        loss=sums.loss / sums.images,
        images=int(sums.images),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _Sums:
    """Numbers of images, and their losses added up."""

    first: float = 0
    within_five: float = 0
    loss: float = 0.0
    images: float = 0

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.first + other.first,
            self.within_five + other.within_five,
            self.loss + other.loss,
            self.images + other.images,
        )


def _judge(logits: Tensor, labels: Tensor) -> _Sums:
    logits = logits.float()
    classes = logits.shape[1]
    if int(labels.max()) >= classes:
        raise ShapeError(f"label {int(labels.max())} is none of the model's {classes} classes; use a head of that size")
    best = logits.topk(min(5, classes), dim=1).indices == labels.unsqueeze(1)
    return _Sums(
        first=int(best[:, 0].sum()),
        within_five=int(best.sum()),
        loss=float(functional.cross_entropy(logits, labels, reduction="sum")),
        images=len(labels),
    )
