"""Options grow from dataclasses: which there are, and that each default shown is the one used."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from rmeeto.cli import benchmark, convert, demo, doctor, evaluate, models, pretrain, push, recipes, reproduce, retrain
from rmeeto.cli.main import app, main
from rmeeto.cli.options import help_of, with_options
from rmeeto.data.spec import Augment, DataSpec
from rmeeto.pipeline.specs import ModelSpec, PrecisionSpec, ScheduleSpec, SpeedSpec
from rmeeto.reduction.settings import Settings
from rmeeto.retrain.recipe import Recipe

MODEL = "depth embed_dim img_size in_chans model patch_size state_size weights"
DATA = (
    "batch_size data input_key max_bad_images num_classes prefetch subset_seed target_key train_limit train_share "
    "train_size train_split val_batch_size val_data val_limit val_size val_split workers"
)
SCHEDULE = "every final phase r removals"
SETTINGS = (
    "class_place feature matcher mode order proportional_attention rank seed shuffle similarity size_aware_scan split"
)
SPEED = "speed_batch speed_repeats speed_warmup threads cuda_graphs"
RECIPE = (
    "accumulate batch_size betas cache_teacher clip_grad cutmix distill_weight drop_path ema_decay ema_warmup epochs "
    "eps lr lr_base lr_base_size min_lr mixup mixup_prob mixup_switch_prob patch_drop precision seed smoothing "
    "temperature time_limit warmup_epochs weight_decay"
)
AUGMENT = (
    "auto_augment color_jitter crop erasing erasing_mode hflip interpolation padding ratio repeats scale"
)  # fmt: skip
RUN = "checkpoint_every log_every parallel resume tracker validate_every"
# A new option is a decision: it is written here too, an argument without a flag in capitals.
OPTIONS = {
    "demo": "json output quick",
    "doctor": "json",
    "models": "json",
    "convert": "FILE img_size json model output part",
    "push": "FOLDER REPO dry_run json license private",
    "pretrain": f"{MODEL} {DATA} {RECIPE} {AUGMENT} {RUN} json output recipe",
    "retrain": f"{MODEL} {DATA} {SCHEDULE} {SETTINGS} {RECIPE} {AUGMENT} {SPEED} {RUN} json output recipe",
    "evaluate": f"{MODEL} {DATA} {SCHEDULE} {SETTINGS} json merge",
    "benchmark": f"{MODEL} {SCHEDULE} {SETTINGS} {SPEED} json precision",
    "recipes": "NAME json",
    "reproduce": "TABLE checkpoint_every data json output scale weights workers",
}
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def _options(command: str) -> dict[str, Any]:
    """Option -> what typer made of it."""
    return {option.opts[0]: option for option in COMMANDS[command].params}


def test_commands() -> None:
    assert COMMANDS.keys() == OPTIONS.keys()


@pytest.mark.parametrize("command", OPTIONS)
def test_options_are_frozen(command: str) -> None:
    flags = {name.lower() if name.isupper() else f"--{name.replace('_', '-')}" for name in OPTIONS[command].split()}
    assert _options(command).keys() == flags


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_is_described(command: str) -> None:
    assert not [name for name, option in _options(command).items() if not option.help]


EXAMPLES = [
    line.split()[1:]
    for module in (benchmark, convert, demo, doctor, evaluate, models, pretrain, push, recipes, reproduce, retrain)
    for line in module.HELP.splitlines()
    if line.startswith("    rmeeto ")
]


@pytest.mark.parametrize("words", EXAMPLES, ids=" ".join)
def test_examples_of_help_can_be_typed(words: list[str]) -> None:
    """Every option and value in them is one that there is."""
    name, *arguments = words
    COMMANDS[name].make_context(name, arguments)


# Command -> where it goes, and what it gives where nothing but the output is said.
DEFAULTS = {
    "pretrain": (
        "rmeeto.pipeline.training.pretrain",
        [ModelSpec(), DataSpec(batch_size=512), Recipe.pretraining(), Augment.light()],
    ),
    "retrain": (
        "rmeeto.pipeline.retraining.retrain",
        [ModelSpec(), DataSpec(batch_size=512), ScheduleSpec(), Settings(), Recipe(), Augment(), SpeedSpec()],
    ),
    "evaluate --merge": (
        "rmeeto.pipeline.measuring.evaluate",
        [ModelSpec(), DataSpec(), ScheduleSpec(), Settings()],
    ),
    "benchmark": (
        "rmeeto.pipeline.measuring.benchmark",
        [ModelSpec(), SpeedSpec(), ScheduleSpec(), Settings(), PrecisionSpec()],
    ),
}


class Called(Exception):
    """Instead of the work."""


def _called(target: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a command line gives to the function that does its work."""
    given: list[Any] = []

    def called(*arguments: Any, **named: Any) -> None:
        given.extend([*arguments, *named.values()])
        raise Called

    monkeypatch.setattr(target, called)
    monkeypatch.setattr(sys, "argv", ["rmeeto", *words])
    with pytest.raises(Called):
        main()
    return given


