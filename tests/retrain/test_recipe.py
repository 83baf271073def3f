"""Recipes: what cannot be is refused in one line; what is written is read back."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from pathlib import Path

import pytest

import rmeeto.retrain.recipe
from rmeeto.errors import SettingsError
from rmeeto.retrain import PUBLISHED, Recipe


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"epochs": True}, "epochs is True"),
        ({"batch_size": -8}, "batch_size is -8"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"batch_size": 12, "accumulate": 5}, "12 does not divide by 5"),
        ({"batch_size": 6, "accumulate": 2}, "holds 3; use an even number"),
        ({"batch_size": 7}, "mix images in pairs"),
        ({"lr_base": 0.0}, "lr_base is 0.0"),
        ({"lr_base_size": 0}, "lr_base_size is 0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"lr": 1e-7, "min_lr": 1e-6}, "min_lr 1e-06 is above the peak 1e-07 of a batch of 512; lower min_lr or leave"),
        ({"min_lr": -1e-6}, "min_lr is -1e-06"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1"),
        ({"epochs": 5, "warmup_epochs": 5}, "5 warm-up epochs leave none of 5"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"betas": (0.9, 1.0)}, "betas is"),
        ({"betas": (0.9,)}, "betas is"),
        ({"betas": [0.9, 0.999]}, "betas is"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"clip_grad": 0.0}, "clip_grad is 0.0"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"patch_drop": -0.1}, "patch_drop is -0.1"),
        ({"distill_weight": -1.0}, "distill_weight is -1.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"mixup": -0.1}, "mixup is -0.1"),
        ({"cutmix": math.inf}, "cutmix is inf"),
        ({"mixup_prob": 1.5}, "mixup_prob is 1.5"),
        ({"mixup_switch_prob": -0.5}, "mixup_switch_prob is -0.5"),
        ({"smoothing": 1.0}, "smoothing is 1.0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"ema_warmup": "False"}, "ema_warmup is 'False'"),
        ({"cache_teacher": 1, "mixup": 0.0, "cutmix": 0.0}, "cache_teacher is 1"),
        ({"cache_teacher": True}, "mixed images never come again"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**31}, "seed is 2147483648; it must be a whole number from 0 to"),
        ({"precision": "fp8"}, "precision is 'fp8'; it must be 'fp32', 'bf16' or 'fp16'"),
        ({"time_limit": 0}, "time_limit is 0"),
    ],
)
def test_impossible_values(settings, words):
    with pytest.raises(SettingsError) as caught:
        Recipe(**settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("processes", "images"), [(1, 16), (2, 8), (4, 4)])
def test_micro_batch_of_a_process(processes, images):
    assert Recipe(batch_size=32, accumulate=2).micro_batch(processes) == images


@pytest.mark.parametrize(("processes", "words"), [(3, "2 micro-batches x 3 processes"), (16, "holds 1")])
def test_processes_that_do_not_fit(processes, words):
    with pytest.raises(SettingsError, match=words):
        Recipe(batch_size=32, accumulate=2).micro_batch(processes)


def test_odd_batches_are_fine_without_mixing():
    assert Recipe(batch_size=7, lr=1e-3, mixup=0, cutmix=0).micro_batch() == 7
    assert Recipe(batch_size=7, lr=1e-3, mixup_prob=0.0).micro_batch() == 7


@pytest.mark.parametrize("recipe", [Recipe(), Recipe.pretraining(), Recipe.published("vim_base"), Recipe(lr=1e-3)])
def test_round_trip_through_json(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_unknown_field_is_refused():
    with pytest.raises(SettingsError, match="a recipe has no field epoch, learning_rate; its fields are epochs"):
        Recipe.from_dict({"epoch": 30, "learning_rate": 1.0, "seed": 1})


@pytest.mark.parametrize(
    ("model", "minutes", "epochs", "ema"),
    [
        ("vim_tiny", False, 30, None),
        ("vim_small", False, 15, None),
        ("vim_base", False, 15, 0.99996),
        ("vim_base", True, 3, 0.99996),
        ("videomamba_tiny", True, 3, None),
    ],
)
def test_published(model, minutes, epochs, ema):
    recipe = Recipe.published(model, minutes=minutes)
    assert (recipe.epochs, recipe.ema_decay) == (epochs, ema)
    assert (recipe.peak_lr, recipe.last_lr, recipe.weight_decay, recipe.batch_size) == (2e-5, 1e-6, 0.05, 512)
    assert (recipe.distill_weight, recipe.temperature, recipe.warmup_epochs, recipe.clip_grad) == (0.5, 1.0, 0.0, None)


def test_published_of_an_unknown_model():
    with pytest.raises(SettingsError, match="no published recipe for 'vim_nano'; there are vim_tiny"):
        Recipe.published("vim_nano")
    assert all(Recipe.published(model) for model in PUBLISHED)


def test_learning_rate_scales_with_the_batch():
    assert Recipe(batch_size=64).peak_lr == pytest.approx(2e-5 / 8)
    assert Recipe(batch_size=64, lr=1e-3).peak_lr == 1e-3


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        ({}, 1e-6),
        ({"batch_size": 4096}, 8e-6),
        ({"batch_size": 8192}, 1e-5),
        ({"batch_size": 64}, 2e-5 / 8 / 20),
        ({"batch_size": 2}, 2e-5 / 256 / 20),
        ({"lr": 1e-3}, 1e-5),
        ({"min_lr": 0.0}, 0.0),
        ({"min_lr": 2e-5}, 2e-5),
    ],
)
def test_the_last_learning_rate(settings, last):
    """A small batch, whose peak is lower, is no refusal."""
    assert Recipe(**settings).last_lr == pytest.approx(last)


@pytest.mark.parametrize(
    ("settings", "warmup"), [({}, 5.0), ({"epochs": 1}, 0.1), ({"epochs": 20}, 2.0), ({"warmup_epochs": 7.5}, 7.5)]
)
def test_a_short_training_warms_up_shortly(settings, warmup):
    recipe = dataclasses.replace(Recipe.pretraining(), **settings)
    assert (recipe.warmup, recipe.peak_lr, recipe.last_lr) == (warmup, 1e-3, 1e-5)


def test_every_field_has_a_reader():
    """A setting that nobody reads is a promise broken; the droppings are read by whoever builds the student."""
    room = Path(rmeeto.retrain.recipe.__file__).parent
    derived = (Recipe.peak_lr.fget, Recipe.last_lr.fget, Recipe.warmup.fget, Recipe.mixes.fget, Recipe.micro_batch)
    text = "".join(inspect.getsource(function).replace("self.", "recipe.") for function in derived)
    text += "".join(path.read_text(encoding="utf-8") for path in room.glob("*.py") if path.name != "recipe.py")
    unread = [f.name for f in dataclasses.fields(Recipe) if not re.search(rf"\brecipe\.{f.name}\b", text)]
    assert unread == ["drop_path", "patch_drop"]


def test_every_field_is_explained():
    documented = inspect.getdoc(Recipe) or ""  # without its indentation, which Python 3.13 leaves out itself
    assert [f.name for f in dataclasses.fields(Recipe) if f"\n    {f.name}: " not in documented] == []
