"""Recipes are read to the letter, and the published ones say what is known of them."""

from __future__ import annotations

import dataclasses

import pytest

from rmeeto.data.spec import Augment
from rmeeto.errors import SettingsError
from rmeeto.pipeline.recipes import GROUPS, load_recipe, parse_recipe, recipe_names, to_toml
from rmeeto.pipeline.tables import load_table, tables
from rmeeto.retrain.recipe import PUBLISHED, Recipe

TABLES = [table.name for table in tables()]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_is_whole(name: str) -> None:
    recipe = load_recipe(name)
    values = recipe.values()
    assert recipe.about
    assert recipe.source == "arXiv 2412.12496"
    assert recipe.weights_file
    assert name.startswith(values["model"].model)
    assert values["settings"].class_place == "official"  # as the published weights were re-trained
    assert f"_{values['recipe'].epochs}_epochs" in name
    assert values["recipe"].micro_batch()


@pytest.mark.parametrize("model", PUBLISHED)
def test_they_agree_with_the_settings_in_code(model: str) -> None:
    values = load_recipe(f"{model}_{PUBLISHED[model]['epochs']}_epochs").values()
    assert values["recipe"] == Recipe.published(model)
    assert values["augment"] == Augment()
    assert values["schedule"].r == (5 if model.endswith("tiny") else 11)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_whole(name: str) -> None:
    table = load_table(name)
    assert table.about
    assert all(run.values() for run in table.runs.values())
    assert any(run.published for run in table.runs.values())


def test_tables_are_numbered() -> None:
    assert [table.number for table in tables()] == list(range(1, 11))
    assert load_table("table1") == load_table("images")


def test_a_row_that_differs_has_its_own_numbers() -> None:
    runs = load_table("vim_small_by_r").runs
    assert [run.values()["schedule"].r for run in runs.values()] == [5, 10, 11, 15, 20]
    assert [run.published["top1"] for run in runs.values()] == [79.9, 79.4, 79.3, 78.3, 76.5]
    assert "top1" not in load_table("order").runs["Vim small, not ordered"].published


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs = 3", "recipe mine: unknown key 'epochs'; known keys are about, source, verb"),
        ("[recipe]\nepoch = 3", "recipe mine [recipe]: unknown key 'epoch'; known keys are epochs, batch_size"),
        ("[published]\naccuracy = 3", "recipe mine [published]: unknown key 'accuracy'"),
        ("[recipe]\nepochs = '3'", "[recipe] epochs = '3' is no int; correct it"),
        ("[recipe]\nepochs = true", "[recipe] epochs = True is no int"),
        ("[recipe]\nepochs = 1.5", "[recipe] epochs = 1.5 is no int"),
        ("[recipe]\nbetas = [0.9]", "[recipe] betas = (0.9,) is no"),
        ("[settings]\nfeature = 'X'", "[settings] feature = 'X' is no"),
        ("[recipe]\nepochs = 0", "epochs is 0; it must be"),
        ("recipe = 3", "recipe is 3; make it a section [recipe]"),
        ("verb = 'evaluate'", "verb 'evaluate' is unknown"),
        ("[recipe", "recipe mine is no TOML"),
        ("verb = 'pretrain'\n[schedule]\nr = 3", "`rmeeto pretrain` reads no section [schedule]; leave it out"),
    ],
)
def test_what_a_recipe_cannot_say(text: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_recipe(text, "mine")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vim_huge", "recipe 'vim_huge' is unknown; choose one of videomamba_base"),
        ("gone.toml", "recipe gone.toml does not exist"),
    ],
)
def test_a_recipe_that_is_not_there(name: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load_recipe(name)


def test_a_recipe_is_of_one_command() -> None:
    with pytest.raises(SettingsError, match="is for `rmeeto retrain`, not for `rmeeto pretrain`; use that command"):
        load_recipe("vim_small_3_epochs", verb="pretrain")


def test_what_is_written_is_read_again() -> None:
    values = {group: kind() for group, kind in GROUPS.items()}
    values["recipe"] = dataclasses.replace(values["recipe"], lr=3e-5, ema_decay=0.99)
    values["model"] = dataclasses.replace(values["model"], model='a "folder"\\of\nmine')
    found = parse_recipe(to_toml("retrain", values, about="mine", command="rmeeto\nretrain"), "mine")
    assert found.values() == values
    assert found.about == "mine"


def test_a_path_is_read(tmp_path) -> None:
    (tmp_path / "own.toml").write_text("[schedule]\nr = 7\n")
    assert load_recipe(str(tmp_path / "own.toml")).values()["schedule"].r == 7
