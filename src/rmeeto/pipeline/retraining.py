"""The main job: merge a trained model's tokens, re-train it against its un-merged self, and gather the evidence."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmeeto.data import Augment, Data, DataSpec, open_data
from rmeeto.evaluate import environment
from rmeeto.pipeline.command import typed
from rmeeto.pipeline.evidence import costs_of, merged_copy, picture_tokens, row_of, speeds_of, unmerged_copy
from rmeeto.pipeline.opening import Opened, fitting, open_with_images, require_trained
from rmeeto.pipeline.recipes import to_toml
from rmeeto.pipeline.specs import ModelSpec, ScheduleSpec, SpeedSpec
from rmeeto.pipeline.training import keep_recipe, require_run, run_training, validation, write_model
from rmeeto.pipeline.watch import Unwatched, Watch
from rmeeto.records import Accuracy, Run, Speed, write_json
from rmeeto.reduction import Settings
from rmeeto.report import read_evidence, write_charts, write_report
from rmeeto.retrain import Recipe, RunSpec
from rmeeto.retrain.engine import Processes
from rmeeto.schedule import Schedule

RESULT = "result.json"
PICTURES = 12
_DEFAULT = RunSpec()


@dataclass(frozen=True)
class Job:
    """Everything that a re-training is about, opened and checked before anything is computed.

    Attributes:
        opened: the trained model, un-merged.
        data: its images.
        schedule, settings: how its tokens are merged.
        recipe, augment: how it is re-trained.
        speed: how it is timed.
        output: folder for all that is made.
        spec: how the run is carried out.
        asked: all settings as a recipe's text, which the folder keeps.
        both_places: whether the other rule for the class token's place is evaluated as well.
        note: what a reader of the result must know, one sentence.
    """

    opened: Opened
    data: Data
    schedule: Schedule
    settings: Settings
    recipe: Recipe
    augment: Augment
    speed: SpeedSpec
    output: Path
    spec: RunSpec = _DEFAULT
    both_places: bool = False
    note: str | None = None
    asked: str | None = None


def retrain(
    model: ModelSpec,
    data: DataSpec,
    schedule: ScheduleSpec,
    settings: Settings,
    recipe: Recipe,
    augment: Augment,
    speed: SpeedSpec,
    output: Path,
    *,
    spec: RunSpec = _DEFAULT,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Make a trained model faster: merge, re-train, measure.

    Args:
        model: the folder of a trained model, or a name with a weight file.
        data: the images it was trained on.
        schedule: how many tokens leave, and where.
        settings: how tokens are matched and merged.
        recipe: how the merged model is re-trained.
        augment: how training images vary.
        speed: how speed is measured.
        output: gets the faster model, result.json, report.html and the run's files.
        spec: how the run is carried out. Under torchrun all processes call this; the main one measures, writes, tells.
        watch: told how it goes.

    Returns:
        what result.json holds; nothing in processes that are not the main one.

    Raises:
        RmeetoError: a kind of it for each input that cannot be.
    """
    require_trained(model)
    watch = watch or Unwatched()
    data = fitting(data, recipe.micro_batch(Processes().count))
    opened, opened_data = open_with_images(model, lambda form: open_data(data, form), watch)
    built = schedule.build(opened.model.num_tokens, opened.model.config.depth, protected=opened.model.num_protected)
    opened = dataclasses.replace(opened, model=unmerged_copy(opened.model))
    values = {"model": model, "data": data, "schedule": schedule, "settings": settings, "recipe": recipe}
    asked = to_toml("retrain", {**values, "augment": augment, "speed": speed}, command=typed())
    job = Job(opened, opened_data, built, settings, recipe, augment, speed, Path(output), spec, asked=asked)
    return carry_out(job, watch=watch)


