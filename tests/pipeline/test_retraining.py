"""`retrain`: the whole job, its evidence, and what it must not touch."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import rmeeto
from rmeeto import pipeline
from rmeeto.data import DataSpec, open_data
from rmeeto.errors import CheckpointError, SettingsError
from rmeeto.models import Vim
from rmeeto.pipeline import ModelSpec, ScheduleSpec
from rmeeto.pipeline.evidence import merged_copy, unmerged_copy
from rmeeto.pipeline.opening import fitting, open_with_images
from rmeeto.pipeline.retraining import Job, carry_out
from rmeeto.pipeline.training import run_training
from rmeeto.pipeline.watch import Unwatched
from rmeeto.records import Accuracy, Run, Speed, read_json
from rmeeto.reduction import Settings, attached
from rmeeto.retrain import RunSpec

from .conftest import AUGMENT, NANO, RECIPE, RESUMING, SCHEDULE, SPEED, InterruptedAt, digests, retrain

ROWS = ("unmerged", "merged", "retrained")
COLUMNS = ("top1", "top5", "tokens", "gflops", "gflops_paper", "images_per_second")


def _job(trained: Path, photos: DataSpec, output: Path, **changes: Any) -> Job:
    opened, data = open_with_images(
        ModelSpec(model=str(trained)), lambda form: open_data(fitting(photos, RECIPE.micro_batch()), form)
    )
    schedule = SCHEDULE.build(opened.model.num_tokens, opened.model.config.depth)
    return Job(opened, data, schedule, Settings(), RECIPE, AUGMENT, SPEED, output, **changes)


def _model(folder: Path) -> Vim:
    model = rmeeto.load(folder)
    assert isinstance(model, Vim)
    return model


@pytest.fixture
def _without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds, and one run with them is enough."""
    for name in ("write_charts", "write_report"):
        monkeypatch.setattr(f"rmeeto.pipeline.retraining.{name}", lambda *_arguments: None)


def test_it_leaves_all_of_its_evidence(faster: tuple[Path, dict[str, Any]]) -> None:
    output, _ = faster
    assert {path.name for path in output.iterdir()} == {
        "accuracy.json", "charts", "checkpoints", "config.json", "first_batch.png", "images.json", "log.jsonl",
        "model.safetensors", "recipe.toml", "report.html", "result.json", "run.json", "speed.json", "tensorboard",
        "tokens", "tokens.png",
    }  # fmt: skip
    assert len(list((output / "tokens").glob("*.png"))) == 12
    page = (output / "report.html").read_text()
    assert "<html" in page
    assert not re.findall(r"\bsrc=.(?!data:)|https?://(?!www\.w3\.org/)", page)
    assert {name: Accuracy.from_dict(record).top1 for name, record in read_json(output / "accuracy.json").items()} == {
        name: read_json(output / "result.json")[name]["top1"] for name in ROWS
    }
    speeds = {name: Speed.from_dict(record) for name, record in read_json(output / "speed.json").items()}
    assert {name: speed.peer for name, speed in speeds.items()} == {
        "unmerged": None, "merged": "unmerged", "retrained": "unmerged",
    }  # fmt: skip
    assert Run.read(output / "run.json").verb == "retrain"


def test_result_is_complete(faster: tuple[Path, dict[str, Any]]) -> None:
    output, told = faster
    result = read_json(output / "result.json")
    assert result == json.loads(json.dumps(told))
    assert all(math.isfinite(result[row][column]) for row in ROWS for column in COLUMNS)
    assert [result[row]["tokens"] for row in ROWS] == [17, 13, 13]
    assert result["merged"]["gflops"] == result["retrained"]["gflops"] < result["unmerged"]["gflops"]
    assert result["merged"]["gflops_paper"] < result["unmerged"]["gflops_paper"]
    assert "merges counted" in result["conventions"]["gflops_paper"]
    assert "forward" in result["conventions"]["gflops"]
    assert result["speedup_low"] <= result["speedup"] <= result["speedup_high"]
    assert result["speed_setting"]["batch"] == SPEED.speed_batch
    assert result["speed_setting"]["repeats"] == SPEED.speed_repeats
    assert result["retrain_seconds"] > 0
    assert result["retrain_images"] == 48
    assert result["environment"]["packages"]["torch"] == version("torch")
    assert result["schedule"] == [0, 4, 0, 0]
    assert result["images"] == {"train": 24, "validation": 12}
    assert "merged_official_place" not in result


def test_the_faster_model_does_what_was_recorded(faster: tuple[Path, dict[str, Any]], photos: DataSpec) -> None:
    output, result = faster
    attachment = attached(_model(output))
    assert attachment is not None
    assert attachment[0].removals == (0, 4, 0, 0)
    assert attachment[1] == Settings()
    assert pipeline.evaluate(ModelSpec(model=str(output)), photos).top1 == result["retrained"]["top1"]


def test_a_model_that_merges_is_evaluated_by_other_settings(
    faster: tuple[Path, dict[str, Any]], photos: DataSpec
) -> None:
    spec, pruning = ModelSpec(model=str(faster[0])), Settings(mode="prune")
    own, pruned = pipeline.evaluate(spec, photos), pipeline.evaluate(spec, photos, settings=pruning)
    assert own.loss != pruned.loss
    assert pipeline.evaluate(spec, photos, schedule=SCHEDULE).loss == own.loss
    assert pipeline.evaluate(spec, photos, schedule=SCHEDULE, settings=pruning).loss == pruned.loss


