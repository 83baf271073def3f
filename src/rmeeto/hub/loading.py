"""A model from its folder, a weight file or the hub, built by name, its schedule attached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rmeeto.data import DEMO_MODEL, DEMO_TAG, demo_model
from rmeeto.errors import SettingsError, ShapeError, WeightsError
from rmeeto.hub.bundle import CONFIG, WEIGHTS, Bundle, read_bundle
from rmeeto.hub.official import as_taken, bundle_of, read_network, read_official
from rmeeto.hub.remote import Hub, fetch_bundle, fetch_published
from rmeeto.hub.weights import load_weights
from rmeeto.models import registry
from rmeeto.models.configs import CONFIGS, VimConfig, is_name, nearest, short_name
from rmeeto.models.origins import ORIGINS, Origin, find
from rmeeto.models.precision import to_precision
from rmeeto.reduction import Settings, attach

# Where a run keeps its model, beside its records.
_INSIDE_RUN = "model"
# How timm writes where a model is.
_FOLDER, _REMOTE = "local-dir:", "hf-hub:"


def load(
    name: Path | str, *, model: str | None = None, hub: Hub | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """A trained model, in eval mode, on the CPU, its schedule attached if it has one.

    Args:
        name: one of
            - a folder with model.safetensors and config.json, one of these two files, or a run's folder that holds
              such a folder named `model`; also as timm writes it, `local-dir:FOLDER`;
            - `hf-hub:owner/name` or `hf-hub:owner/name@revision`, such a folder on the Hugging Face hub, or a
              repository of one published file there;
            - `vim_nano` or `vim_nano.demo`, the demo's model, which comes with the package;
            - published weights, such as `vim_tiny` or `vim_tiny_patch16_224.rmeeto_in1k`, which are downloaded;
            - a published weight file, or any other of the network that `model` names.
        model: the network's name, for a weight file that is not called as a published one.
        hub: where to download from; None takes the environment's settings.
        dtype: of the weights, for inference: torch.bfloat16, which images must then have, too, or torch.int8, which
            takes float32 images (see `rmeeto.models.to_precision`); None keeps the dtypes they were saved in.

    `from_pretrained` is the same for the hub's own way of naming a model.

    Returns:
        the model; `pretrained_cfg` is its input's description as timm has it.

    Raises:
        WeightsError: a file is missing, cut, asks to run code, or does not fit the model; or there is no network.
        SettingsError: a weight file's network is not known, or the dtype cannot be had.
    """
    built = build(read_model(name, model=model, hub=hub), source=str(name))
    return built if dtype is None else to_precision(built, dtype)


def from_pretrained(name: Path | str, *, revision: str | None = None, hub: Hub | None = None) -> nn.Module:
    """What `load` gives, where a bare `owner/name` is a model on the Hugging Face hub, as that hub's users write it.

    Args:
        name: owner/name on the hub, if no folder of this machine is called so; or whatever `load` takes.
        revision: a branch, tag or commit of the hub's repository; None takes the newest.
        hub: where to download from; None takes the environment's settings.

    Raises:
        WeightsError, SettingsError: see `load`; or a revision is asked of what is not on the hub.
    """
    text = str(name)
    if text.count("/") == 1 and ":" not in text and not Path(text).exists():
        text = f"{_REMOTE}{text}"
    if revision is None:
        return load(text, hub=hub)
    if not text.startswith(_REMOTE) or "@" in text:
        raise SettingsError(
            f"revision = {revision!r} is of a model on the hub and {name} is none, or names another one; leave it out"
        )
    return load(f"{text}@{revision}", hub=hub)


def read_model(name: Path | str, *, model: str | None = None, hub: Hub | None = None) -> Bundle:
    """What `load` builds a model of.

    Raises:
        WeightsError, SettingsError: see `load`.
    """
    text = str(name).removeprefix(_FOLDER)
    path = Path(text)
    if text.startswith(_REMOTE):
        return _read_remote(text.removeprefix(_REMOTE), hub or Hub())
    if path.is_file() and path.name not in (CONFIG, WEIGHTS):
        return read_official(path, model=model).bundle
    if path.exists() or str(name).startswith(_FOLDER):
        return read_bundle(bundle_folder(path))
    if origin := find(text):
        return read_published(origin, hub or Hub())
    network, _, tag = text.partition(".")
    if is_name(network) and short_name(network) == DEMO_MODEL and tag in ("", DEMO_TAG):
        with demo_model() as folder:
            return read_bundle(folder)
    raise WeightsError(_nothing_called(text))


def _read_remote(place: str, hub: Hub) -> Bundle:
    """A folder on the hub, or, of a repository that holds one published file and no folder, that file."""
    published = [origin for origin in ORIGINS if origin.repo == place]
    if len(published) > 1:
        names = ", ".join(f"{origin.short}.{origin.tag}" for origin in published)
        raise WeightsError(f"{place} holds {len(published)} published models; load one of them by its name: {names}")
    return read_published(published[0], hub) if published else read_bundle(fetch_bundle(place, hub))


def read_published(origin: Origin, hub: Hub) -> Bundle:
    """Published weights, downloaded if they are not on this machine yet.

    Raises:
        WeightsError: they cannot be had or read.
    """
    state, taken, _ = read_network(fetch_published(origin, hub), origin)
    return bundle_of(as_taken(origin, taken), state)


def build(bundle: Bundle, source: str) -> nn.Module:
    """The model that a bundle describes.

    Raises:
        WeightsError: the description is of no model of ours, or the weights do not fit it.
    """
    try:
        classes = bundle.input.get("num_classes")
        told = {} if classes is None else {"num_classes": classes}
        model: nn.Module = registry.create(bundle.architecture, **{**told, **bundle.model_args})
        _take_dtypes(model, bundle.state)
        load_weights(model, bundle.state, source)
        if classes not in (None, model.num_classes):
            raise SettingsError(f"num_classes is {classes} and the weights are of {model.num_classes}; make them agree")
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
    for folder in (path.parent,) if path.is_file() else (path, path / _INSIDE_RUN):
        if (folder / CONFIG).is_file():
            return folder
    found = "holds no config.json" if path.exists() else "does not exist"
    raise WeightsError(
        f"model folder {path} {found}; name one with config.json and model.safetensors, or hf-hub:owner/name"
    )


def _nothing_called(name: str) -> str:
    network, _, tag = name.partition(".")
    if not is_name(network):
        return (
            f"{name} is no folder of this machine and no published model; {nearest(name)}`rmeeto models` lists those, "
            f"and {_REMOTE}owner/name is one on the hub"
        )
    if known := [f"{network}.{origin.tag}" for origin in ORIGINS if network in (origin.model, origin.short)]:
        return f"{network} has no published weights {tag!r}; it has {', '.join(known)}"
    cure = f"rmeeto.create({network!r}) makes it with random ones"
    config = CONFIGS[short_name(network)]
    if fewer := _of_fewer_frames(config):
        cure = f"load {fewer} and call set_input_size(num_frames={config.num_frames}), which interpolates its positions"
    return f"of {network} no weights are published; {cure}"


def _of_fewer_frames(config: VimConfig) -> str | None:
    """The published network that differs in the number of frames alone."""
    if config.num_frames is None:
        return None
    alike = (o.short for o in ORIGINS if replace(CONFIGS[o.short], num_frames=config.num_frames) == config)
    return next(alike, None)


def _take_dtypes(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give each floating-point parameter the dtype of its weights."""
    for name, parameter in model.named_parameters():
        if name in state and state[name].is_floating_point():
            parameter.data = parameter.data.to(state[name].dtype)
