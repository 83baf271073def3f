from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from rmeeto.evaluate import counted_cost, published_cost
from rmeeto.evaluate.cost import COUNTED
from rmeeto.models import create
from rmeeto.ops import use_backend
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


def test_a_vision_mamba_s_products_are_all_counted():
    model = create("vim_nano", img_size=(8, 8), depth=2)
    config, n = model.config, 17
    c, e = config.embed_dim, config.expand * config.embed_dim
    rank, s = -(-c // 16), config.state_size
    per_block = n * c * 2 * e + n * e * c + 2 * (n * e * (rank + 2 * s) + n * rank * e)
    products = 2 * (2 * per_block + (n - 1) * c * config.patch_size**2 * config.in_chans + c * config.num_classes)
    convs = 2 * 2 * 2 * n * e * config.conv_width
    scans = 2 * 2 * n * e * (9 * s + 2)
    cost = counted_cost(model, torch.zeros(1, config.in_chans, 8, 8))
    # The reference's convolutions and scans are element-wise operations of torch, which its counter leaves out.
    core = convs + scans if "rmeeto.bimamba" in cost.by_operator else 0
    assert round(sum(cost.by_operator.values()) * 1e9) == products + core
    with use_backend("reference"):
        cost = counted_cost(model, torch.zeros(1, config.in_chans, 8, 8))
    assert round(sum(cost.by_operator.values()) * 1e9) == products
