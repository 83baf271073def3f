"""A model card: the README.md of a model on the hub, with the header that the hub reads."""

from __future__ import annotations

from typing import Any

from rmeeto.hub.bundle import Bundle
from rmeeto.models.configs import config_of
from rmeeto.models.counting import parameters_of

_METHOD = "2412.12496"


def model_card(bundle: Bundle, repo: str, *, licence: str | None, measured: str | None) -> str:
    """The card's text.

    Args:
        bundle: the model.
        repo: owner/name, where it will be.
        licence: of the weights, as SPDX names it; None leaves it open.
        measured: what was measured of it, in Markdown; None where nothing was.
    """
    base = base_of(bundle)
    parts = [
        f"---\n{_header(bundle, base, licence)}---",
        f"# {repo.rsplit('/', maxsplit=1)[-1]}",
        _what(bundle),
        f"## Measured\n\n{measured}" if measured else "",
        f"## Use\n\n{_use(repo, merged=bundle.schedule is not None)}",
        _origin(base, licence),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def base_of(bundle: Bundle) -> dict[str, Any] | None:
    """The published weights that a model is, or was made of."""
    return bundle.records.get("origin") or bundle.records.get("base")


def _header(bundle: Bundle, base: dict[str, Any] | None, licence: str | None) -> str:
    from huggingface_hub import ModelCardData

    video = config_of(bundle.architecture, bundle.model_args).num_frames is not None
    task = "video-classification" if video else "image-classification"
    data = ModelCardData(
        license=licence,
        library_name="rmeeto",
        pipeline_tag=task,
        tags=[task, "vision-mamba", "state-space-model", "token-merging", "timm", f"arxiv:{_METHOD}"],
        base_model=base["repo"] if base else None,
        datasets=[base["dataset"]] if base and "origin" in bundle.records else None,
    )
    return f"{data.to_yaml()}\n"


def _what(bundle: Bundle) -> str:
    config = config_of(bundle.architecture, bundle.model_args)
    size = "x".join(map(str, bundle.input["input_size"]))
    frames = "" if config.num_frames is None else f" in {config.num_frames} frames"
    text = (
        f"A Vision Mamba (`{bundle.architecture}`) of {parameters_of(config) / 1e6:.2f} M parameters for inputs of "
        f"{size}{frames} and {config.num_classes} classes."
    )
    if bundle.schedule is None:
        return text
    tokens = config.num_patches + 1
    left = bundle.schedule.final_length(tokens)
    return (
        f"{text} Its tokens are merged between blocks after R-MeeTo "
        f"([arXiv {_METHOD}](https://arxiv.org/abs/{_METHOD})): {tokens} enter the first block and {left} leave the "
        f"last. Removed after each block: `{list(bundle.schedule.removals)}`."
    )


def _use(repo: str, *, merged: bool) -> str:
    comes = "  # its tokens are merged; rmeeto.detach(model) undoes that" if merged else ""
    return f'```python\nimport rmeeto\n\nmodel = rmeeto.load("hf-hub:{repo}"){comes}\nlogits = model(images)\n```'


def _origin(base: dict[str, Any] | None, licence: str | None) -> str:
    if base is None:
        return ""
    papers = ", ".join(f"[arXiv {paper}](https://arxiv.org/abs/{paper})" for paper in base["papers"])
    terms = "" if licence or base["license"] else " No licence is stated for them there."
    return (
        f"## Origin\n\nMade of the published weights `{base['name']}` "
        f"([{base['repo']}](https://huggingface.co/{base['repo']}), {papers}).{terms}"
    )
