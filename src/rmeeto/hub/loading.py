"""A model from its folder, built by name, its schedule attached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from rmeeto.errors import SettingsError, ShapeError, WeightsError
from rmeeto.hub.bundle import CONFIG, Bundle, read_bundle
from rmeeto.hub.weights import load_weights
from rmeeto.models import registry
from rmeeto.reduction import Settings, attach

# Where a run keeps its model, beside its records.
_INSIDE_RUN = "model"


def load(path: Path | str) -> nn.Module:
    """The model of a folder, in eval mode, on the CPU, in the dtypes it was saved in, its schedule attached.

    Args:
        path: a folder with model.safetensors and config.json, one of these two files, or a run's folder such as
            runs/demo that holds such a folder named `model`.

    Returns:
        the model; `pretrained_cfg` is its input's description as timm has it.

    Raises:
        WeightsError: a file is missing, cut, or does not fit the model that config.json describes.
    """
    folder = bundle_folder(path)
    return build(read_bundle(folder), source=str(folder))


def build(bundle: Bundle, source: str) -> nn.Module:
    """The model that a bundle describes.

    Raises:
        WeightsError: the description is of no model of ours, or the weights do not fit it.
    """
    try:
        model: nn.Module = registry.create(bundle.architecture, **bundle.model_args)
        _take_dtypes(model, bundle.state)
        load_weights(model, bundle.state, source)
        if bundle.schedule is not None:
            attach(model, bundle.schedule, Settings.from_dict(bundle.reduction or {}))
    except (SettingsError, ShapeError) as error:
        raise WeightsError(f"{CONFIG} of {source} describes no model of this version: {error}") from None
    model.pretrained_cfg = bundle.input  # type: ignore[assignment]
    return model.eval()


def bundle_folder(path: Path | str) -> Path:
    """The folder with config.json that `path` means (see `load`).

    Raises:
        WeightsError: there is none.
    """
    path = Path(path)
    for folder in (path, path / _INSIDE_RUN, path.parent):
        inside = folder != path.parent or path.is_file()
        if inside and (folder / CONFIG).is_file():
            return folder
    found = "holds no config.json" if path.exists() else "does not exist"
    raise WeightsError(f"model folder {path} {found}; name one with config.json and model.safetensors")


def _take_dtypes(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give each floating-point parameter the dtype of its weights."""
    for name, parameter in model.named_parameters():
        if name in state and state[name].is_floating_point():
            parameter.data = parameter.data.to(state[name].dtype)