def test_merging_alone_is_what_evaluate_merges(
    faster: tuple[Path, dict[str, Any]], trained: Path, photos: DataSpec
) -> None:
    spec = ModelSpec(model=str(trained))
    assert pipeline.evaluate(spec, photos).top1 == faster[1]["unmerged"]["top1"]
    assert pipeline.evaluate(spec, photos, schedule=SCHEDULE).top1 == faster[1]["merged"]["top1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch's gradients on a GPU are not the same to the last bit")
@pytest.mark.usefixtures("_without_charts")
def test_a_resumed_run_is_the_run(
    faster: tuple[Path, dict[str, Any]], trained: Path, photos: DataSpec, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        retrain(trained, photos, tmp_path, watch=InterruptedAt(4))  # un-merged, merged, first epoch, second epoch
    result = retrain(trained, photos, tmp_path, spec=RESUMING)
    assert (tmp_path / "model.safetensors").read_bytes() == (faster[0] / "model.safetensors").read_bytes()
    assert {row: result[row]["top1"] for row in ROWS} == {row: faster[1][row]["top1"] for row in ROWS}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schedule": ScheduleSpec(r=5)}, r"schedule \(\[0, 4, 0, 0\], \[0, 5, 0, 0\]\)"),
        ({"settings": Settings(class_place="official")}, r"reduction\.class_place \('exact', 'official'\)"),
        ({"recipe": dataclasses.replace(RECIPE, lr=1e-3)}, r"lr \(0\.003, 0\.001\)"),
        ({"model": "other"}, r"teacher \("),
    ],
    ids=["schedule", "settings", "recipe", "teacher"],
)
def test_another_run_is_not_resumed(
    changes: dict[str, Any], told: str, faster: tuple[Path, dict[str, Any]], trained: Path, photos: DataSpec,
    tmp_path: Path,
) -> None:  # fmt: skip
    """It is refused before the models are evaluated."""
    output, _ = faster
    if changes.pop("model", None):
        trained = tmp_path / "other"
        pipeline.pretrain(NANO, photos, dataclasses.replace(RECIPE, epochs=1, seed=7), AUGMENT, trained)
    before = digests(output)
    with pytest.raises(CheckpointError, match=f"made by another run: {told}"):
        retrain(trained, photos, output, spec=RESUMING, watch=InterruptedAt(1), **changes)
    assert digests(output) == before


@pytest.mark.usefixtures("_without_charts")
def test_a_merged_model_is_re_trained_against_its_un_merged_self(
    faster: tuple[Path, dict[str, Any]], photos: DataSpec, tmp_path: Path
) -> None:
    once = dataclasses.replace(RECIPE, epochs=1)
    result = retrain(faster[0], photos, tmp_path, recipe=once, schedule=ScheduleSpec(r=6))
    assert [result[row]["tokens"] for row in ROWS] == [17, 11, 11]


def test_random_weights_are_not_re_trained(photos: DataSpec, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="vim_tiny comes without trained weights"):
        retrain(Path("vim_tiny"), photos, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_changes_the_student_alone(trained: Path, photos: DataSpec, tmp_path: Path) -> None:
    job = _job(trained, photos, tmp_path)
    teacher = job.opened.model
    before = copy.deepcopy(teacher.state_dict())
    student = dataclasses.replace(job.opened, model=merged_copy(teacher, job.schedule, job.settings))
    teacher.train()  # whatever it was: the loop must put it into eval mode
    run_training(student, teacher, job.data, RECIPE, AUGMENT, tmp_path, RunSpec(), watch=Unwatched())
    assert not teacher.training
    assert not student.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert not all(torch.equal(before[name], tensor) for name, tensor in student.model.state_dict().items())


@pytest.mark.parametrize("make", [lambda model, job: merged_copy(model, job.schedule, job.settings),
                                  lambda model, job: unmerged_copy(model)], ids=["merged", "un-merged"])  # fmt: skip
def test_copies_share_nothing(make: Any, trained: Path, photos: DataSpec, tmp_path: Path) -> None:
    job = _job(trained, photos, tmp_path)
    made = make(job.opened.model, job)
    own = {tensor.data_ptr() for tensor in made.state_dict().values()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in job.opened.model.state_dict().values())
    assert attached(job.opened.model) is None


@pytest.mark.usefixtures("_without_charts")
def test_both_places_of_the_class_token(trained: Path, photos: DataSpec, tmp_path: Path) -> None:
    job = _job(trained, photos, tmp_path, both_places=True)
    once = dataclasses.replace(job, recipe=dataclasses.replace(RECIPE, epochs=1))
    result = carry_out(once, watch=Unwatched())
    official = Settings(class_place="official")
    merged = pipeline.evaluate(ModelSpec(model=str(trained)), photos, schedule=SCHEDULE, settings=official)
    assert result["merged_official_place"]["top1"] == merged.top1
    assert result["merged_official_place"]["tokens"] == 13
    assert result["reduction"]["class_place"] == "exact"
