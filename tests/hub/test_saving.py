"""A model is saved by itself alone, and comes back as it was: by `load`, and without its schedule by timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config

import rmeeto
from rmeeto.errors import OutputError, SettingsError
from rmeeto.models import Vim, create, to_precision
from rmeeto.models.configs import CONFIGS, config_of, named_like
from rmeeto.reduction import Settings, attach, attached, detached
from rmeeto.schedule import Schedule

TINY: dict[str, Any] = {"embed_dim": 16, "depth": 2, "img_size": (32, 48), "num_classes": 3}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_network_knows_its_name(name: str) -> None:
    assert named_like(CONFIGS[name]) == (name, {})
    other = config_of(name, {"embed_dim": 48, "img_size": (112, 64), "num_classes": 0})
    found, sizes = named_like(other)
    assert config_of(found, sizes) == other


@pytest.mark.parametrize("name", ["vim_tiny", "videomamba_small", "videomamba_tiny_k400_f8", "vim_tiny_stride8"])
@pytest.mark.parametrize("merged", [True, False])
def test_what_is_saved_comes_back(name: str, merged: bool, tmp_path: Path) -> None:
    model = create(name, **TINY, drop_path_rate=0.1).eval()
    settings = Settings(mode="prune", class_place="official")
    if merged:
        attach(model, Schedule.of([3, 0]), settings)
    rmeeto.save(model, tmp_path)
    again, images = rmeeto.load(tmp_path), torch.randn(2, *model.config.input_shape)
    assert attached(again) == ((Schedule.of([3, 0]), settings) if merged else None)
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
        with detached(model):
            assert torch.equal(plain(images), model(images))


def test_what_images_must_be_is_kept_and_what_the_weights_were_is_not(tmp_path: Path) -> None:
    model = timm.create_model("vim_tiny_patch16_224", **TINY)
    model.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "crop_pct": 0.9, "label_names": ["a", "b", "c"]}
    rmeeto.save(model, tmp_path)
    cfg = rmeeto.load(tmp_path).pretrained_cfg
    assert (cfg["mean"], cfg["crop_pct"], cfg["input_size"]) == ((0.1, 0.2, 0.3), 0.9, (3, 32, 48))
    assert cfg["label_names"] == ["a", "b", "c"]
    assert not {"hf_hub_id", "license", "tag", "origin_url"} & set(cfg)
    model.reset_classifier(2)
    rmeeto.save(model, tmp_path)
    assert "label_names" not in rmeeto.load(tmp_path).pretrained_cfg


@pytest.mark.parametrize(("channels", "count"), [(1, 1), (3, 3), (4, 4)])
def test_a_created_model_tells_timm_what_images_it_takes(channels: int, count: int) -> None:
    told = resolve_model_data_config(create("vim_nano", in_chans=channels))
    assert told["input_size"] == (channels, 28, 28)
    assert len(told["mean"]) == len(told["std"]) == count


@pytest.mark.parametrize("name", ["vim_nano", "vim_nano.demo", "vim_nano_patch2_28"])
def test_the_model_of_the_package_has_a_name(name: str) -> None:
    model = rmeeto.load(name)
    assert model.pretrained_cfg["label_names"][0] == "T-shirt/top"
    assert attached(model) is None


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        rmeeto.save(create("vim_tiny", **TINY), tmp_path / "file")
    for model in (torch.nn.Linear(1, 1), torch.nn.Sequential(create("vim_tiny", **TINY))):
        with pytest.raises(
            SettingsError, match=r"is no Vision Mamba .* and save timm's with timm\.models\.save_for_hf"
        ):
            rmeeto.save(model, tmp_path)
    small = to_precision(create("vim_tiny", **TINY), torch.int8)
    assert isinstance(small, Vim)
    with pytest.raises(SettingsError, match="8-bit weights"):
        rmeeto.save(small, tmp_path)
