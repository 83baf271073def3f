"""Fewer bits: nearly the same logits, in a tenth or a hundredth of them, and nothing silently."""

from __future__ import annotations

import pytest
import torch

from rmeeto.errors import SettingsError
from rmeeto.models import create, to_precision
from rmeeto.reduction import attach
from rmeeto.schedule import Schedule

SIZES = {"img_size": 16, "in_chans": 3, "embed_dim": 32, "depth": 3}


def _model(*, merged: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    model = create("vim_nano", **SIZES).eval()
    return attach(model, Schedule.of([2, 2, 0])) if merged else model


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.03), (torch.int8, 0.1), (torch.float32, 1e-6)])
def test_the_logits_are_nearly_the_same(dtype: torch.dtype, error: float, *, merged: bool) -> None:
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    given = images.to(dtype) if dtype.is_floating_point else images
    with torch.inference_mode():
        wanted = _model(merged=merged)(images)
        found = to_precision(_model(merged=merged), dtype)(given).float()
    assert (found - wanted).norm() < error * wanted.norm()
    assert torch.equal(found, wanted) == (dtype is torch.float32)


def test_int8_is_in_eight_bits() -> None:
    mixer = to_precision(_model(merged=False), torch.int8).layers[0].mixer
    assert mixer.in_proj.weight().dtype is torch.qint8
    assert mixer.x_proj.weight.dtype is torch.float32


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        (torch.bfloat16, torch.int8, "int8 is made of float32 weights"),
        (torch.float32, torch.int16, "is not a floating-point type"),
    ],
)
def test_what_cannot_be(first: torch.dtype, then: torch.dtype, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        to_precision(to_precision(_model(merged=False), first), then)
