"""Parameters counted by formula are those of the networks."""

import pytest
import torch

from rmeeto.models import create
from rmeeto.models.configs import CONFIGS, VimConfig, config_of
from rmeeto.models.counting import parameters_of
from rmeeto.models.origins import ORIGINS

ODD = {"img_size": (24, 36), "patch_size": 12, "in_chans": 2, "depth": 3, "conv_width": 3, "dt_rank": 5, "expand": 3}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("sizes", [{}, ODD])
def test_formula(name: str, sizes: dict) -> None:
    if "stride" in name:
        sizes = {}
    with torch.device("meta"):
        model = create(name, **sizes)
    assert parameters_of(config_of(name, sizes)) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("origin", ORIGINS, ids=lambda origin: origin.name)
def test_published_weights_are_of_a_network_that_is_here(origin) -> None:
    config = CONFIGS[origin.short]
    assert (parameters_of(config), config.depth, config.num_classes, config.num_frames) == (
        origin.parameters, origin.depth, origin.num_classes, origin.num_frames,
    )  # fmt: skip
    assert (config.in_chans, *config.img_size) == origin.input_size


def test_a_size_of_one() -> None:
    least = VimConfig(img_size=1, patch_size=1, in_chans=1, num_classes=1, embed_dim=1, depth=1, expand=1, state_size=1)
    with torch.device("meta"):
        from rmeeto.models import Vim

        assert parameters_of(least) == sum(parameter.numel() for parameter in Vim(least).parameters())
