"""`pretrain`: what it leaves behind, how it resumes, and what it refuses before hours of work."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rmeeto
from rmeeto import pipeline
from rmeeto.data import Augment, DataSpec
from rmeeto.errors import CheckpointError, DataError, OutputError, RmeetoError, SettingsError, ShapeError
from rmeeto.models import Vim
from rmeeto.pipeline import ModelSpec
from rmeeto.pipeline.watch import Unwatched
from rmeeto.records import Run
from rmeeto.retrain import Checkpoints, RunSpec
from rmeeto.retrain.progress import Silent

from .conftest import AUGMENT, CLASSES, NANO, RECIPE, RESUMING, InterruptedAt, digests, paint


def _pretrain(data: DataSpec, output: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {"model": NANO, "recipe": RECIPE, "augment": AUGMENT, **changes}
    return pipeline.pretrain(data=data, output=output, **settings)


def test_it_leaves_a_model_and_its_records(trained: Path, photos: DataSpec) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints", "config.json", "first_batch.png", "log.jsonl", "model.safetensors", "recipe.toml", "run.json",
        "tensorboard",
    }  # fmt: skip
    run = Run.read(trained / "run.json")
    assert (run.verb, len(run.epochs), run.images) == ("pretrain", 2, 2 * 24)
    config = json.loads((trained / "config.json").read_text())
    assert config["rmeeto"]["schedule"] is None
    assert config["pretrained_cfg"]["label_names"] == list(CLASSES)
    assert config["rmeeto"]["records"]["run"]["recipe"] == RECIPE.to_dict()
    accuracy = pipeline.evaluate(ModelSpec(model=str(trained)), photos)
    assert accuracy.top1 == run.epochs[-1]["top1"]
    assert accuracy.images == 12


def test_a_resumed_run_is_the_run(trained: Path, photos: DataSpec, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _pretrain(photos, tmp_path, watch=InterruptedAt(2))
    assert not (tmp_path / "model.safetensors").exists()
    run = _pretrain(photos, tmp_path, spec=RESUMING)
    assert (tmp_path / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert [epoch["loss"] for epoch in run.epochs] == [epoch["loss"] for epoch in Run.read(trained / "run.json").epochs]


def test_weights_continue_from_a_file(trained: Path, photos: DataSpec, tmp_path: Path) -> None:
    weights = dataclasses.replace(NANO, weights=str(trained / "model.safetensors"))
    still = dataclasses.replace(RECIPE, epochs=1, lr=1e-30, min_lr=0.0)
    run = _pretrain(photos, tmp_path / "on", model=weights, recipe=still)
    assert run.epochs[-1]["top1"] == Run.read(trained / "run.json").epochs[-1]["top1"]


def test_the_average_is_the_model_where_one_is_kept(photos: DataSpec, tmp_path: Path) -> None:
    averaging = dataclasses.replace(RECIPE, epochs=1, ema_decay=0.9)
    run = _pretrain(photos, tmp_path, recipe=averaging)
    assert pipeline.evaluate(ModelSpec(model=str(tmp_path)), photos).top1 == run.epochs[-1]["ema_top1"]
    average = (Checkpoints(tmp_path / "checkpoints").last()).with_name("ema.safetensors")
    assert average.read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("dropping", [{"drop_path": 0.5}, {"patch_drop": 0.9}])
def test_dropping_ends_with_training(dropping: dict[str, float], photos: DataSpec, tmp_path: Path) -> None:
    plain = _pretrain(photos, tmp_path / "plain", recipe=dataclasses.replace(RECIPE, epochs=1))
    run = _pretrain(photos, tmp_path, recipe=dataclasses.replace(RECIPE, epochs=1, **dropping))
    assert run.epochs[-1]["loss"] != plain.epochs[-1]["loss"]
    model = rmeeto.load(tmp_path)
    assert isinstance(model, Vim)
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(model.train()(images), model(images))


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"recipe": dataclasses.replace(RECIPE, batch_size=32)}, DataError, "24 training images do not fill a batch"),
        ({"augment": dataclasses.replace(AUGMENT, auto_augment="rand-q9")}, SettingsError, "'rand-q9' cannot be read"),
        ({"model": ModelSpec(model="{faster}")}, SettingsError, "is a merged model; re-train it with `rmeeto retrain`"),
        ({"model": dataclasses.replace(NANO, img_size=7)}, ShapeError, "7x7 does not fit"),
        ({"output": Path("{file}")}, OutputError, "is a file; name a folder"),
        ({"output": Path("{file}/run")}, OutputError, "Not a directory"),
        ({"output": Path("{trained}")}, OutputError, "holds a run already; add --resume auto"),
        ({"output": Path("{model}")}, OutputError, "holds a model already, which the run would replace"),
        ({"output": Path("{model}"), "spec": RESUMING}, OutputError, "holds a model already"),
        (
            {"output": Path("{trained}"), "spec": RESUMING, "recipe": dataclasses.replace(RECIPE, epochs=3)},
            CheckpointError,
            r"another run: epochs \(2, 3\)",
        ),
        (
            {"output": Path("{trained}"), "spec": RESUMING, "augment": Augment.none()},
            CheckpointError,
            r"another run: augment\.crop \('padded', 'none'\)",
        ),
        (
            {"output": Path("{trained}"), "spec": RESUMING, "model": dataclasses.replace(NANO, state_size=8)},
            CheckpointError,
            r"another run: sizes\.state_size",
        ),
    ],
    ids=[
        "few images", "augmentation", "merged model", "input size", "file", "in a file", "a run", "a model",
        "a model, resumed", "other recipe", "other augmentation", "other sizes",
    ],
)  # fmt: skip
def test_runs_that_cannot_be(
    changes: dict[str, Any], kind: type[RmeetoError], told: str, trained: Path, faster: Any, photos: DataSpec,
    tmp_path: Path,
) -> None:  # fmt: skip
    """They are refused before anything is trained, and what was there stays as it was."""
    (tmp_path / "file").write_text("mine")
    shutil.copytree(trained, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints"))
    places = {
        "trained": trained, "faster": faster[0], "file": tmp_path / "file", "model": tmp_path / "model",
    }  # fmt: skip
    changes = {"output": tmp_path / "new", **changes}
    changes["output"] = Path(str(changes["output"]).format(**places))
    if "model" in changes:
        changes["model"] = dataclasses.replace(changes["model"], model=changes["model"].model.format(**places))
    before = digests(trained), digests(tmp_path)
    with pytest.raises(kind, match=told):
        _pretrain(photos, **changes)
    assert (digests(trained), digests(tmp_path)) == before


def _cut(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:60])


def _text(image: Path) -> None:
    image.write_text("a text")


@pytest.mark.parametrize("spoil", [_cut, _text], ids=["truncated", "text"])
def test_an_unreadable_image_costs_nothing_that_was_saved(
    spoil: Callable[[Path], None], photos: DataSpec, tmp_path: Path
) -> None:
    """It is met in the middle of the second epoch; repaired, the run goes on from the first."""
    shutil.copytree(photos.data, tmp_path / "photos")
    own = DataSpec(data=str(tmp_path / "photos"))
    with pytest.raises(KeyboardInterrupt):
        _pretrain(own, tmp_path / "run", watch=InterruptedAt(1))
    image = tmp_path / "photos" / "train" / "green" / "3.png"
    whole = image.read_bytes()
    spoil(image)
    weights = tmp_path / "run" / "checkpoints" / "epoch-0001" / "weights.safetensors"
    saved = weights.read_bytes()
    with pytest.raises(DataError, match=r"image green/3\.png of .* cannot be read \(.*\); repair or remove it"):
        _pretrain(own, tmp_path / "run", spec=RESUMING)
    assert weights.read_bytes() == saved
    image.write_bytes(whole)
    assert len(_pretrain(own, tmp_path / "run", spec=RESUMING).epochs) == 2


def test_an_unreadable_validation_image_costs_no_epoch(photos: DataSpec, trained: Path, tmp_path: Path) -> None:
    """It is met after the first epoch; repaired, that epoch is validated and not trained again."""
    shutil.copytree(photos.data, tmp_path / "photos")
    own = DataSpec(data=str(tmp_path / "photos"))
    image = tmp_path / "photos" / "val" / "red" / "1.png"
    whole = image.read_bytes()
    _cut(image)
    with pytest.raises(DataError, match=r"image red/1\.png of .* cannot be read"):
        _pretrain(own, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoints" / "epoch-0001" / "weights.safetensors"
    first = weights.read_bytes()
    image.write_bytes(whole)
    run = _pretrain(own, tmp_path / "run", spec=RESUMING)
    assert weights.read_bytes() == first
    assert [epoch["top1"] for epoch in run.epochs] == [epoch["top1"] for epoch in Run.read(trained / "run.json").epochs]


def test_colours_become_grey_where_the_model_sees_grey(tmp_path: Path) -> None:
    data = DataSpec(data=str(paint(tmp_path / "few", train=2, val=1)))
    few = dataclasses.replace(RECIPE, epochs=1, batch_size=4)
    run = _pretrain(data, tmp_path / "run", model=dataclasses.replace(NANO, in_chans=1), recipe=few)
    assert run.images == 4


class _Heard(Unwatched):
    """Somebody who keeps the lines of a training run."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def training(self) -> Silent:
        progress = Silent()
        progress.note = self.lines.append  # type: ignore[method-assign]
        return progress


