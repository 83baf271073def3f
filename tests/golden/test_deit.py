"""The published DeiT's own answers: logits within 1e-4, lengths and sizes exactly."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from rmeeto.models.timm_vit import adopt
from rmeeto.reduction import Settings, attach
from rmeeto.schedule import Schedule

HERE = Path(__file__).parent
_SPEC = importlib.util.spec_from_file_location("golden_fill", HERE / "fill.py")
fill = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fill)

# case: (r, settings besides those of the published DeiT)
CASES = {
    "r4": (4, {"order": "unordered"}),
    "r4_ordered": (4, {}),
    "r12": (12, {"order": "unordered"}),
    "r4_prune": (4, {"order": "unordered", "mode": "prune"}),
}


@cache
def golden():
    with np.load(HERE / "deit.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@cache
def deit():
    model = VisionTransformer(img_size=112, embed_dim=48, depth=4, num_heads=3, num_classes=10)
    return adopt(fill.fill_model(model).eval())


def test_every_golden_case_is_in_the_table():
    assert {key.split("/")[0] for key in golden()} == set(CASES)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_deit(case, fused):
    r, settings = CASES[case]
    model = attach(deit(), Schedule.of([r] * 4), Settings(split="sequence", **settings))
    for block in model.blocks:
        block.attn.fused_attn = fused
    left = []
    handles = [slot.register_forward_hook(lambda _m, _a, tokens: left.append(tokens)) for slot in model.slots]
    with torch.no_grad():
        logits = model(fill.fill_input("image", (3, 3, 112, 112)))
    for handle in handles:
        handle.remove()
    assert [tokens.x.shape[1] for tokens in left] == golden()[f"{case}/lengths"].tolist()
    assert torch.equal(left[-1].sizes(), golden()[f"{case}/sizes"])
    torch.testing.assert_close(logits, golden()[f"{case}/logits"], atol=1e-4, rtol=0)