def carry_out(job: Job, *, watch: Watch) -> dict[str, Any]:
    """Evaluate, merge, evaluate, re-train, evaluate, measure, and write it all down."""
    processes = Processes()
    watch = watch if processes.is_main else Unwatched()
    unmerged = job.opened.model
    student = dataclasses.replace(job.opened, model=merged_copy(unmerged, job.schedule, job.settings))
    require_run(student, unmerged, job.data, job.recipe, job.augment, job.output, job.spec)
    if processes.is_main and job.asked is not None:
        keep_recipe(job.asked, job.output)
    validate = validation(job.data, watch)
    models = {"unmerged": unmerged, "merged": merged_copy(unmerged, job.schedule, job.settings)}
    if job.both_places:
        other = dataclasses.replace(job.settings, class_place="official")
        models["merged_official_place"] = merged_copy(unmerged, job.schedule, other)
    accuracies: dict[str, Accuracy] = {}
    for name, model in models.items():
        accuracies[name] = validate(model)
        watch.stage(f"{name.replace('_', ' ')}: top-1 {accuracies[name].top1:.2f} on {accuracies[name].images} images")
    run = run_training(student, unmerged, job.data, job.recipe, job.augment, job.output, job.spec, watch=watch)
    models["retrained"] = student.model
    accuracies["retrained"] = validate(student.model)
    if not processes.is_main:
        return {}
    watch.stage(
        f"re-trained: top-1 {accuracies['retrained'].top1:.2f} after {run.images} images in {run.seconds:.0f} s"
    )
    speeds = speeds_of(models, job.speed, watch)
    costs = {name: costs_of(model) for name, model in models.items()}
    rows = {name: row_of(model, costs[name], accuracies[name], speeds[name]) for name, model in models.items()}
    result = _result(job, rows, speeds, run, costs["retrained"].conventions)
    _write(job, student, result, run, accuracies, speeds)
    return result


def _result(
    job: Job, rows: dict[str, Any], speeds: dict[str, Speed], run: Run, conventions: dict[str, str]
) -> dict[str, Any]:
    opened, speed = job.opened, speeds["retrained"]
    protected, tokens = opened.model.num_protected, opened.model.num_tokens
    return {
        "kind": "result",
        "model": opened.name,
        "data": job.data.spec.data,
        **({} if job.note is None else {"note": job.note}),
        "images": {"train": len(job.data.train), "validation": len(job.data.val)},
        "schedule": list(job.schedule.removals),
        "reduction": job.settings.to_dict(),
        **rows,
        "speedup": speed.ratio,
        "speedup_low": speed.ratio_low,
        "speedup_high": speed.ratio_high,
        "retrain_seconds": run.seconds,
        "retrain_images": run.images,
        "token_reduction": job.schedule.reduction(tokens, protected=protected),
        "lengths": list(job.schedule.lengths(tokens, protected=protected)),
        "conventions": conventions,
        "recipe": job.recipe.to_dict(),
        "augment": job.augment.to_dict(),
        "speed_setting": {
            "batch": speed.batch,
            "threads": speed.threads,
            "warmup": speed.warmup,
            "repeats": len(speed.seconds),
            "device": speed.device,
            "dtype": speed.dtype,
            "cuda_graph": speed.cuda_graph,
        },
        "environment": environment(),
    }


def _write(
    job: Job,
    student: Opened,
    result: dict[str, Any],
    run: Run,
    accuracies: dict[str, Accuracy],
    speeds: dict[str, Speed],
) -> None:
    output = job.output
    measured = {name: result["retrained"][name] for name in ("top1", "top5", "gflops", "images_per_second")}
    write_model(student, output, {"retrained": measured, "speedup": result["speedup"]})
    run.write(output / "run.json")
    write_json(output / "accuracy.json", {name: record.to_dict() for name, record in accuracies.items()})
    write_json(output / "speed.json", {name: record.to_dict() for name, record in speeds.items()})
    write_json(output / RESULT, result)
    picture_tokens(student.model, job.data, output, images=PICTURES)
    write_charts(output / "charts", read_evidence(output))
    write_report(output)
