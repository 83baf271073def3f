"""Published tables, run again: as they were on ImageNet, or in minutes on the demo's images and model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rmeeto.data import demo_model
from rmeeto.data.spec import Augment, DataSpec
from rmeeto.errors import RmeetoError, SettingsError
from rmeeto.models.configs import CONFIGS
from rmeeto.pipeline.recipes import GROUPS, NamedRecipe, load_recipe, parse_toml, require_known, section_of, table_names
from rmeeto.pipeline.specs import ModelSpec, ScheduleSpec, SpeedSpec
from rmeeto.pipeline.watch import Unwatched, Watch
from rmeeto.records import read_json, write_json
from rmeeto.schedule import Schedule

Scale = Literal["demo", "full"]
RESULT = "result.json"
TABLE = "table.json"
# Of the published image models: tokens and blocks.
_TOKENS, _DEPTH = 197, 24
_DEMO_DEPTH = CONFIGS["vim_nano"].depth
_DEMO = {"train": 1280, "val": 600, "epochs": 1, "repeats": 3}


@dataclass(frozen=True)
class PublishedTable:
    """Runs that belong together.

    Attributes:
        name: of its file.
        about: one line for people.
        source: where its numbers come from.
        missing: what of the published table is not in it.
        runs: label -> recipe, its changes made.
    """

    name: str
    about: str
    source: str
    missing: str
    runs: dict[str, NamedRecipe] = field(default_factory=dict)


def load_table(name: str) -> PublishedTable:
    """Read a table of the package, to the letter.

    Raises:
        SettingsError: it is unknown, or has an unknown key or a value that cannot be.
    """
    if name not in table_names():
        raise SettingsError(f"table {name!r} is unknown; choose one of {', '.join(table_names())}")
    text = (files("rmeeto") / "recipes" / "tables" / f"{name}.toml").read_text(encoding="utf-8")
    values = parse_toml(text, name)
    require_known(values, ("about", "source", "missing", "run"), name)
    runs: dict[str, NamedRecipe] = {}
    for run in values["run"]:
        require_known(run, ("label", "base", "published", *GROUPS), f"{name} [[run]]")
        changes = {group: section_of(group, run[group], name) for group in GROUPS if group in run}
        # A run that is another than its recipe's has other published numbers, or none.
        published = run.get("published", {} if changes else None)
        recipe = load_recipe(run["base"]).with_changes(changes, published)
        runs[run["label"]] = recipe
    return PublishedTable(name, values["about"], values["source"], values["missing"], runs)


def reproduce(
    name: str,
    scale: Scale,
    output: Path,
    *,
    data: str | None = None,
    weights: Path | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Run a table; what is finished in `output` is not run again, what was begun goes on.

    Args:
        name: of the table.
        scale: "demo" runs each row for less than a minute with the demo's model and some of its images; "full" runs it
            as published.
        output: gets a folder per run, and table.json.
        data: ImageNet's folder, or another name of it; for "full".
        weights: folder of the official weight files; for "full".
        watch: told how it goes.

    Returns:
        what table.json holds: "rows", each with "label", "published" and "here".

    Raises:
        RmeetoError: the table is unknown, videos are needed, or a run cannot be.
    """
    watch, table = watch or Unwatched(), load_table(name)
    if any("_k400_" in recipe.values()["model"].model for recipe in table.runs.values()):
        raise SettingsError(f"table {name} is of videos, which no set of images can stand for; its recipes are there")
    if scale == "full" and (data is None or weights is None):
        raise SettingsError("--scale full needs --data with ImageNet and --weights with the folder of the weight files")
    rows, done = [], {}
    for label, recipe in table.runs.items():
        watch.stage(f"{name}: {label}")
        values = _demo(recipe) if scale == "demo" else _full(recipe, data or "", weights or Path())
        key = repr(values)
        if key not in done:  # at the demo's scale rows that differ in the model alone are one run
            done[key] = _finished(Path(output) / name / scale / _folder(label), values, watch)
        rows.append({"label": label, "published": dict(recipe.published), "here": _here(done[key])})
    result = {
        "kind": "table",
        "name": name,
        "scale": scale,
        "about": table.about,
        "missing": table.missing,
        "rows": rows,
    }
    write_json(Path(output) / name / scale / TABLE, result)
    return result


def _finished(folder: Path, values: Mapping[str, Any], watch: Watch) -> dict[str, Any]:
    """The result of one run: read where it is there, else made."""
    from rmeeto.pipeline.retraining import retrain
    from rmeeto.retrain import RunSpec

    if (folder / RESULT).is_file():
        try:
            found: dict[str, Any] = read_json(folder / RESULT)
        except RmeetoError:
            watch.stage(f"{folder / RESULT} is broken; the run is made again")
        else:
            watch.stage(f"{folder} is finished already")
            return found
    with demo_model() as demo:
        model = values["model"]
        model = dataclasses.replace(model, model=str(demo)) if model.model == "demo" else model
        return retrain(**{**values, "model": model}, output=folder, spec=RunSpec(resume="auto"), watch=watch)


def _full(recipe: NamedRecipe, data: str, weights: Path) -> dict[str, Any]:
    values = recipe.values()
    file = weights / (recipe.weights_file or "")
    if not file.is_file():
        raise SettingsError(f"weight file {file} does not exist; fetch it and name its folder with --weights")
    values["model"] = dataclasses.replace(values["model"], weights=str(file))
    values["data"] = dataclasses.replace(values["data"], data=data)
    return values


def _demo(recipe: NamedRecipe) -> dict[str, Any]:
    """The same reduction of a small model: as many tokens remain, and the same settings merge them."""
    from rmeeto.pipeline.demonstration import RECIPE

    values = recipe.values()
    asked: ScheduleSpec = values["schedule"]
    final = Schedule.constant(asked.r, _DEPTH, every=asked.every, phase=asked.phase).final_length(_TOKENS)
    # Fewer merges, each of half of the tokens at most, cannot leave as few.
    fewest = Schedule.constant(_TOKENS, _DEMO_DEPTH, every=asked.every, phase=asked.phase).final_length(_TOKENS)
    return {
        "model": ModelSpec(model="demo"),
        "data": DataSpec(data="demo", train_limit=_DEMO["train"], val_limit=_DEMO["val"]),
        "schedule": dataclasses.replace(asked, final=max(final, fewest)),
        "settings": values["settings"],
        "recipe": dataclasses.replace(RECIPE, epochs=_DEMO["epochs"], time_limit=None),
        "augment": Augment.light(),
        "speed": SpeedSpec(speed_batch=16, speed_repeats=_DEMO["repeats"], speed_warmup=1),
    }


def _here(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": result["model"],
        "images": result["images"],
        "unmerged": result["unmerged"]["top1"],
        "training_free": result["merged"]["top1"],
        "top1": result["retrained"]["top1"],
        "unmerged_gflops_paper": result["unmerged"]["gflops_paper"],
        "gflops_paper": result["retrained"]["gflops_paper"],
        "minutes": result["retrain_seconds"] / 60,
    }


def _folder(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")
