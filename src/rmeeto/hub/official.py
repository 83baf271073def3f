"""Published weight files, and users' own of the same networks, as bundles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rmeeto.data import InputSpec
from rmeeto.errors import SettingsError, WeightsError
from rmeeto.hub.bundle import Bundle
from rmeeto.hub.weights import read_part
from rmeeto.models.configs import CONFIGS, config_of
from rmeeto.models.embed import resize_frames
from rmeeto.models.origins import ORIGINS, Origin, find

# What a published file may hold beside the network: the second head of a distillation, which classifies nothing here.
_EXTRAS = ("distill_head.",)
_FRAMES = "temporal_pos_embedding"


@dataclass(frozen=True)
class Converted:
    """A weight file as a bundle.

    Attributes:
        bundle: what `rmeeto.hub.build` makes a model of.
        notes: what was chosen and what was left out, one line each.
    """

    bundle: Bundle
    notes: tuple[str, ...]


def read_official(
    path: Path | str, *, model: str | None = None, part: str | None = None, img_size: int | None = None
) -> Converted:
    """Read a weight file of a named network, without running code from it.

    A file that is called as a published one, or said to be one by its name with the tag (vim_tiny.rmeeto_in1k), is
    taken for it: schedule, licence and accuracy come with it. Of any other nothing is known but the network.

    Args:
        path: the file.
        model: the network's name, with a tag or without; None goes by the file's name.
        part: the entry of the file to take; None takes the one whose accuracy was published, where it has it.
        img_size: side of the square input that the weights were trained with; None takes the network's own.

    Raises:
        SettingsError: the network is unknown, or neither named nor known by the file's name, or of another kind than
            the file's name says.
        ShapeError: the patches do not fill such an image.
        WeightsError: the file is missing, cut, asks to run code, holds no weights, or those of another input size.
    """
    path = Path(path)
    named = None if model is None else find(model)
    origin = published_as(path.name, model) or _said_to_be(path, model, named)
    network = origin.short if origin else named.short if named else model
    if network is None:
        raise SettingsError(
            f"{path} is not called as a published file, so its network is not known; name it (--model vim_tiny)"
        )
    sizes = {} if img_size is None else {"img_size": [img_size, img_size]}
    config_of(network, sizes)  # an unknown name is told before a large file is read
    if origin is not None and img_size not in (None, origin.input_size[-1]):
        raise SettingsError(f"{path.name} was published for {origin.input_size[-1]} pixels; leave out img_size")
    if origin is None:
        _require_kind(path, network)
    state, taken, extras = read_network(path, origin or named, part)
    _require_grid(path, network, sizes, state)
    notes = [f"weights of {path.name}" + (f", its part {taken}" if taken else "")]
    if extras:
        notes.append(f"left out what is no part of the network: {', '.join(extras)}")
    if origin is None:
        notes += _fit_frames(network, state)
        return Converted(_unpublished(network, state, sizes), tuple(notes))
    why = "by the file's name" if published_as(path.name) else "as was said"
    notes.append(f"taken for {origin.name} of {origin.repo} {why}")
    if taken != origin.part and origin.part is not None:
        notes.append(f"the published accuracy is that of the part {origin.part}, so it is not recorded")
    return Converted(bundle_of(as_taken(origin, taken), state), tuple(notes))


def read_network(
    path: Path | str, origin: Origin | None, part: str | None = None
) -> tuple[dict[str, Tensor], str | None, tuple[str, ...]]:
    """A file's weights of a network.

    Args:
        path: the file.
        origin: published weights of the network, by which the part of the file is chosen.
        part: the part to take in any case.

    Returns:
        the weights, the part they were taken from, and the names of what was left out beside them.
    """
    state, taken = read_part(path, part=part, preferred=origin.part if origin else None)
    extras = tuple(name for name in state if name.startswith(_EXTRAS))
    return {name: value for name, value in state.items() if name not in extras}, taken, extras


def published_as(file: str, model: str | None = None) -> Origin | None:
    """The published weights that a file's name means, if they are of the network that was named, if one was."""
    named = None if model is None else find(model)
    for origin in ORIGINS:
        if file == origin.file or file.rsplit(".", 1)[0] == origin.file:
            tagged = model is not None and "." in model
            fits = model is None or (named is not None and named.short == origin.short)
            return origin if fits and (not tagged or named == origin) else None
    return None


