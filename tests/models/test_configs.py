"""Sizes: what fits, what does not, and what the message says."""

import re

import pytest

from rmeeto.errors import SettingsError, ShapeError
from rmeeto.models.configs import CONFIGS, TIMM_NAMES, VimConfig, config_of, is_name, short_name


@pytest.mark.parametrize(
    ("sizes", "grid", "place"),
    [
        ({}, (14, 14), 98),
        ({"stride": 8}, (27, 27), 364),
        ({"img_size": 448}, (28, 28), 392),
        ({"img_size": (112, 224)}, (7, 14), 49),
        ({"class_token": "first"}, (14, 14), 0),
        ({"num_frames": 8}, (14, 14), 784),
        ({"num_frames": 8, "class_token": "first"}, (14, 14), 0),
    ],
)
def test_grid_and_class_place(sizes, grid, place):
    config = config_of("vim_tiny", sizes)
    assert config.grid_size == grid
    assert config.class_place == place


@pytest.mark.parametrize(
    ("name", "rank", "inner"), [("vim_tiny", 12, 384), ("vim_small", 24, 768), ("vim_nano", 4, 128)]
)
def test_derived_widths(name, rank, inner):
    assert (CONFIGS[name].time_rank, CONFIGS[name].inner_dim) == (rank, inner)


@pytest.mark.parametrize(
    ("sizes", "error", "says"),
    [
        ({"img_size": 225}, ShapeError, "225x225 .* nearest that fits is 224"),
        ({"img_size": 8}, ShapeError, "nearest that fits is 16"),
        ({"img_size": (224, 220), "stride": 8}, ShapeError, "multiple of 8"),
        ({"depth": 0}, SettingsError, "depth = 0"),
        ({"depth": True}, SettingsError, "depth = True is not a size"),
        ({"embed_dim": "192"}, SettingsError, "embed_dim = '192' is not a size"),
        ({"embed_dim": 192.0}, SettingsError, "embed_dim = 192.0 is not a size"),
        ({"embed_dim": None}, SettingsError, "embed_dim = None is not a size"),
        ({"stride": 0}, SettingsError, "stride = 0 is not a size"),
        ({"img_size": "64"}, SettingsError, "img_size = '64' is no size; give the side"),
        ({"img_size": (64, 64, 3)}, SettingsError, "img_size = .64, 64, 3. is no size"),
        ({"img_size": None}, SettingsError, "img_size = None is no size"),
        ({"img_size": (64, 64.0)}, SettingsError, "img_size = .64, 64.0. is no size"),
        ({"norm_eps": 0}, SettingsError, "norm_eps = 0"),
        ({"norm_eps": "1e-5"}, SettingsError, "norm_eps = '1e-5'"),
        ({"drop_rate": "0.1"}, SettingsError, "drop_rate = '0.1'"),
        ({"num_classes": 2.5}, SettingsError, "num_classes = 2.5"),
        ({"num_frames": 0}, SettingsError, "num_frames = 0"),
        ({"class_token": "last"}, SettingsError, "'last'"),
        ({"directions": "max"}, SettingsError, "'max'"),
        ({"drop_path_rate": 1.0}, SettingsError, "drop_path_rate = 1.0"),
        ({"drop_rate": -0.1}, SettingsError, "drop_rate = -0.1"),
        ({"global_pool": "max"}, SettingsError, "'max' is unknown; use 'token' or 'avg' or ''"),
        ({"num_classes": -1}, SettingsError, "num_classes = -1"),
        ({"width": 3}, SettingsError, "no size named width; known sizes: img_size"),
    ],
)
def test_impossible_sizes_are_named(sizes, error, says):
    with pytest.raises(error, match=says) as caught:
        config_of("vim_tiny", sizes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vim_tinny", "model 'vim_tinny' is unknown; did you mean vim_tiny? `rmeeto models` lists all there are"),
        ("vim-small-patch16-224", "did you mean vim_small_patch16_224? "),
        ("videomamba_middle_k400_f9", "did you mean videomamba_middle_k400_f8? "),
        ("resnet50", "model 'resnet50' is unknown; `rmeeto models` lists"),
    ],
)
def test_unknown_model_names_the_nearest_one(name, says):
    with pytest.raises(SettingsError, match=re.escape(says)):
        config_of(name)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("vim_nano", "vim_nano_patch2_28"),
        ("vim_tiny", "vim_tiny_patch16_224"),
        ("vim_small_stride8", "vim_small_patch16_stride8_224"),
        ("videomamba_middle", "videomamba_middle_patch16_224"),
        ("videomamba_tiny_k400_f8", "videomamba_tiny_k400_f8_224"),
    ],
)
def test_each_model_has_two_names(short, long):
    assert TIMM_NAMES[short] == long
    assert short_name(long) == short_name(short) == short
    assert config_of(long) == config_of(short)
    assert is_name(long)
    assert not is_name(f"{long}.in1k")


def test_config_survives_json():
    config = VimConfig(img_size=(32, 48), patch_size=4, num_frames=2)
    assert VimConfig(**config.to_dict()) == config
