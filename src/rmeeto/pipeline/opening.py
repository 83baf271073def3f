"""A model and its images, opened together so that they fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from rmeeto.data import DEMO_MODEL, DEMO_TAG, DataSpec, InputSpec
from rmeeto.errors import SettingsError, ShapeError
from rmeeto.hub import build, load_weights, read_model
from rmeeto.hub.official import read_network
from rmeeto.models import Vim, create
from rmeeto.models.configs import config_of, is_name, short_name
from rmeeto.models.embed import fit_positions
from rmeeto.models.origins import find
from rmeeto.pipeline.specs import ModelSpec
from rmeeto.pipeline.watch import Unwatched, Watch

# Sizes that only training reads; a model's folder leaves them out.
_TRAINING = ("drop_rate", "drop_path_rate")


@dataclass(frozen=True)
class Opened:
    """A model and what is known of it.

    Attributes:
        model: in eval mode, with its schedule attached if it came with one.
        name: the architecture that `rmeeto.create` takes.
        form: the images it takes.
        class_names: one per output, where they are known.
        origin: the published weights it was made of, where it was, as a bundle records them.
    """

    model: Vim
    name: str
    form: InputSpec
    class_names: tuple[str, ...] | None = None
    origin: dict[str, Any] | None = None

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes that differ from the named ones, as a bundle keeps them."""
        named, own = config_of(self.name).to_dict(), self.model.config.to_dict()
        return {name: value for name, value in own.items() if value != named[name] and name not in _TRAINING}


class _HasClasses(Protocol):
    """Images that are opened."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One per label."""


Images = TypeVar("Images", bound=_HasClasses)


def open_with_images(
    spec: ModelSpec, open_images: Callable[[InputSpec], Images], watch: Watch | None = None
) -> tuple[Opened, Images]:
    """A model and its images: a trained model brings its classes, a named one has those of the images.

    Args:
        spec: which model.
        open_images: the images in the form that the model takes.
        watch: told when the images name their classes otherwise than the model does.

    Raises:
        ShapeError: a trained model tells other classes apart.
        RmeetoError: another kind of it, for what cannot be opened.
    """
    if is_name(spec.model):
        images = open_images(form_for(spec))
        opened = open_model(spec, num_classes=len(images.class_names))
    else:
        opened = open_model(spec)
        images = open_images(opened.form)
        if opened.model.num_classes != len(images.class_names):
            raise ShapeError(
                f"{spec.model} tells {opened.model.num_classes} classes apart and the data has "
                f"{len(images.class_names)}; give the data it was trained on, or pre-train a model on yours"
            )
        if line := other_names(opened.class_names, images.class_names):
            (watch or Unwatched()).stage(line)
    return dataclasses.replace(opened, class_names=images.class_names), images


def other_names(model: tuple[str, ...] | None, data: tuple[str, ...]) -> str | None:
    """What to tell when a model and its data, of as many classes, name them differently; None when they agree.

    Names may differ in spelling alone, so it is told and not refused.
    """
    pairs = [(own, given) for own, given in zip(model or data, data, strict=True) if own != given]
    if not pairs:
        return None
    moved = "in another order" if sorted(model or ()) == sorted(data) else "otherwise"
    return (
        f"the data names {len(pairs)} of {len(data)} classes {moved} than the model does ({pairs[0][1]!r} stands where "
        f"the model has {pairs[0][0]!r}); labels go by place: unless they mean the same, accuracies say nothing"
    )


def open_model(spec: ModelSpec, *, num_classes: int | None = None) -> Opened:
    """A trained model from its folder, the hub or a published file, or by name with a weight file or random weights.

    Args:
        spec: which model; a bundle keeps its own sizes.
        num_classes: outputs of a named model; None keeps its own. A bundle keeps its own always.

    Raises:
        SettingsError, ShapeError: unknown name, or sizes that cannot be.
        WeightsError: weights that are unreadable, unsafe, or do not fit.
    """
    if is_name(spec.model):
        return _named(spec, num_classes)
    if spec.weights is not None or spec.sizes():
        given = ["weights"] * (spec.weights is not None) + sorted(spec.sizes())
        raise SettingsError(f"{spec.model} comes trained and brings its own {', '.join(given)}; leave them out")
    bundle = read_model(spec.model)
    model = build(bundle, spec.model)
    if not isinstance(model, Vim):
        raise SettingsError(f"{spec.model} holds a {type(model).__name__}; only Vision Mambas can be merged")
    model = model.to(_device())
    names = bundle.input.get("label_names")
    form, origin = form_of(bundle.input), bundle.records.get("origin") or bundle.records.get("base")
    return Opened(model, bundle.architecture, form, tuple(names) if names else None, origin)


def require_trained(spec: ModelSpec) -> None:
    """Check that the model comes with weights.

    Raises:
        SettingsError: it is a name without a weight file.
    """
    if is_name(spec.model) and spec.weights is None:
        published, demo = find(spec.model), f"{DEMO_MODEL}.{DEMO_TAG}"
        where = f", or its published weights as {published.short}.{published.tag}" if published else ""
        where = f", or the package's own weights as {demo}" if short_name(spec.model) == DEMO_MODEL else where
        raise SettingsError(
            f"{spec.model} comes without trained weights; add --weights, or name a model's folder{where}"
        )


def device_of(model: Vim) -> torch.device:
    """Where a model computes."""
    return model.cls_token.device


def form_for(spec: ModelSpec) -> InputSpec:
    """The images that a named model will take, before it is built."""
    config = config_of(spec.model, spec.sizes())
    return InputSpec.of((config.in_chans, *config.img_size))


def form_of(pretrained_cfg: dict[str, Any]) -> InputSpec:
    """The images that a bundle's `pretrained_cfg` describes."""
    known = {field.name for field in dataclasses.fields(InputSpec)}
    values = {name: value for name, value in pretrained_cfg.items() if name in known}
    return InputSpec.from_dict({**values, "size": pretrained_cfg["input_size"]})


def pretrained_cfg_of(opened: Opened) -> dict[str, Any]:
    """What `form_of` reads, in timm's words."""
    values = opened.form.to_dict()
    return {
        "input_size": list(values.pop("size")),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()},
        "num_classes": opened.model.num_classes,
        "label_names": None if opened.class_names is None else list(opened.class_names),
    }


def fitting(data: DataSpec, batch_size: int) -> DataSpec:
    """The same data in training batches of another size.

    Evaluation takes as many images at a time where nothing else was asked for: what fits training's memory fits
    evaluation's.
    """
    return dataclasses.replace(data, batch_size=batch_size)


def _named(spec: ModelSpec, num_classes: int | None) -> Opened:
    sizes = spec.sizes()
    if num_classes is not None:
        sizes["num_classes"] = num_classes
    config = config_of(spec.model, sizes)
    if spec.weights is None:
        model = create(spec.model, **sizes)
    else:
        state, _, _ = read_network(spec.weights, find(spec.model))
        model = create(spec.model, **sizes)
        load_weights(model, fit_positions(state, config), spec.weights)
    return Opened(model.to(_device()).eval(), short_name(spec.model), form_for(spec))


def _device() -> torch.device:
    """The GPU where there is one: the place that the training engine chooses too."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
