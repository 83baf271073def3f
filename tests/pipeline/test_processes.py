"""Two processes of TorchElastic, as torchrun starts them, do what one does; one that dies is started again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import unittest.mock
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from rmeeto import pipeline
from rmeeto.data import Augment, DataSpec
from rmeeto.pipeline.watch import Unwatched
from rmeeto.records import read_json
from rmeeto.retrain import Checkpoints, Recipe, RunSpec, Silent, Stopped
from rmeeto.retrain.engine import RESTARTS
from rmeeto.retrain.run_spec import Parallel

from .conftest import NANO, RESUMING, retrain

# Python 3.12 warns that a process with torch's threads is forked; the workers use none of them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a forked process cannot use the GPU that these would take"),
]

# All that could differ between processes: images that appear several times, pairs that are mixed, micro-batches,
# an average, dropped paths.
RECIPE = Recipe(
    epochs=2,
    batch_size=8,
    lr=3e-3,
    mixup=0.8,
    cutmix=1.0,
    drop_path=0.3,
    clip_grad=1.0,
    ema_decay=0.9,
    distill_weight=0.5,
)
AUGMENT = Augment(crop="padded", auto_augment="none", erasing=0.5, repeats=3)
DYING_STEP, STOPPING_STEP = 4, 4
PARALLEL: tuple[Parallel, Parallel] = ("ddp", "fsdp")


class AtStep(Unwatched, Silent):
    """Does something to its own process after a step."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.at, self.number = step, number

    def training(self) -> AtStep:
        return self

    def step(self, report: Any) -> None:
        if report.step == self.at and os.environ[RESTARTS] == "0":
            os.kill(os.getpid(), self.number)


def _options(data: DataSpec) -> dict[str, Any]:
    return {"data": dataclasses.replace(data, val_limit=11), "recipe": RECIPE, "augment": AUGMENT}


def _pretrain(data: DataSpec, output: Path, spec: RunSpec, watch: Any = None, **changes: Any) -> Any:
    recipe = dataclasses.replace(RECIPE, distill_weight=0.0, **changes)
    return pipeline.pretrain(NANO, **{**_options(data), "recipe": recipe}, output=output, spec=spec, watch=watch)


def _in_each_process(trained: Path, photos: DataSpec, output: Path) -> None:
    for state in (AcceleratorState, GradientState, PartialState):  # this process was forked from one that ran tests
        state._reset_state()
    torch.set_num_threads(1)
    for slow in ("os.fsync", "rmeeto.pipeline.retraining.write_charts", "rmeeto.pipeline.retraining.write_report"):
        unittest.mock.patch(slow).start()  # for the whole life of this process
    if os.environ[RESTARTS] == "0":
        retrain(trained, output=output / "retrain", **_options(photos))
        _pretrain(photos, output / "fsdp", RunSpec(parallel="fsdp", checkpoint_every=2), accumulate=2)
        for parallel in PARALLEL:
            asked = AtStep(STOPPING_STEP, signal.SIGTERM)  # it is told to the main process alone
            with pytest.raises(Stopped):
                _pretrain(photos, output / f"stopped-{parallel}", RunSpec(parallel=parallel), asked)
        for before, after in (PARALLEL, PARALLEL[::-1]):  # what one way of holding the model left, the other takes up
            if os.environ["RANK"] == "0":
                shutil.copytree(output / f"stopped-{before}", output / f"changed-{after}")
            _pretrain(photos, output / f"changed-{after}", dataclasses.replace(RESUMING, parallel=after))
    _pretrain(photos, output / "dying", RunSpec(checkpoint_every=1), AtStep(DYING_STEP, signal.SIGKILL))


@pytest.fixture(scope="module")
def several(trained: Path, photos: DataSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two processes, one of which dies once."""
    output = tmp_path_factory.mktemp("several")
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, max_restarts=1, start_method="fork", monitor_interval=0.1,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id="test", rdzv_configs={"timeout": 60},
    )  # fmt: skip
    untouched = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with unittest.mock.patch.dict(os.environ, untouched, clear=True):  # nobody divides the processor for us
        elastic_launch(config, _in_each_process)(trained, photos, output)
    return output


def _losses(run: Path) -> list[float]:
    return [epoch["loss"] for epoch in read_json(run / "run.json")["epochs"]]


def _close(one: Path, other: Path) -> None:
    weights, others = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], atol=2e-4, rtol=0, msg=lambda text, name=name: f"{name} {text}")


@pytest.fixture(scope="module")
def alone(photos: DataSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone")
    _pretrain(photos, output, RunSpec())
    return output


def test_two_processes_re_train_as_one(
    several: Path, trained: Path, photos: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("write_charts", "write_report"):
        monkeypatch.setattr(f"rmeeto.pipeline.retraining.{name}", lambda *_arguments: None)
    retrain(trained, output=tmp_path, **_options(photos))
    assert _losses(several / "retrain") == pytest.approx(_losses(tmp_path), abs=1e-5)
    _close(several / "retrain", tmp_path)
    one, other = (read_json(folder / "accuracy.json") for folder in (several / "retrain", tmp_path))
    for name, record in one.items():
        assert record["images"] == 11
        assert record["top1"] == other[name]["top1"]
        assert record["loss"] == pytest.approx(other[name]["loss"], abs=1e-5)


def test_parameters_in_parts_are_trained_as_whole_ones(several: Path, alone: Path) -> None:
    assert _losses(several / "fsdp") == pytest.approx(_losses(alone), abs=1e-5)
    _close(several / "fsdp", alone)


def test_a_process_that_dies_is_started_again_and_nothing_is_lost(several: Path, alone: Path) -> None:
    assert _losses(several / "dying") == pytest.approx(_losses(alone), abs=1e-5)
    _close(several / "dying", alone)
    lines = [json.loads(line) for line in (several / "dying" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2]


@pytest.mark.parametrize("parallel", PARALLEL)
def test_all_processes_leave_after_the_same_step_and_one_alone_goes_on(
    parallel: Parallel, several: Path, alone: Path, photos: DataSpec
) -> None:
    run = several / f"stopped-{parallel}"
    (newest, *_) = Checkpoints(run / "checkpoints").all()
    assert newest.name == f"epoch-0001-step-{STOPPING_STEP:08d}"
    _pretrain(photos, run, RESUMING)
    assert _losses(run) == pytest.approx(_losses(alone), abs=1e-5)
    _close(run, alone)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_a_run_goes_on_with_the_model_held_otherwise(parallel: Parallel, several: Path, alone: Path) -> None:
    assert _losses(several / f"changed-{parallel}") == pytest.approx(_losses(alone), abs=1e-5)
    _close(several / f"changed-{parallel}", alone)