@pytest.mark.parametrize("words", EXAMPLES, ids=" ".join)
def test_examples_of_help_get_as_far_as_the_work(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their values, and the defaults beside them, go together."""
    monkeypatch.chdir(tmp_path)
    for command, (target, _groups) in DEFAULTS.items():
        if command.split()[0] == words[0]:
            assert _called(target, words, monkeypatch)


@pytest.mark.parametrize("command", DEFAULTS)
def test_defaults_shown_are_the_defaults_used(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (target, groups), words = DEFAULTS[command], command.split()
    output = ["--output", "new"] if "--output" in _options(words[0]) else []
    given = _called(target, [*words, *output], monkeypatch)
    assert all(group in given for group in groups)
    shown = _options(words[0])
    for group in groups:
        for field in dataclasses.fields(group):
            option = shown["--" + field.name.replace("_", "-")]
            assert option.default == getattr(group, field.name)
            assert option.show_default


WON = [
    ("", {"r": 11, "epochs": 30, "model": "vim_nano"}),
    ("--recipe vim_small_3_epochs", {"r": 11, "epochs": 3, "model": "vim_small", "class_place": "official"}),
    ("--recipe vim_tiny_3_epochs", {"r": 5, "epochs": 3}),
    ("--recipe vim_tiny_3_epochs --r 7 --epochs 30", {"r": 7, "epochs": 30, "model": "vim_tiny"}),
    ("--recipe vim_tiny_3_epochs --r 11", {"r": 11}),  # a default that was typed is typed
    ("--recipe own.toml", {"batch_size": 64, "betas": (0.5, 0.9), "seed": 7}),
    ("--recipe own.toml --batch-size 32", {"batch_size": 32, "seed": 7}),
    ("--recipe own.toml", {"settings.seed": 7, "recipe.seed": 7}),
    ("--recipe two.toml", {"settings.seed": 5, "recipe.seed": 7}),
    ("--recipe two.toml --seed 3", {"settings.seed": 3, "recipe.seed": 3}),
]


@pytest.mark.parametrize(("line", "expected"), WON)
def test_what_is_typed_wins_over_a_recipe_and_it_over_the_defaults(
    line: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}

    def called(*arguments: Any, **named: Any) -> None:
        for group in arguments:
            values = dataclasses.asdict(group) if dataclasses.is_dataclass(group) else {}
            given.update({**values, **{f"{type(group).__name__.lower()}.{name}": one for name, one in values.items()}})
        raise Called

    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.toml").write_text("[settings]\nseed = 5\n[recipe]\nseed = 7\n")
    (tmp_path / "own.toml").write_text("[recipe]\nbatch_size = 64\nbetas = [0.5, 0.9]\nseed = 7\n")
    monkeypatch.setattr("rmeeto.pipeline.retraining.retrain", called)
    monkeypatch.setattr(sys, "argv", ["rmeeto", "retrain", *line.split(), "--output", "new"])
    with pytest.raises(Called):
        main()
    assert {name: given[name] for name in expected} == expected


@dataclass(frozen=True)
class Left:
    """One group.

    Attributes:
        size, width: how large, see `other_size`;
            two lines. None is medium.
        other_size: unlike size.

    Raises:
        nothing: that is here.
    """

    size: int | None = 1
    width: bool = True
    other_size: int = 2


@dataclass(frozen=True)
class Right:
    """Another one.

    Attributes:
        size: how large at last.
    """

    size: int | None = 3


def test_help_comes_from_the_docstring() -> None:
    both = "how large, see `other_size`; two lines. None is medium."
    assert help_of(Left) == {"size": both, "width": both, "other_size": "unlike size."}


def test_two_meanings_of_one_option_are_refused() -> None:
    with pytest.raises(TypeError, match="size is a field of left and of right; rename one of them"):
        with_options(left=Left(), right=Right())


def test_a_shared_option_goes_to_both() -> None:
    got = []

    @with_options(left=Left(), right=Right(), shared=("size",))
    def command(left: Left, right: Right) -> None:
        got.append((left, right))

    single = typer.Typer()
    single.command()(command)
    options = {option.name: option for option in typer.main.get_command(single).params}
    assert (options["size"].default, options["size"].help) == (3, "how large at last.")
    assert options["width"].help == "how large, see --other-size; two lines. none is medium."
    assert options["width"].secondary_opts == ["--no-width"]
    single(["--size", "5", "--no-width"], standalone_mode=False)
    assert got == [(Left(size=5, width=False), Right(size=5))]


@pytest.mark.parametrize("command", ["pretrain", "retrain"])
def test_torchrun_takes_no_option_for_its_own(command: str) -> None:
    """Until Python 3.12 its parser looks at the words behind our name too, and knows several --r... itself."""
    from torch.distributed.run import get_args_parser

    for option in COMMANDS[command].params:
        words = [command, option.opts[-1], "1"]
        assert get_args_parser().parse_args(["-m", "rmeeto", *words]).training_script_args == words
