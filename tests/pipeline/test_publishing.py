"""`push_to_hub`: what leaves the machine, and the card that goes with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

import rmeeto
from rmeeto import pipeline
from rmeeto.errors import RmeetoError, SettingsError, WeightsError
from rmeeto.hub import Hub
from rmeeto.hub.card import model_card
from rmeeto.hub.official import bundle_of
from rmeeto.models.origins import ORIGINS, Origin
from rmeeto.reduction import attached

from ..hub.local_hub import serving

FILES = {"model.safetensors", "config.json", "README.md"}


def test_a_run_goes_up_and_comes_back_merged(faster: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Weights, config and card, and nothing else of the run's folder."""
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as far:
        hub = Hub(endpoint=far.address, cache_dir=tmp_path / "cache", token="hf_test")
        done = pipeline.push_to_hub(faster[0], "me/fast", licence="mit", hub=hub)
        assert done["address"] == f"{far.address}/me/fast"
        assert {path.name for path in (far.root / "me/fast").iterdir()} == {*FILES, ".private"}
        assert (far.root / "me/fast/README.md").read_text() == done["card"]
        again = rmeeto.load("hf-hub:me/fast", hub=hub)
    found = attached(again)
    assert found is not None
    assert list(found[0].removals) == faster[1]["schedule"]
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(again(images), rmeeto.load(faster[0])(images))


def test_a_model_of_this_process_goes_up(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    model = rmeeto.create("vim_nano", depth=2, embed_dim=16)
    rmeeto.attach(model, rmeeto.Schedule.of([5, 0]))
    with serving(tmp_path / "hub") as far:
        hub = Hub(endpoint=far.address, cache_dir=tmp_path / "cache", token="hf_test")
        done = rmeeto.push_to_hub(model, "me/own", hub=hub)
        assert done["files"].keys() == FILES
        again = rmeeto.from_pretrained("me/own", hub=hub)
    assert attached(again) == attached(model)
    assert torch.equal(again.head.weight, model.head.weight)
    with pytest.raises(SettingsError, match="Linear is no Vision Mamba"):
        rmeeto.push_to_hub(torch.nn.Linear(1, 1), "me/own", dry_run=True)


def test_the_card_tells_what_was_measured(faster: tuple[Path, dict[str, Any]], photos: Any) -> None:
    done = pipeline.push_to_hub(faster[0], "me/fast", dry_run=True)
    card = ModelCard(done["card"])
    assert (card.data.library_name, card.data.pipeline_tag) == ("rmeeto", "image-classification")
    assert card.data.license is None
    assert {"vision-mamba", "token-merging"} <= set(card.data.tags)
    assert "17 enter the first block and 13 leave the last" in card.text
    assert f"| merged, re-trained | {faster[1]['retrained']['top1']:.2f} |" in card.text
    assert 'rmeeto.load("hf-hub:me/fast")' in card.text
    assert str(Path(photos.data)) not in done["card"]
    assert done["address"] is None
    assert done["files"].keys() == FILES


@pytest.mark.parametrize("origin", ORIGINS, ids=lambda origin: origin.name)
def test_cards_of_published_weights(origin: Origin) -> None:
    card = ModelCard(model_card(bundle_of(origin, {}), "me/copy", licence=origin.licence, measured=None))
    assert card.data.base_model == origin.repo
    assert card.data.datasets == [origin.dataset]
    assert card.data.license == origin.licence
    assert ("No licence is stated" in card.text) == (origin.licence is None)
    assert all(f"https://arxiv.org/abs/{paper}" in card.text for paper in origin.papers)
    assert card.data.pipeline_tag == ("image-classification" if origin.num_frames is None else "video-classification")
    assert ("8 frames" in card.text) == (origin.num_frames is not None)


def test_an_own_card_is_taken(trained: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(trained / name, tmp_path)
    assert pipeline.push_to_hub(tmp_path, "me/own", dry_run=True)["card"].startswith("---\nlibrary_name: rmeeto\n")
    (tmp_path / "README.md").write_text("# mine")
    assert pipeline.push_to_hub(tmp_path, "me/own", dry_run=True)["card"] == "# mine"


@pytest.mark.parametrize("repo", ["nano", "a/b/c", "/nano", "me/", ""])
def test_names_that_are_none(repo: str, trained: Path) -> None:
    with pytest.raises(SettingsError, match="is not a repository's name; write owner/name"):
        pipeline.push_to_hub(trained, repo, dry_run=True)


def test_folders_that_cannot_be_pushed(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        pipeline.push_to_hub(tmp_path / "gone", "me/own", dry_run=True)
    shutil.copytree(trained, tmp_path / "odd")
    (tmp_path / "odd" / "result.json").write_text("[]")
    with pytest.raises(RmeetoError, match="is no result of a re-training; move it away"):
        pipeline.push_to_hub(tmp_path / "odd", "me/own", dry_run=True)
