"""How fast models are on this machine, against each other in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rmeeto.errors import SettingsError
from rmeeto.evaluate.graphs import Replay
from rmeeto.evaluate.mode import evaluating, on_threads
from rmeeto.records import Speed

Model = Callable[[Tensor], Tensor]


def measure_speed(
    models: Mapping[str, Model],
    example: Tensor,
    *,
    warmup: int = 3,
    repeats: int = 20,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Speed]:
    """Time one batch on each model in turn (A B A B ...), so that a drift of the machine meets all alike.

    Args:
        models: name -> model; the first is the peer that the others are compared with. Modules run in eval mode.
        example: (b, c, h, w) images on the models' device.
        warmup: untimed rounds.
        repeats: timed rounds.
        threads: torch's threads during the measurement; None leaves them.
        progress: called after each timed round with (rounds done, repeats).

    Returns:
        A record per model; ratios are those of the two runs of one round, above 1 where the model beats the peer.

    Raises:
        SettingsError: no model, no repeat, or a number below zero.
    """
    if not models or repeats < 1 or warmup < 0 or (threads is not None and threads < 1):
        raise SettingsError(
            f"cannot time {len(models)} models in {repeats} rounds after {warmup} to warm up on {threads} threads; "
            "give at least one model, round and thread"
        )
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with on_threads(threads):
        for _ in range(warmup):
            for model in models.values():
                _time(model, example)
        for done in range(repeats):
            for name, model in models.items():
                seconds[name].append(_time(model, example))
            if progress is not None:
                progress(done + 1, repeats)
        return _records(models, seconds, example, warmup)


def _time(model: Model, example: Tensor) -> float:
    with evaluating(model):
        _finish(example.device)
        started = time.perf_counter()
        model(example)
        _finish(example.device)
        return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    """Wait for a device that works on its own."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _records(
    models: Mapping[str, Model], seconds: Mapping[str, Sequence[float]], example: Tensor, warmup: int
) -> dict[str, Speed]:
    peer = next(iter(seconds))
    peer_seconds = np.array(seconds[peer])
    records = {}
    for name, own in seconds.items():
        low, median, high = _spread(len(example) / np.array(own))
        ratios = (None, None, None) if name == peer else _spread(peer_seconds / np.array(own))
        records[name] = Speed(
            images_per_second=median,
            low=low,
            high=high,
            seconds=tuple(own),
            batch=len(example),
            threads=torch.get_num_threads(),
            warmup=warmup,
            device=str(example.device),
            dtype=str(example.dtype).removeprefix("torch."),
            cuda_graph=isinstance(models[name], Replay),
            peer=None if name == peer else peer,
            ratio_low=ratios[0],
            ratio=ratios[1],
            ratio_high=ratios[2],
        )
    return records


def _spread(values: np.ndarray) -> tuple[float, float, float]:
    """10th percentile, median, 90th percentile."""
    low, median, high = np.percentile(values, (10, 50, 90))
    return float(low), float(median), float(high)