def test_bad_images_are_listed_and_told_once_an_epoch(tmp_path: Path) -> None:
    root = paint(tmp_path / "photos")
    for name in ("train/red/3.png", "val/blue/1.png"):
        (root / name).write_text("a letter")
    heard, output = _Heard(), tmp_path / "run"
    (output / "old").mkdir(parents=True)
    (output / "bad_images.jsonl").write_text("of another run\n")
    run = _pretrain(DataSpec(str(root), max_bad_images=0.1), output, watch=heard)
    assert [epoch["steps"] for epoch in run.epochs] == [3, 3]
    listed = [json.loads(line) for line in (output / "bad_images.jsonl").read_text().splitlines()]
    assert [line["path"] for line in listed] == ["red/3.png", "blue/1.png"]
    assert [line.split(";")[0] for line in heard.lines] == ["bad images left out: 2"] * 2
    with pytest.raises(DataError, match=r"1 bad of 24 images, and 0\.001 lets 0 pass"):
        _pretrain(DataSpec(str(root)), tmp_path / "strict")


def test_another_part_of_the_images_is_another_run(photos: DataSpec, tmp_path: Path) -> None:
    part = dataclasses.replace(photos, train_share=0.5)
    _pretrain(part, tmp_path, recipe=dataclasses.replace(RECIPE, epochs=1))
    other = dataclasses.replace(part, subset_seed=1)
    with pytest.raises(CheckpointError, match=r"subset.seed \(0, 1\)"):
        _pretrain(other, tmp_path, recipe=dataclasses.replace(RECIPE, epochs=1), spec=RunSpec(resume="auto"))


