"""The un-merged network: official names and sizes, logits, slots."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rmeeto.errors import SettingsError, ShapeError
from rmeeto.models import Vim, VimConfig, cast_weights, create
from rmeeto.models.embed import place_class_token

OFFICIAL = json.loads((Path(__file__).parents[1] / "golden" / "keys_image.json").read_text())
SMALL = VimConfig(img_size=(12, 12), patch_size=4, in_chans=3, num_classes=5, embed_dim=16, depth=3, state_size=4)


def small(**sizes):
    torch.manual_seed(0)
    return Vim(replace(SMALL, **sizes)).eval()


@pytest.mark.parametrize(
    ("name", "parameters"), [("vim_tiny", 7_148_008), ("vim_small", 25_796_584), ("vim_base", None)]
)
def test_names_and_shapes_are_official(name, parameters):
    with torch.device("meta"):
        model = create(name)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == OFFICIAL[name]
    if parameters is not None:
        assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    "sizes", [{}, {"class_token": "first"}, {"directions": "sum"}, {"img_size": (8, 20)}, {"stride": 2}]
)
def test_logits_whatever_the_form(sizes):
    model = small(**sizes)
    logits = model(torch.randn(2, 3, *model.config.img_size))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()
    assert model.forward_features(torch.randn(1, 3, *model.config.img_size)).shape == (1, model.num_tokens, 16)


def test_class_token_enters_at_its_place():
    tokens = small().embed(torch.randn(2, 3, 12, 12))
    assert tokens.x.shape == (2, 10, 16)
    assert tokens.places.tolist() == [[4], [4]]
    patches, one = torch.zeros(1, 4, 2), torch.ones(1, 1, 2)
    assert place_class_token(patches, one, 3)[0, :, 0].tolist() == [0, 0, 0, 1, 0]


def test_head_reads_the_class_token_wherever_it_went():
    class ToFront(nn.Module):
        def forward(self, tokens):
            order = torch.cat((tokens.places, torch.tensor([[i for i in range(10) if i != 4]])), dim=1)
            return replace(tokens, x=tokens.x[:, order[0]], places=torch.zeros_like(tokens.places))

    model, images = small(), torch.randn(1, 3, 12, 12)
    expected = model(images)
    model.slots[-1] = ToFront()
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 12, 12)])
def test_other_images_are_refused(shape):
    with pytest.raises(ShapeError, match=r"made for \(b, 3, 12, 12\)"):
        small()(torch.randn(shape))


def test_slots_leave_no_trace_in_the_weights():
    assert not [key for key in small().state_dict() if key.startswith("slots")]


def test_time_of_ones_changes_nothing_and_time_matters():
    class Time(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, tokens):
            return replace(tokens, time=torch.full(tokens.x.shape[:2], self.factor))

    model, images = small(), torch.randn(2, 3, 12, 12)
    expected = model(images)
    model.slots[0] = Time(1.0)
    torch.testing.assert_close(model(images), expected)
    model.slots[0] = Time(4.0)
    assert not torch.allclose(model(images), expected)


def test_bfloat16_stays_close_and_keeps_the_scan_parameters():
    model, images = small(), torch.randn(2, 3, 12, 12)
    expected = model(images)
    cast_weights(model, torch.bfloat16)
    got = model(images.bfloat16())
    assert got.dtype == torch.bfloat16
    assert model.layers[0].mixer.A_log.dtype == torch.float32
    torch.testing.assert_close(got.float(), expected, atol=0.05, rtol=0.05)


def test_integer_weights_are_refused():
    with pytest.raises(SettingsError, match=r"torch\.int8"):
        cast_weights(small(), torch.int8)


def test_weight_decay_spares_what_it_would_bend():
    spared = small().no_weight_decay()
    assert {"cls_token", "pos_embed", "layers.0.mixer.A_log", "layers.2.mixer.D_b"} <= spared
    assert "head.weight" not in spared


def test_initial_time_steps_lie_in_the_published_range():
    steps = nn.functional.softplus(small().layers[0].mixer.dt_proj.bias)
    assert steps.min() > 0.0009
    assert steps.max() < 0.11


def test_gradients_reach_every_parameter():
    model = small().train()
    model(torch.randn(2, 3, 12, 12)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
