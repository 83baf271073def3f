"""Models and images open so that they fit, or say why they do not."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import rmeeto
from rmeeto.data import DataSpec, InputSpec, open_data
from rmeeto.errors import RmeetoError, SettingsError, ShapeError, WeightsError
from rmeeto.hub import read_bundle
from rmeeto.models import create
from rmeeto.models.embed import resize_positions
from rmeeto.pipeline import ModelSpec
from rmeeto.pipeline.opening import fitting, open_model, open_with_images, other_names, require_trained
from rmeeto.pipeline.training import write_model
from rmeeto.pipeline.watch import Unwatched
from rmeeto.reduction import attached

from .conftest import CLASSES, NANO, paint

KEYS = json.loads((Path(__file__).parent.parent / "golden" / "keys_image.json").read_text())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of NANO for three classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    save_file(create("vim_nano", **NANO.sizes(), num_classes=3).state_dict(), path)
    return str(path)


def test_a_named_model_has_the_classes_of_its_images(photos: DataSpec, weights: str) -> None:
    opened, data = open_with_images(dataclasses.replace(NANO, weights=weights), lambda form: open_data(photos, form))
    assert opened.model.num_classes == 3
    assert opened.class_names == data.class_names == CLASSES
    assert opened.form == data.form == InputSpec.of((3, 8, 8))
    assert not opened.model.training


def test_a_folder_brings_its_sizes_and_its_form(trained: Path) -> None:
    opened = open_model(ModelSpec(model=str(trained)))
    assert opened.name == "vim_nano"
    assert opened.form == InputSpec.of((3, 8, 8))
    assert opened.class_names == CLASSES
    assert opened.sizes == {
        "img_size": [8, 8], "in_chans": 3, "embed_dim": 16, "depth": 4, "state_size": 4, "num_classes": 3,
    }  # fmt: skip


def test_positions_are_resized_to_another_input_size(weights: str) -> None:
    small = open_model(dataclasses.replace(NANO, weights=weights), num_classes=3).model
    large = open_model(dataclasses.replace(NANO, weights=weights, img_size=16), num_classes=3).model
    assert large.pos_embed.shape == (1, 65, 16)
    assert torch.equal(large.pos_embed, resize_positions(small.pos_embed, large.config))
    assert torch.equal(large.pos_embed[0, 32], small.pos_embed[0, 8])  # the class token's, in the middle of both
    assert torch.equal(large.head.weight, small.head.weight)


@pytest.mark.parametrize(
    ("spec", "kind", "told"),
    [
        (
            ModelSpec(model="vim_huge"),
            WeightsError,
            "vim_huge is no folder of this machine and no published model; did you mean vim_base[?] `rmeeto models`",
        ),
        (ModelSpec(model="{photos}"), WeightsError, "holds no config.json"),
        (ModelSpec(model="{trained}", img_size=16, depth=2), SettingsError, "brings its own depth, img_size; leave"),
        (ModelSpec(model="{trained}", weights="{weights}"), SettingsError, "brings its own weights; leave"),
        (dataclasses.replace(NANO, img_size=9), ShapeError, "9x9 does not fit patches of 2.*nearest that fits is"),
        (dataclasses.replace(NANO, depth=0), SettingsError, "depth = 0 is not a size"),
        (dataclasses.replace(NANO, in_chans=2), SettingsError, "1 or 3 channels"),
        (dataclasses.replace(NANO, weights="gone.pth"), WeightsError, "no weight file at gone.pth"),
        (dataclasses.replace(NANO, weights="{weights}", embed_dim=32), WeightsError, "another size .*32.*16"),
        (dataclasses.replace(NANO, weights="{weights}", depth=5), WeightsError, r"missing \(layers\.4\."),
    ],
    ids=lambda value: None if isinstance(value, ModelSpec | type) else value[:24],
)
def test_models_that_cannot_be(
    spec: ModelSpec, kind: type[RmeetoError], told: str, trained: Path, photos: DataSpec, weights: str
) -> None:
    places = {"trained": trained, "photos": photos.data, "weights": weights}
    spec = dataclasses.replace(
        spec, model=spec.model.format(**places), weights=spec.weights and spec.weights.format(**places)
    )
    with pytest.raises(kind, match=told):
        open_model(spec, num_classes=3)


def test_a_folder_of_other_classes_is_refused(trained: Path, tmp_path: Path) -> None:
    four = DataSpec(data=str(paint(tmp_path, (*CLASSES, "violet"), train=1, val=1)))
    with pytest.raises(ShapeError, match="tells 3 classes apart and the data has 4; give the data it was trained on"):
        open_with_images(ModelSpec(model=str(trained)), lambda form: open_data(four, form))


@pytest.mark.parametrize(
    ("model", "data", "told"),
    [
        (CLASSES, CLASSES, None),
        (None, CLASSES, None),
        (("green", "blue", "red"), CLASSES, "2 of 3 classes in another order .*'blue' stands where the model has 'gre"),
        (("blue", "green", "rot"), CLASSES, "1 of 3 classes otherwise .*'red' stands where the model has 'rot'"),
    ],
)
def test_other_names_of_classes(model: tuple[str, ...] | None, data: tuple[str, ...], told: str | None) -> None:
    line = other_names(model, data)
    assert (line is None) == (told is None)
    assert told is None or re.search(told, line or "")


def test_other_names_are_told_where_images_are_opened(trained: Path, tmp_path: Path) -> None:
    renamed = DataSpec(data=str(paint(tmp_path, ("cyan", "lime", "pink"), train=1, val=1)))
    told: list[str] = []
    watch = Unwatched()
    watch.stage = told.append  # type: ignore[method-assign]
    open_with_images(ModelSpec(model=str(trained)), lambda form: open_data(renamed, form), watch)
    assert len(told) == 1
    assert told[0].startswith("the data names 3 of 3 classes otherwise than the model does ('cyan' stands where")


def test_a_weight_file_is_read_as_published_ones_are(tmp_path: Path) -> None:
    """What a distillation left beside the network is left out."""
    model = create("vim_nano", **NANO.sizes(), num_classes=3)
    state = {**model.state_dict(), "distill_head.weight": torch.ones(3, 16)}
    torch.save({"model": state, "args": argparse.Namespace(lr=1.0)}, tmp_path / "mine.pth")
    opened = open_model(dataclasses.replace(NANO, weights=str(tmp_path / "mine.pth")), num_classes=3)
    assert torch.equal(opened.model.head.weight.cpu(), model.head.weight)


def test_a_published_name_is_a_trained_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It comes merged as it was re-trained, and what is made of it remembers it."""
    state = {name: torch.zeros(1).expand(shape) for name, shape in KEYS["vim_tiny"].items()}
    torch.save({"model": state}, tmp_path / "file.pth")
    monkeypatch.setattr("rmeeto.hub.loading.fetch_published", lambda _origin, _hub: tmp_path / "file.pth")
    spec = ModelSpec(model="vim_tiny.rmeeto_in1k")
    require_trained(spec)
    opened = open_model(spec)
    assert opened.form == InputSpec.of((3, 224, 224))
    assert (opened.name, opened.model.num_classes) == ("vim_tiny", 1000)
    found = attached(opened.model)
    assert found is not None
    assert found[0].merges == 11
    assert opened.origin is not None
    assert opened.origin["repo"] == "Soptq/R-Meeto"
    write_model(opened, tmp_path / "mine", {"run": {}})
    assert read_bundle(tmp_path / "mine").records == {"run": {}, "base": opened.origin}


def test_a_name_without_weights_is_not_trained(weights: str) -> None:
    require_trained(dataclasses.replace(NANO, weights=weights))
    require_trained(ModelSpec(model="some/folder"))
    with pytest.raises(SettingsError, match=r"vim_nano comes without .*; add --weights.* as vim_nano\.demo$"):
        require_trained(NANO)
    with pytest.raises(SettingsError, match=r"or its published weights as vim_base\.midclstok_in1k"):
        require_trained(ModelSpec(model="vim_base"))


def test_evaluation_takes_as_many_images_as_training_where_nothing_else_is_asked() -> None:
    assert fitting(DataSpec(batch_size=512), 32) == DataSpec(batch_size=32)
    assert fitting(DataSpec(val_batch_size=7), 32) == DataSpec(batch_size=32, val_batch_size=7)


def test_load_gives_what_open_gives(trained: Path) -> None:
    images, opened = torch.randn(2, 3, 8, 8), open_model(ModelSpec(model=str(trained))).model.cpu()
    with torch.inference_mode():
        assert torch.equal(rmeeto.load(trained)(images), opened(images))
