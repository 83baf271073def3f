"""A model as a folder that can be shared: model.safetensors and config.json, the form of timm's `local-dir:`.

{"architecture": "vim_tiny_patch16_224", "num_classes": 1000, "num_features": 192, "model_args": {...},
 "pretrained_cfg": {"input_size": [3, 224, 224], "mean": [...], "std": [...], ..., "label_names": [...]},
 "rmeeto": {"version": "0.1.0", "schedule": [0, 5, ...] or null, "reduction": {...} or null, "records": {...}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

import rmeeto
from rmeeto.errors import RmeetoError, ScheduleError, WeightsError
from rmeeto.hub.weights import read_weights
from rmeeto.models.configs import TIMM_NAMES, is_name, short_name, timm_parts
from rmeeto.records import read_json, to_json, write_together
from rmeeto.schedule import Schedule

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_OWN = ("version", "schedule", "reduction", "records")


@dataclass(frozen=True)
class Bundle:
    """What a model's folder holds.

    Attributes:
        architecture: the short name that `rmeeto.create` takes; config.json has timm's, older ones the short name.
        model_args: sizes that differ from the named ones.
        schedule: tokens that leave after each block; None for an un-merged model.
        reduction: the settings of the merging as plain values; None for the defaults.
        input: what images must be: input_size (channels, height, width), mean, std, interpolation, crop_pct,
            num_classes, label_names (timm's pretrained_cfg).
        records: what was measured of the model, as plain values.
        version: of the program that wrote the folder; None if it was another one.
        state: the weights by name, in the dtypes they were saved in.
    """

    architecture: str
    model_args: dict[str, Any]
    schedule: Schedule | None
    reduction: dict[str, Any] | None
    input: dict[str, Any]
    records: dict[str, Any]
    version: str | None
    state: dict[str, Tensor]


def save_bundle(
    model: nn.Module,
    folder: Path | str,
    *,
    architecture: str,
    model_args: Mapping[str, Any],
    schedule: Schedule | None,
    reduction: Mapping[str, Any] | None,
    input: Mapping[str, Any],
    records: Mapping[str, Any],
) -> None:
    """Write a model's weights and all that is needed to build it again, whole or not at all.

    An older bundle in the folder is replaced, and stays as it was when the new one cannot be written. Other files
    of the folder are left alone.

    Args:
        model: whose weights to write, each in its own dtype.
        folder: where to; made if it is not there.
        architecture, model_args, schedule, reduction, input, records: see `Bundle`.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    config = {
        "architecture": TIMM_NAMES.get(architecture, architecture),
        "num_classes": _num_classes(model, input),
        **_num_features(model),
        "model_args": dict(model_args),
        "pretrained_cfg": {**timm_parts(architecture), **input},
        "rmeeto": {
            "version": rmeeto.__version__,
            "schedule": None if schedule is None else list(schedule.removals),
            "reduction": None if reduction is None else dict(reduction),
            "records": dict(records),
        },
    }
    weights = safetensors.torch.save(state, metadata={"format": "pt"})
    write_together({Path(folder) / WEIGHTS: weights, Path(folder) / CONFIG: to_json(config).encode("utf-8")})


def read_bundle(folder: Path | str) -> Bundle:
    """Read what `save_bundle` wrote, or a timm `local-dir` of one of our architectures (no schedule then).

    Raises:
        WeightsError: a file is missing, cut or not what it should be.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if not path.is_file():
        raise WeightsError(f"{folder} holds no {CONFIG}; name a folder with {CONFIG} and {WEIGHTS}")
    try:
        config = read_json(path)
    except RmeetoError as error:
        raise WeightsError(str(error)) from None
    config = _expect(config, dict, "the whole", path)
    own = _own_part(_expect(config.get("rmeeto", {}), dict, "rmeeto", path), path)
    input_config = _expect(config.get("pretrained_cfg"), dict, "pretrained_cfg", path)
    return Bundle(
        architecture=_short_name(_expect(config.get("architecture"), str, "architecture", path)),
        model_args=_expect(config.get("model_args", {}), dict, "model_args", path),
        schedule=_schedule(own.get("schedule"), path),
        reduction=_optional(own.get("reduction"), dict, "rmeeto.reduction", path),
        input=_checked_input(input_config, config, path),
        records=_expect(own.get("records", {}), dict, "rmeeto.records", path),
        version=_optional(own.get("version"), str, "rmeeto.version", path),
        state=read_weights(folder / WEIGHTS),
    )


def _short_name(architecture: str) -> str:
    """Of a folder; an unknown name is left for whoever builds the model to tell."""
    return short_name(architecture) if is_name(architecture) else architecture


def _num_classes(model: nn.Module, input_config: Mapping[str, Any]) -> Any:
    return input_config.get("num_classes", getattr(model, "num_classes", None))


def _num_features(model: nn.Module) -> dict[str, Any]:
    """timm's word for the model width, where the model tells it."""
    width = getattr(model, "num_features", None) or getattr(getattr(model, "config", None), "embed_dim", None)
    return {} if width is None else {"num_features": width}


def _own_part(own: dict[str, Any], path: Path) -> dict[str, Any]:
    """What only this package writes: a word that it does not know may be what makes the model merge."""
    if unknown := sorted(set(own) - set(_OWN)):
        raise WeightsError(
            f"rmeeto.{unknown[0]} in {path} is no word of this version ({', '.join(_OWN)}); update rmeeto, or write "
            "the folder again"
        )
    return own


def _schedule(value: Any, path: Path) -> Schedule | None:
    if value is None:
        return None
    try:
        return Schedule(tuple(_expect(value, list, "rmeeto.schedule", path)))
    except ScheduleError as error:
        raise WeightsError(f"rmeeto.schedule in {path} is no schedule: {error}") from None


def _checked_input(values: dict[str, Any], config: dict[str, Any], path: Path) -> dict[str, Any]:
    """timm's pretrained_cfg with what timm lets stand one level higher, lists as tuples."""
    raised = {name: config[name] for name in ("num_classes", "label_names") if config.get(name) is not None}
    values = {**values, **raised}  # as timm decides where both are there
    for name in ("input_size", "mean", "std"):
        numbers = _expect(values.get(name), list, f"pretrained_cfg.{name}", path)
        if not numbers or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            raise WeightsError(f"pretrained_cfg.{name} in {path} is {numbers!r} and must be numbers, one per channel")
        values[name] = tuple(numbers)
    if len(values["input_size"]) != 3:
        raise WeightsError(f"pretrained_cfg.input_size in {path} must be [channels, height, width]")
    return {**values, **_checked_classes(values.get("num_classes"), values.get("label_names"), path)}


def _checked_classes(number: Any, names: Any, path: Path) -> dict[str, Any]:
    """Their number, and their names in order; what is not said is left out."""
    checked: dict[str, Any] = {}
    if number is not None:
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise WeightsError(f"num_classes in {path} is {_word(number)} and must be an integer, 0 or more")
        checked["num_classes"] = number
    if names is not None:
        listed = _by_number(names) if isinstance(names, dict) else _expect(names, list, "label_names", path)
        if not all(isinstance(name, str) for name in listed):
            raise WeightsError(f"label_names in {path} must be texts, one per class, or an object of them by number")
        if number is not None and len(listed) != number:
            raise WeightsError(f"label_names in {path} are {len(listed)} for num_classes {number}; give one per class")
        checked["label_names"] = listed
    return checked


def _by_number(names: dict[str, Any]) -> list[Any]:
    """As timm writes names that have gaps: number of a class -> name; a number that lacks has no name."""
    return [names.get(str(number)) for number in range(len(names))]


def _optional(value: Any, kind: type, name: str, path: Path) -> Any:
    return None if value is None else _expect(value, kind, name, path)


def _expect(value: Any, kind: type, name: str, path: Path) -> Any:
    if not isinstance(value, kind):
        raise WeightsError(
            f"{name} in {path} is {_word(value)} and must be {_WORDS[kind]}; write the folder again with rmeeto"
        )
    return value


_WORDS: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}


def _word(value: Any) -> str:
    return "missing" if value is None else _WORDS.get(type(value), repr(value)[:40])
