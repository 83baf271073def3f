"""Published tables, run again: as they were on ImageNet, or in minutes on the demo's images and model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmeeto.data import demo_model
from rmeeto.data.locate import locate
from rmeeto.data.spec import Augment, DataSpec, Split
from rmeeto.errors import RmeetoError, SettingsError
from rmeeto.models.configs import CONFIGS
from rmeeto.pipeline.recipes import NamedRecipe
from rmeeto.pipeline.specs import ModelSpec, ScheduleSpec, SpeedSpec
from rmeeto.pipeline.tables import PublishedTable, load_table, tables
from rmeeto.pipeline.watch import Unwatched, Watch
from rmeeto.records import read_json, write_json
from rmeeto.schedule import Schedule

if TYPE_CHECKING:
    from rmeeto.retrain import RunSpec

Scale = Literal["demo", "full"]
RESULT = "result.json"
TABLE = "table.json"
SPLITS: tuple[Split, ...] = ("train", "val")
# Of the published image models: tokens and blocks.
_TOKENS, _DEPTH = 197, 24
_DEMO_DEPTH = CONFIGS["vim_nano"].depth
_DEMO = {"train": 1280, "val": 600, "epochs": 1, "repeats": 3}


def list_tables() -> list[dict[str, Any]]:
    """Every table: "name", "number", "about", how many "runs", and what is "missing" of the published one."""
    return [
        {"number": table.number, "name": table.name, "about": table.about, "runs": len(table.runs),
         "missing": table.missing}
        for table in tables()
    ]  # fmt: skip


def reproduce(
    name: str,
    scale: Scale,
    output: Path,
    *,
    data: str | None = None,
    weights: Path | None = None,
    workers: int = 0,
    checkpoint_every: int | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Run a table; what is finished in `output` is not run again, what was begun goes on.

    Under torchrun all processes call it, and each run is theirs together.

    Args:
        name: of the table, or "table" and its number.
        scale: "demo" runs each row for less than a minute with the demo's model and some of its images; "full" runs it
            as published.
        output: gets a folder per run, and table.json.
        data: ImageNet's folder, or another name of it; for "full".
        weights: folder of the official weight files; for "full".
        workers: processes that decode images; for "full".
        checkpoint_every: steps between two checkpoints of a run; None writes one at each epoch's end.
        watch: told how it goes.

    Returns:
        what table.json holds: "rows", each with "label", "published" and "here"; nothing in processes that are not
        the main one.

    Raises:
        RmeetoError: the table is unknown, videos are needed, or a run cannot be.
    """
    from rmeeto.retrain import RunSpec
    from rmeeto.retrain.engine import Processes

    table, processes = load_table(name), Processes()
    watch = watch if watch is not None and processes.is_main else Unwatched()
    if table.of_videos:
        raise SettingsError(
            f"table {table.name} is of videos, which no set of images can stand for; its recipes are there"
        )
    planned = _planned(table, scale, data, weights, workers)  # all of them, before hours are spent on the first
    place, spec = Path(output) / table.name / scale, RunSpec(resume="auto", checkpoint_every=checkpoint_every)
    rows, done = [], {}
    for label, values in planned.items():
        watch.stage(f"{table.name}: {label}")
        key = repr(values)
        if key not in done:  # at the demo's scale rows that differ in the model alone are one run
            done[key] = processes.told(_finished(place / _folder(label), values, spec, watch))
        rows.append({"label": label, "published": dict(table.runs[label].published), "here": _here(done[key])})
    result = {
        "kind": "table",
        "name": table.name,
        "number": table.number,
        "scale": scale,
        "about": table.about,
        "missing": table.missing,
        "rows": rows,
    }
    if not processes.is_main:
        return {}
    write_json(place / TABLE, result)
    return result


def _planned(
    table: PublishedTable, scale: Scale, data: str | None, weights: Path | None, workers: int
) -> dict[str, dict[str, Any]]:
    """Label -> what `retrain` takes."""
    if scale == "demo":
        return {label: _demo(recipe) for label, recipe in table.runs.items()}
    if data is None or weights is None:
        raise SettingsError("--scale full needs --data with ImageNet and --weights with the folder of the weight files")
    spec = DataSpec(data=data, workers=workers)
    for split in SPLITS:
        locate(spec, split)
    return {label: _full(recipe, spec, weights) for label, recipe in table.runs.items()}


def _finished(folder: Path, values: Mapping[str, Any], spec: RunSpec, watch: Watch) -> dict[str, Any]:
    """The result of one run: read where it is there, else made; of the main process."""
    from rmeeto.pipeline.retraining import retrain
    from rmeeto.retrain.engine import Processes

    processes = Processes()
    if (found := processes.told(_read_result(folder, watch) if processes.is_main else None)) is not None:
        return found
    with demo_model() as demo:
        model = values["model"]
        model = dataclasses.replace(model, model=str(demo)) if model.model == "demo" else model
        return retrain(**{**values, "model": model}, output=folder, spec=spec, watch=watch)


def _read_result(folder: Path, watch: Watch) -> dict[str, Any] | None:
    if not (folder / RESULT).is_file():
        return None
    try:
        found: dict[str, Any] = read_json(folder / RESULT)
    except RmeetoError:
        watch.stage(f"{folder / RESULT} is broken; the run is made again")
        return None
    watch.stage(f"{folder} is finished already")
    return found


def _full(recipe: NamedRecipe, data: DataSpec, weights: Path) -> dict[str, Any]:
    values = recipe.values()
    file = weights / (recipe.weights_file or "")
    if not file.is_file():
        raise SettingsError(f"weight file {file} does not exist; fetch it and name its folder with --weights")
    values["model"] = dataclasses.replace(values["model"], weights=str(file))
    values["data"] = data
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
        "speedup": result["speedup"],
        "minutes": result["retrain_seconds"] / 60,
    }


def _folder(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")
