"""A model of this process as a folder, with all that it takes to build it again told by the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rmeeto.errors import SettingsError
from rmeeto.hub.bundle import save_bundle
from rmeeto.models import Vim
from rmeeto.models.configs import described, named_like
from rmeeto.reduction import attached

# What images must be, in timm's words; what else a `pretrained_cfg` tells is of the weights it began with.
_OF_THE_INPUT = ("interpolation", "crop_pct", "crop_mode")
_PER_CHANNEL = ("mean", "std")
_OF_TRAINING = ("drop_rate", "drop_path_rate")


def save(model: nn.Module, folder: Path | str) -> None:
    """Write a model as a folder that `rmeeto.load` reads, merged if it is merged, and timm's `local-dir:`, un-merged.

    An older model in the folder is replaced. What images must be, and the names of the classes (`label_names`), are
    taken from `model.pretrained_cfg`.

    Example:
        rmeeto.attach(model, rmeeto.Schedule.constant(5, model.config.depth))
        rmeeto.save(model, "models/mine")

    Args:
        model: a Vision Mamba.
        folder: where to; made if it is not there.

    Raises:
        SettingsError: another model, or one whose weights are quantised.
        OutputError: the folder cannot be written or the disk is full.
    """
    if not isinstance(model, Vim):
        raise SettingsError(
            f"{type(model).__name__} is no Vision Mamba of this package; give the model itself and not a wrapper of "
            "it, and save timm's with timm.models.save_for_hf"
        )
    if not all(isinstance(value, Tensor) for value in model.state_dict().values()):
        raise SettingsError("the model has 8-bit weights, which no file here holds; save it before it gets them")
    found = attached(model)
    architecture, sizes = named_like(model.config)
    save_bundle(
        model,
        folder,
        architecture=architecture,
        model_args={name: value for name, value in sizes.items() if name not in _OF_TRAINING},
        schedule=found[0] if found else None,
        reduction=found[1].to_dict() if found else None,
        input=_input(model),
        records={},
    )


def _input(model: Vim) -> dict[str, Any]:
    known: Any = getattr(model, "pretrained_cfg", None) or {}
    values = described(model.config)
    del values["architecture"]
    values |= {name: known[name] for name in _OF_THE_INPUT if known.get(name) is not None}
    fitting = {name: known[name] for name in _PER_CHANNEL if len(known.get(name) or ()) == model.in_chans}
    if len(fitting) == len(_PER_CHANNEL):
        values |= {name: list(value) for name, value in fitting.items()}
    if len(names := known.get("label_names") or ()) == model.num_classes > 0:
        values["label_names"] = list(names)
    return values
