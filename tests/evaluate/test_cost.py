from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from timm.layers import Attention
from torch import nn

from rmeeto.evaluate import counted_cost, published_cost
from rmeeto.evaluate.cost import COUNTED
from rmeeto.models import create
from rmeeto.ops import _library, use_backend
from rmeeto.reduction import attach
from rmeeto.schedule import Schedule

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "flops_paper_formula.json").read_text(encoding="utf-8"))
WIDTHS = {
    "vim_tiny": 192,
    "vim_small": 384,
    "vim_base": 768,
    "RMeeTo_video_tiny": 192,
    "RMeeTo_video_small": 384,
    "RMeeTo_video_middle": 576,
    "RMeeTo_video_base": 768,
}


@pytest.mark.parametrize("case", GOLDEN)
def test_the_published_formula_gives_the_published_numbers(case):
    name, r = case.rsplit("/r", 1)
    # The published script clamps nothing, so r = 17 and 20 end below zero tokens; and it counts 24 blocks everywhere.
    lengths = [197 - (block // 2) * int(r) for block in range(24)]
    merges = [(lengths[block - 1], int(r)) for block in range(2, 24, 2)]
    with_merges = published_cost(lengths, merges, embed_dim=WIDTHS[name])
    without = published_cost(lengths, embed_dim=WIDTHS[name])
    assert [with_merges.gflops * 1e9, without.gflops * 1e9] == pytest.approx(GOLDEN[case], rel=1e-12)


def test_the_formula_takes_what_a_schedule_gives():
    schedule = Schedule.constant(5, 24)
    lengths = schedule.lengths(197)
    merges = [(n, r) for n, r in zip(lengths, schedule.removals, strict=True) if r]
    cost = published_cost(lengths, merges, embed_dim=192)
    assert cost.gflops * 1e9 == pytest.approx(GOLDEN["vim_tiny/r5"][0])
    assert cost.convention != published_cost(lengths, embed_dim=192).convention
    assert "published formula" in cost.convention


def test_counting_follows_the_example_and_divides_by_the_batch():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 4, 5, bias=False))
    expected = {"aten.convolution": 2 * 9 * 2 * 16, "aten.mm": 2 * 32 * 5}
    for batch in (1, 3):
        cost = counted_cost(model, torch.zeros(batch, 1, 6, 6))
        assert cost.convention == COUNTED
        assert {name: flops * 1e9 for name, flops in cost.by_operator.items()} == pytest.approx(expected)
        assert list(cost.by_operator) == ["aten.convolution", "aten.mm"]
        assert cost.gflops == pytest.approx(sum(expected.values()) / 1e9)


def test_a_module_keeps_its_mode():
    model = nn.Linear(3, 3).train()
    counted_cost(model, torch.zeros(1, 3))
    assert model.training


def test_what_counts_nothing_costs_nothing():
    cost = counted_cost(lambda x: x + 1, torch.zeros(2, 3))
    assert (cost.gflops, cost.by_operator) == (0, {})


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_vision_mamba_costs_the_same_whatever_computes_it(backend):
    model = create("vim_nano", img_size=(8, 8), depth=2)
    config, n = model.config, 17
    c, e = config.embed_dim, config.expand * config.embed_dim
    rank, s = -(-c // 16), config.state_size
    per_block = n * c * 2 * e + n * e * c + 2 * (n * e * (rank + 2 * s) + n * rank * e)
    products = 2 * (2 * per_block + (n - 1) * c * config.patch_size**2 * config.in_chans + c * config.num_classes)
    convs = 2 * 2 * 2 * n * e * config.conv_width
    scans = 2 * 2 * n * e * (9 * s + 2)
    with use_backend(backend):
        cost = counted_cost(model, torch.zeros(1, config.in_chans, 8, 8))
    assert round(sum(cost.by_operator.values()) * 1e9) == products + convs + scans


def test_counting_takes_no_kernel(monkeypatch):
    model = attach(create("vim_nano", img_size=(8, 8), depth=2), Schedule((3, 0)))
    images = torch.zeros(1, *model.config.input_shape)
    wanted = counted_cost(model, images)
    monkeypatch.setattr(_library, "_library", None)
    monkeypatch.setattr(_library, "_problem", "no kernels were compiled")
    assert counted_cost(model, images) == wanted


def test_attention_is_counted():
    tokens, width, heads = 5, 8, 2
    model = Attention(width, heads)
    assert model.fused_attn
    products = 2 * tokens * width * (3 * width + width) + 2 * 2 * tokens**2 * width
    assert round(counted_cost(model, torch.zeros(1, tokens, width)).gflops * 1e9) == products


class _Choosing(nn.Module):
    """Looks at values, which shapes do not say."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.layer.weight.T[:, :3] @ x.T) if x.sum() > 0 else self.layer(x)


@pytest.mark.parametrize(("value", "flops"), [(0.0, 2 * 3 * 3 * 4), (1.0, 2 * 3 * 3 * 3 + 2 * 3 * 3 * 4)])
def test_what_looks_at_values_is_run(value, flops):
    assert round(counted_cost(_Choosing(), torch.full((3, 3), value)).gflops * 3e9) == flops


def test_a_wrong_shape_is_told_by_the_model_itself():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        counted_cost(nn.Linear(3, 4), torch.zeros(1, 5))
