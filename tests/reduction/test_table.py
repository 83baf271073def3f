"""docs/reducers.md is the table of all settings: each line is run, and no choice is missing."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from rmeeto.models import Vim, VimConfig, adopt
from rmeeto.ops import use_backend
from rmeeto.reduction import Settings, attach, trace
from rmeeto.reduction.matchers import MATCHERS
from rmeeto.reduction.settings import _CHOICES
from rmeeto.schedule import Schedule

DOCS = Path(__file__).parents[2] / "docs"
DEPTH = 4
SCHEDULE = Schedule.of([6, 0, 5, 3])
# Another way to say what the defaults do: L2 of normalised rows matches as the cosine, x after attention is "hidden".
ALIASES = {'similarity="l2"', 'split="sequence", feature="x"'}


def lines(text):
    """(settings, model) of each line of the first table."""
    rows = re.findall(r"^\| (\S.*?) \| (Vim|ViT) \|", text, flags=re.MULTILINE)
    return [(cell if cell == "*none*" else cell.strip("`"), kind) for cell, kind in rows]


LINES = lines((DOCS / "reducers.md").read_text())


def settings_of(cell):
    return Settings() if cell == "*none*" else eval(f"Settings({cell})", {"Settings": Settings})


def model_of(kind):
    torch.manual_seed(0)
    if kind == "ViT":
        vit = VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=DEPTH, num_heads=2, num_classes=5)
        return adopt(vit).eval()
    return Vim(VimConfig(img_size=32, patch_size=4, embed_dim=16, depth=DEPTH, state_size=4, num_classes=5)).eval()


def answer(kind, settings):
    model = attach(model_of(kind), SCHEDULE, settings)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    left = []
    handle = model.slots[-1].register_forward_hook(lambda _m, _a, tokens: left.append(tokens))
    with torch.no_grad(), use_backend("reference"), trace(model) as seen:
        logits = model(images)
    handle.remove()
    return logits, left[0], seen.composed()


@pytest.mark.parametrize(("cell", "kind"), LINES, ids=[cell for cell, _ in LINES])
def test_each_line_does_what_it_says(cell, kind):
    settings = settings_of(cell)
    logits, tokens, composed = answer(kind, settings)
    assert logits.isfinite().all()
    assert tokens.x.shape[1] == composed.length == 65 - 14
    assert torch.equal(composed.move(torch.full((2, 1), 32 if kind == "Vim" else 0)), tokens.places)
    if settings.mode == "sum":
        assert torch.equal(tokens.sizes(), composed.counts())
        assert torch.equal(tokens.sizes().sum(1), torch.full((2,), 65.0))
    else:
        assert torch.equal(tokens.sizes(), torch.ones(2, 51))
    # What differs from the defaults is heard in the answer.
    default = Settings(split=settings.split)
    assert torch.equal(logits, answer(kind, default)[0]) == (settings == default or cell in ALIASES)


def test_no_choice_is_missing_from_the_table():
    told = [settings_of(cell) for cell, _ in LINES if cell != "*none*"]
    cells = [cell for cell, _ in LINES]
    for name, choices in ({"matcher": tuple(MATCHERS)} | _CHOICES).items():
        for choice in choices:
            assert any(getattr(settings, name) == choice for settings in told), f"{name}={choice!r}"
    for field in dataclasses.fields(Settings):
        assert any(f"{field.name}=" in cell for cell in cells), field.name


def test_the_reducer_of_the_docs_is_a_setting():
    """The code of docs/how-to-extend.md, as it stands there."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "how-to-extend.md").read_text(), flags=re.DOTALL)
    before = dict(MATCHERS)
    try:
        scope = {}
        for block in blocks:
            exec(block, scope)
        assert set(MATCHERS) - set(before) == {"smallest"}
        features = torch.tensor([3.0, 1, 2, 5, 4]).view(1, 5, 1) * torch.tensor([[1.0, 2.0]])
        assert scope["model"].slots[1].settings.matcher == "smallest"
        for mode in ("sum", "prune"):
            logits, tokens, _ = answer("Vim", Settings(matcher="smallest", mode=mode))
            assert logits.isfinite().all()
            assert tokens.x.shape[1] == 51
        sight = type("Seen", (), {"compared": lambda self: features, "settings": Settings()})()
        plan = scope["smallest"](sight, 2)
        assert plan.leaving.tolist() == [[1, 2]]
        assert plan.heads.tolist() == [[0, 4, 3]]
    finally:
        MATCHERS.clear()
        MATCHERS.update(before)
