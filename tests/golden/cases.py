"""Every golden case: which network, input and settings gave the answers in the files beside this one.

The tests ask all of them; `tools/golden_table.py` prints how far each answer is from its golden one.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from rmeeto.models import Vim, VimConfig, adopt
from rmeeto.models.configs import config_of
from rmeeto.reduction import Settings, attach
from rmeeto.schedule import Schedule

from .fill import fill_input, fill_model

HERE = Path(__file__).parent
TOLERANCE = 1e-4

# What a network answers, by name.
Seen = dict[str, Tensor]
# case: (r, where it merges, settings besides the official class place)
Cases = dict[str, tuple[int, dict[str, Any], dict[str, Any]]]
IMAGE_CASES: Cases = {
    "r0": (0, {}, {}),
    "r1": (1, {}, {}),
    "r4": (4, {}, {}),
    "r12": (12, {}, {}),
    "r40_clamped": (40, {}, {}),
    "r4_unordered": (4, {}, {"order": "unordered"}),
    "r4_prune": (4, {}, {"mode": "prune"}),
    "r4_prune_unordered": (4, {}, {"mode": "prune", "order": "unordered"}),
    "r4_l1": (4, {}, {"similarity": "l1"}),
    "r4_l2": (4, {}, {"similarity": "l2"}),
    "r4_interval3": (4, {"every": 3}, {}),
    "r4_odd": (4, {"phase": "odd"}, {}),
    "r2_every": (2, {"every": 1}, {}),
    "r4_metricB": (4, {}, {"feature": "B"}),
    "r4_metricC": (4, {}, {"feature": "C"}),
    "r4_metricDelta": (4, {}, {"feature": "delta"}),
    "r4_mode_mean": (4, {}, {"mode": "mean"}),
    "r4_mode_amax": (4, {}, {"mode": "amax"}),
    "r4_mode_amin": (4, {}, {"mode": "amin"}),
    "r4_3rd_choice": (4, {}, {"rank": 3}),
    "r4_5th_choice": (4, {}, {"rank": 5}),
}
VIDEO_CASES: Cases = {
    "r0": (0, {}, {}),
    "r6": (6, {}, {}),
    "r6_unordered": (6, {}, {"order": "unordered"}),
    "r6_prune": (6, {}, {"mode": "prune"}),
    "r20": (20, {}, {}),
}
# case: (r, settings besides those of the published DeiT)
DEIT_CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "r4": (4, {"order": "unordered"}),
    "r4_ordered": (4, {}),
    "r12": (12, {"order": "unordered"}),
    "r4_prune": (4, {"order": "unordered", "mode": "prune"}),
}


class Network(NamedTuple):
    """A Vision Mamba whose answers are in a file.

    Attributes:
        file: the answers.
        config: the sizes.
        input: tag and shape of the input.
        cases: what was asked.
        prefix: what stands before a case's name in the file.
    """

    file: str
    config: VimConfig
    input: tuple[str, tuple[int, ...]]
    cases: Cases
    prefix: str = ""

    def images(self) -> Tensor:
        return fill_input(*self.input)

    def expected(self, case: str) -> Seen:
        """What the published network answered, by the names that `observed` uses."""
        return answers(self.file, f"{self.prefix}{case}/")

    def merging(self, case: str) -> nn.Module:
        r, where, settings = self.cases[case]
        schedule = Schedule.constant(r, self.config.depth, **where)
        return attach(filled(self.config), schedule, Settings(class_place="official", **settings))


SIZES = {"embed_dim": 48, "num_classes": 10}
IMAGE = ("image", (3, 3, 112, 112))
FULL = ("imagenet", (2, 3, 224, 224))
NETWORKS = {
    "vim": Network("vim.npz", config_of("vim_tiny", {"img_size": 112, "depth": 8, **SIZES}), IMAGE, IMAGE_CASES),
    "videomamba": Network(
        "videomamba.npz",
        config_of("videomamba_tiny", {"img_size": 112, "depth": 8, **SIZES}),
        IMAGE,
        {name: case for name, case in IMAGE_CASES.items() if "mode" not in name and "choice" not in name},
    ),
    "video": Network(
        "video.npz",
        config_of("videomamba_tiny_k400_f8", {"img_size": 64, "num_frames": 4, "depth": 6, **SIZES}),
        ("video", (2, 3, 4, 64, 64)),
        VIDEO_CASES,
    ),
    **{
        name: Network("full_size.npz", config_of(name), FULL, {f"r{r}": (r, {}, {}) for r in removed}, f"{name}/")
        for name, removed in {"vim_tiny": (0, 5, 11, 20), "vim_small": (11,)}.items()
    },
}


@cache
def golden(file: str) -> Seen:
    """All arrays of a file."""
    with np.load(HERE / file) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def answers(file: str, prefix: str) -> Seen:
    """The arrays of one case."""
    return {key.removeprefix(prefix): value for key, value in golden(file).items() if key.startswith(prefix)}


@cache
def filled(config: VimConfig) -> nn.Module:
    return fill_model(Vim(config)).eval()


@cache
def deit() -> nn.Module:
    model = VisionTransformer(img_size=112, embed_dim=48, depth=4, num_heads=3, num_classes=10)
    return adopt(fill_model(model).eval())


def merging_deit(case: str, *, fused: bool) -> nn.Module:
    """The DeiT of a case, its attention as one fused op or as written out."""
    r, settings = DEIT_CASES[case]
    model = attach(deit(), Schedule.of([r] * 4), Settings(split="sequence", **settings))
    for block in model.blocks:
        block.attn.fused_attn = fused
    return model


def observed(model: nn.Module, images: Tensor, watched: nn.ModuleList) -> Seen:
    """Logits; tokens leaving each watched module and the class token's place there; at the end sizes and stream."""
    leaving = []
    handles = [module.register_forward_hook(lambda _m, _a, tokens: leaving.append(tokens)) for module in watched]
    try:
        with torch.no_grad():
            logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {
        "logits": logits,
        "lengths": torch.tensor([tokens.x.shape[1] for tokens in leaving]),
        "positions": torch.stack([tokens.places[:, 0] for tokens in leaving]),
        "sizes": leaving[-1].sizes(),
        "last_hidden": leaving[-1].x,
    }


def inexact(seen: Seen, expected: Seen) -> list[str]:
    """Which of lengths, class places and sizes differ; all that are in the file must be equal."""
    exact = {name: value for name, value in expected.items() if name in ("lengths", "positions", "sizes")}
    # One place for the whole batch: the official rule does not look at the image.
    each = {
        name: value[:, None].expand_as(seen[name]) if name == "positions" else value for name, value in exact.items()
    }
    return [name for name, value in each.items() if not torch.equal(seen[name].to(value.dtype), value)]


def largest_error(seen: Seen, expected: Seen) -> float:
    """Of the logits, absolute."""
    return (seen["logits"] - expected["logits"]).abs().max().item()
