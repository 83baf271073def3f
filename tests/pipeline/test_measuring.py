"""`evaluate`, `benchmark` and `doctor`: records that programs can read."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from rmeeto import pipeline
from rmeeto.cli.texts import benchmark_text
from rmeeto.data import DataSpec
from rmeeto.errors import DataError, ScheduleError, SettingsError
from rmeeto.pipeline import ModelSpec, PrecisionSpec, ScheduleSpec, evidence
from rmeeto.pipeline.watch import Unwatched
from rmeeto.records import Speed
from rmeeto.reduction import Settings

from .conftest import NANO, SCHEDULE, SPEED

MEASURED = {"speed", "gflops", "gflops_paper", "schedule", "tokens"}


def test_random_weights_are_not_evaluated(photos: DataSpec) -> None:
    with pytest.raises(SettingsError, match="vim_nano comes without trained weights"):
        pipeline.evaluate(NANO, photos)


def test_evaluating_merged(trained: Path, photos: DataSpec) -> None:
    """How tokens are merged matters, and the batch does not."""
    spec = ModelSpec(model=str(trained))
    plain = pipeline.evaluate(spec, photos)
    merged = pipeline.evaluate(spec, photos, schedule=ScheduleSpec(r=8))
    pruned = pipeline.evaluate(spec, photos, schedule=ScheduleSpec(r=8), settings=Settings(mode="prune"))
    assert len({plain.loss, merged.loss, pruned.loss}) == 3
    by_fives = pipeline.evaluate(spec, dataclasses.replace(photos, val_batch_size=5), schedule=ScheduleSpec(r=8))
    assert by_fives.top1 == merged.top1
    assert by_fives.loss == pytest.approx(merged.loss, rel=1e-5)


def test_settings_without_a_schedule_need_a_model_that_merges(trained: Path, photos: DataSpec) -> None:
    with pytest.raises(SettingsError, match="no schedule came with this model"):
        pipeline.evaluate(ModelSpec(model=str(trained)), photos, settings=Settings())


def test_evaluating_opens_validation_images_alone(trained: Path, photos: DataSpec, tmp_path: Path) -> None:
    only = DataSpec(data=str(Path(photos.data) / "missing"), val_data=str(Path(photos.data) / "val"))
    assert pipeline.evaluate(ModelSpec(model=str(trained)), only).images == 12
    with pytest.raises(DataError, match="does not exist"):
        pipeline.evaluate(ModelSpec(model=str(trained)), DataSpec(data=str(tmp_path / "gone")))


def test_benchmark(trained: Path) -> None:
    found = pipeline.benchmark(ModelSpec(model=str(trained)), SPEED, schedule=SCHEDULE)
    json.dumps(found, allow_nan=False)
    assert found.keys() == {"kind", "model", "unmerged", "merged", "conventions", "environment"}
    assert found["unmerged"].keys() == found["merged"].keys() == MEASURED
    assert (found["unmerged"]["tokens"], found["merged"]["tokens"]) == (17, 13)
    assert (found["unmerged"]["schedule"], found["merged"]["schedule"]) == (None, [0, 4, 0, 0])
    assert found["merged"]["gflops"] < found["unmerged"]["gflops"]
    assert "merges counted" in found["conventions"]["gflops_paper"]
    speed = Speed.from_dict(found["merged"]["speed"])
    assert (speed.peer, speed.batch, speed.warmup, len(speed.seconds)) == ("unmerged", 2, 1, 2)


@pytest.mark.parametrize(("which", "schedule"), [("faster", [0, 4, 0, 0]), ("trained", None)])
def test_benchmark_with_the_schedule_that_came_with_the_model(
    which: str, schedule: list[int] | None, faster: tuple[Path, dict[str, Any]], trained: Path
) -> None:
    found = pipeline.benchmark(ModelSpec(model=str({"faster": faster[0], "trained": trained}[which])), SPEED)
    assert found["unmerged"]["tokens"] == 17
    assert ("merged" in found) == (schedule is not None)
    assert schedule is None or found["merged"]["schedule"] == schedule
    assert ("merges counted" in found["conventions"]["gflops_paper"]) == (schedule is not None)


def test_benchmark_of_random_weights_tells_how_far_it_is() -> None:
    totals = []

    class Counting(Unwatched):
        def counting(self, what: str, total: int) -> Any:
            totals.append((what, total))
            return super().counting(what, total)

    found = pipeline.benchmark(NANO, SPEED, schedule=SCHEDULE, watch=Counting())
    assert totals == [("measuring speed", 2)]
    assert found["model"] == "vim_nano"


@pytest.mark.parametrize("problem", [None, "operation not permitted when stream is capturing\nmore of it"])
def test_models_that_cannot_be_recorded_are_called(monkeypatch: pytest.MonkeyPatch, problem: str | None) -> None:
    told = []

    class Telling(Unwatched):
        def stage(self, line: str) -> None:
            told.append(line)

    def record(model: Any, _example: torch.Tensor) -> Any:
        if problem is not None and model == "second":
            raise RuntimeError(problem)
        return f"graph of {model}"

    monkeypatch.setattr(evidence, "Replay", record)
    models = {"a": "first", "b": "second"}
    found = evidence.recorded(models, torch.zeros(1), Telling())
    if problem is None:
        assert (found, told) == ({"a": "graph of first", "b": "graph of second"}, [])
    else:
        assert found is models
        assert told == [
            "measuring calls from Python, for there is no CUDA graph: operation not permitted when stream is capturing"
        ]


def test_measurements_that_cannot_be(trained: Path) -> None:
    spec = ModelSpec(model=str(trained))
    with pytest.raises(ScheduleError, match="r = 9 after block 1 is too large"):
        pipeline.benchmark(spec, SPEED, schedule=ScheduleSpec(r=9))
    many = (os.cpu_count() or 1) + 1
    with pytest.raises(SettingsError, match=f"threads = {many} is more than"):
        pipeline.benchmark(spec, dataclasses.replace(SPEED, threads=many), schedule=SCHEDULE)


no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="8-bit products are computed on CPUs")
BLOCKS = ("block", "blocks")
TOKENS = ("token_match", "token_plan", "token_merge", "bipartite_merge")


def test_doctor() -> None:
    found = pipeline.doctor()
    json.dumps(found, allow_nan=False)
    assert found["kind"] == "doctor"
    assert {"cpu", "cores", "threads", "gpus", "python", "platform", "packages"} <= found["environment"].keys()
    assert {"torch", "timm"} <= found["environment"]["packages"].keys()
    ops = {line["op"] for line in found["backends"]}
    assert ops == {"selective_scan", "causal_conv", "bimamba", "rms_norm", *BLOCKS, *TOKENS, "linear"}
    for op in ops:
        lines = [line for line in found["backends"] if line["op"] == op]
        assert {line["backend"] for line in lines} >= {"reference", "native"}
        assert 1 <= sum(line["used"] for line in lines) <= 1 + bool(found["environment"]["gpus"])
        assert all(line["why"] or line["used"] for line in lines)
    native_is_used = any(line["used"] for line in found["backends"] if line["backend"] == "native")
    assert native_is_used == (found["native"] is not None)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("int8", marks=no_gpu)])
def test_benchmark_in_other_numbers(trained: Path, precision: Any) -> None:
    spec = ModelSpec(model=str(trained))
    found = pipeline.benchmark(spec, SPEED, schedule=SCHEDULE, precision=PrecisionSpec(precision))
    for name in ("unmerged", "merged"):
        lower = found[f"{name}_{precision}"]
        assert lower.keys() == MEASURED | {"error"}
        assert 0 < lower["error"] < 0.3
        assert lower["gflops"] == found[name]["gflops"]
        speed = Speed.from_dict(lower["speed"])
        assert (speed.dtype, speed.peer) == (precision, "unmerged")
    text = benchmark_text(found)
    assert f"un-merged, {precision}" in text
    assert "error of the logits in other numbers: un-merged, " in text


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(SettingsError, match="precision = 'fp4' is unknown; choose one of fp32, bf16, int8"):
        PrecisionSpec("fp4")  # type: ignore[arg-type]