def _said_to_be(path: Path, model: str | None, named: Origin | None) -> Origin | None:
    """The published weights that a name with its tag means, whatever the file is called."""
    if model is None or "." not in model or named is None:
        return None
    if called := published_as(path.name):
        raise SettingsError(
            f"{path.name} is published as {called.short}.{called.tag} and not as {model}; leave out the model, or "
            "rename the file if it is another one"
        )
    return named


def _require_kind(path: Path, network: str) -> None:
    """Vim and VideoMamba have the same names and shapes: the wrong one would answer, and wrongly."""
    called = published_as(path.name)
    if called is None:
        return
    theirs, ours = config_of(called.short), config_of(network)
    if (theirs.class_token, theirs.directions) != (ours.class_token, ours.directions):
        raise SettingsError(
            f"{path.name} is published as {called.short}, whose weights fit {network} and mean something else there; "
            "leave out the model, or rename the file if it is another one"
        )


def _require_grid(path: Path, network: str, sizes: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Told here, where the size that was meant can be said; other shapes are told by whoever loads them."""
    config, table = config_of(network, sizes), state.get("pos_embed")
    if table is None or table.dim() != 3 or table.shape[2] != config.embed_dim or table.shape[1] < 2:
        return
    patches = table.shape[1] - 1
    side = math.isqrt(patches)
    if side**2 != patches or patches == config.frame_patches:
        return
    step = config.stride or config.patch_size
    fitting = config.patch_size + (side - 1) * step
    strides = [
        name for name, other in CONFIGS.items() if other.grid_size == (side, side) and name.startswith(f"{network}_")
    ]
    also = f", or {strides[0]} if its patches overlap" if strides else ""
    raise WeightsError(
        f"{path} has positions for {side}x{side} patches and {network} at {config.img_size[0]} pixels has "
        f"{'x'.join(map(str, config.grid_size))}; convert it with --img-size {fitting}{also}"
    )


def as_taken(origin: Origin, part: str | None) -> Origin:
    """The same without its accuracy, where another part of the file was taken than the one that reached it."""
    return origin if origin.part in (None, part) else replace(origin, top1=None)


def bundle_of(origin: Origin, state: dict[str, Tensor]) -> Bundle:
    """Published weights with all that is known of them."""
    about = {
        "name": origin.name,
        "repo": origin.repo,
        "file": origin.file,
        "license": origin.licence,
        "papers": list(origin.papers),
        "dataset": origin.dataset,
        "top1": origin.top1,
    }
    return Bundle(
        architecture=origin.short,
        model_args={},
        schedule=origin.schedule,
        reduction=origin.reduction,
        input=origin.pretrained_cfg,
        records={"origin": about},
        version=None,
        state=state,
    )


def _fit_frames(network: str, state: dict[str, Tensor]) -> list[str]:
    """Interpolate the frames' positions to the network's number of frames, in place; told where it was done."""
    frames, table = config_of(network).num_frames, state.get(_FRAMES)
    if frames is None or table is None or table.dim() != 3 or table.shape[1] == frames:
        return []
    state[_FRAMES] = resize_frames(table, frames)
    return [f"positions of {table.shape[1]} frames interpolated to {frames}"]


def _unpublished(network: str, state: dict[str, Tensor], given: dict[str, Any]) -> Bundle:
    """Weights of which the network is known; they may tell other classes apart than it does by default."""
    sizes, bias = dict(given), state.get("head.bias")
    if bias is not None and bias.ndim == 1 and len(bias) != config_of(network).num_classes:
        sizes["num_classes"] = len(bias)
    config = config_of(network, sizes)
    form = InputSpec.of((config.in_chans, *config.img_size)).to_dict()
    described = {"input_size": form.pop("size"), **form, "num_classes": config.num_classes}
    return Bundle(network, sizes, None, None, described, {}, None, state)
