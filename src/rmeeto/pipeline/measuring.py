"""Measuring without training: `evaluate`, `benchmark`, `doctor`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rmeeto.data import DataSpec, open_validation
from rmeeto.errors import SettingsError
from rmeeto.evaluate import accuracy, environment
from rmeeto.evaluate.mode import evaluating
from rmeeto.models import Vim, to_precision
from rmeeto.ops import native_info, report
from rmeeto.pipeline.evidence import costs_of, merged_copy, speeds_of, unmerged_copy
from rmeeto.pipeline.opening import device_of, open_model, open_with_images, require_trained
from rmeeto.pipeline.specs import ModelSpec, PrecisionSpec, ScheduleSpec, SpeedSpec
from rmeeto.pipeline.watch import Unwatched, Watch
from rmeeto.records import Accuracy
from rmeeto.reduction import Settings, attached

_FULL = PrecisionSpec()


def evaluate(
    model: ModelSpec,
    data: DataSpec,
    *,
    schedule: ScheduleSpec | None = None,
    settings: Settings | None = None,
    watch: Watch | None = None,
) -> Accuracy:
    """Top-1 and top-5 accuracy of a model on validation images.

    Args:
        model: a model's folder, or a name with a weight file.
        data: the images; only their validation part is opened.
        schedule: merge tokens as it says, without training; None takes the schedule that came with the model.
        settings: how tokens are matched and merged; None takes those that came with the model, or the defaults.
        watch: told how it goes.

    Raises:
        RmeetoError: a kind of it for each input that cannot be.
    """
    watch = watch or Unwatched()
    require_trained(model)
    opened, val = open_with_images(model, lambda form: open_validation(data, form), watch)
    chosen = _merged(opened.model, schedule, settings)
    if chosen is None and settings is not None:
        raise SettingsError(
            "settings say how tokens are merged, but no schedule came with this model that says how many; give a "
            "schedule, or leave settings out"
        )
    chosen = chosen or opened.model
    with watch.counting("evaluating", len(val.images)) as advance:
        found = accuracy(chosen, val.batches, device=device_of(chosen), progress=advance)
    if (bad := val.bad.summary()) is not None:
        watch.stage(bad)
    return found


def benchmark(
    model: ModelSpec,
    speed: SpeedSpec,
    *,
    schedule: ScheduleSpec | None = None,
    settings: Settings | None = None,
    own_schedule: bool = False,
    own_settings: bool = False,
    precision: PrecisionSpec = _FULL,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Speed and cost of a merged model against its un-merged self, measured in turn.

    Args:
        model: a model's folder or a name; speed does not depend on weights being trained.
        speed: how speed is measured.
        schedule: merge as it says; None takes the schedule that came with the model.
        settings: how tokens are matched and merged; None takes those that came with the model.
        own_schedule: prefer the schedule that came with the model, where one did, over `schedule`.
        own_settings: prefer the settings that came with the model, where some did, over `settings`.
        precision: other numbers, in which the same models are measured as well, in turn.
        watch: told how it goes.

    Returns:
        {"model", "schedule", "unmerged": {...}, "merged": {...} | absent, "environment"}; each with "speed" (a
        `Speed` record), "gflops", "gflops_paper" and "tokens". Of another precision the same under "unmerged_bf16" and
        so on, with "error", the root mean square of the logits' error over that of the fp32 logits.

    Raises:
        RmeetoError: a kind of it for each input that cannot be.
    """
    opened = open_model(model)
    models: dict[str, Vim] = {"unmerged": unmerged_copy(opened.model)}
    comes_merged = attached(opened.model) is not None
    merged = _merged(
        opened.model,
        None if comes_merged and own_schedule else schedule,
        None if comes_merged and own_settings else settings,
    )
    if merged is not None:
        models["merged"] = merged
    lower = {} if precision == _FULL else {name: _in_numbers(each, precision) for name, each in models.items()}
    beside = {f"{name}_{precision.precision}": run for name, run in lower.items()}
    speeds = speeds_of({**models, **beside}, speed, watch or Unwatched())
    result: dict[str, Any] = {"kind": "benchmark", "model": opened.name}
    for name, measured in models.items():
        costs, attachment = costs_of(measured), attached(measured)
        result[name] = {
            "speed": speeds[name].to_dict(),
            "gflops": costs.counted.gflops,
            "gflops_paper": costs.published.gflops,
            "schedule": None if attachment is None else list(attachment[0].removals),
            "tokens": _final_tokens(measured),
        }
    for name, run in lower.items():
        key = f"{name}_{precision.precision}"
        taken = dataclasses.replace(speeds[key], dtype=precision.precision)
        result[key] = {**result[name], "speed": taken.to_dict(), "error": _error(run, models[name])}
    result["conventions"] = costs.conventions
    return {**result, "environment": environment()}


def _in_numbers(model: Vim, precision: PrecisionSpec) -> Callable[[Tensor], Tensor]:
    """A copy of the model in other numbers, which takes and gives float32."""
    dtype = {"bf16": torch.bfloat16, "int8": torch.int8}[precision.precision]
    lower = to_precision(copy.deepcopy(model), dtype).eval()
    return (lambda images: lower(images.to(dtype)).float()) if dtype.is_floating_point else lower


def _error(run: Callable[[Tensor], Tensor], model: Vim) -> float:
    images = torch.randn(4, *model.config.input_shape, generator=torch.Generator().manual_seed(0))
    images = images.to(device_of(model))
    with evaluating(model):
        wanted = model(images)
        return float((run(images) - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


def doctor() -> dict[str, Any]:
    """What this machine computes with: the environment, the native library, and each op's backends."""
    native = native_info()
    return {
        "kind": "doctor",
        "environment": environment(),
        "native": None if native is None else dataclasses.asdict(native),
        "backends": [dataclasses.asdict(line) for line in report()],
    }


def _merged(model: Vim, schedule: ScheduleSpec | None, settings: Settings | None) -> Vim | None:
    """A copy that merges by what is given, and else by what came with the model; None where nothing says how many."""
    own = attached(model)
    if schedule is not None:
        built = schedule.build(model.num_tokens, model.config.depth, protected=model.num_protected)
    elif own is not None:
        built = own[0]
    else:
        return None
    return merged_copy(model, built, settings or (own[1] if own else Settings()))


def _final_tokens(model: Vim) -> int:
    attachment = attached(model)
    if attachment is None:
        return model.num_tokens
    return attachment[0].final_length(model.num_tokens, protected=model.num_protected)