def test_the_images_may_move_but_not_change(photos: DataSpec, tmp_path: Path) -> None:
    once, twice = (dataclasses.replace(RECIPE, epochs=1), RunSpec(resume="auto"))
    moved = dataclasses.replace(photos, data=str(shutil.copytree(photos.data, tmp_path / "elsewhere")))
    _pretrain(photos, tmp_path / "run", recipe=once)
    _pretrain(moved, tmp_path / "run", recipe=once, spec=twice)
    with pytest.raises(CheckpointError, match=r"validation \('12 images, .*', '5 images, "):
        _pretrain(dataclasses.replace(photos, val_limit=5), tmp_path / "run", recipe=once, spec=twice)
    Path(moved.data, "train", "red", "0.png").rename(Path(moved.data, "train", "red", "another.png"))
    with pytest.raises(CheckpointError, match=r"data \('24 images, .*', '24 images, "):
        _pretrain(moved, tmp_path / "run", recipe=once, spec=twice)


def test_a_run_that_kept_nothing_leaves_no_evidence(photos: DataSpec, tmp_path: Path) -> None:
    """It ended before its first checkpoint; what comes next in its folder is another run, resumed or not."""
    with pytest.raises(KeyboardInterrupt):
        _pretrain(photos, tmp_path, watch=InterruptedAt(1), augment=Augment.none())
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    before = [(tmp_path / name).read_bytes() for name in ("recipe.toml", "first_batch.png")]
    _pretrain(photos, tmp_path, spec=RESUMING, augment=dataclasses.replace(AUGMENT, erasing=1.0))
    after = [(tmp_path / name).read_bytes() for name in ("recipe.toml", "first_batch.png")]
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert b"erasing = 1.0" in after[0]
