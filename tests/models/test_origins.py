"""The table of published weights holds what the published names and shapes say."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from rmeeto.models.origins import ORIGINS, Origin, find

GOLDEN = Path(__file__).parent.parent / "golden"
KEYS = json.loads((GOLDEN / "keys_image.json").read_text()) | json.loads((GOLDEN / "keys_video.json").read_text())
# The image networks of VideoMamba have the names and shapes of Vim's.
ALIKE = {f"videomamba_{size}": f"vim_{size}" for size in ("tiny", "small", "base")}


@pytest.mark.parametrize("origin", ORIGINS, ids=lambda origin: origin.name)
def test_sizes_are_those_of_the_official_names(origin: Origin) -> None:
    shapes = KEYS.get(ALIKE.get(origin.short, origin.short))
    if shapes is None:
        assert origin.short == "videomamba_middle"  # of this one no list of names is kept
        return
    assert sum(map(math.prod, shapes.values())) == origin.parameters
    assert sum(name.endswith("out_proj.weight") for name in shapes) == origin.depth
    assert shapes["head.bias"] == [origin.num_classes]
    assert ("temporal_pos_embedding" in shapes) == (origin.num_frames is not None)


@pytest.mark.parametrize("origin", ORIGINS, ids=lambda origin: origin.name)
def test_merged_ones_bring_their_schedule(origin: Origin) -> None:
    assert (origin.repo == "Soptq/R-Meeto") == (origin.schedule is not None) == (origin.licence is None)
    if origin.schedule is None:
        assert origin.reduction is None
        return
    tokens = (origin.num_frames or 1) * 196 + 1
    assert origin.schedule.merges == (11 if origin.depth == 24 else 15)
    origin.schedule.require_fit(tokens, origin.depth)
    assert origin.reduction == {"class_place": "official"}
    assert origin.papers[0] == "2412.12496"


def test_names_are_the_table_of_published_files() -> None:
    assert len({origin.name for origin in ORIGINS}) == len({origin.file for origin in ORIGINS}) == len(ORIGINS) == 19
    assert {origin.repo for origin in ORIGINS} == {
        "hustvl/Vim-tiny-midclstok", "hustvl/Vim-small-midclstok", "hustvl/Vim-base-midclstok", "OpenGVLab/VideoMamba",
        "Soptq/R-Meeto",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vim_tiny", "vim_t_midclstok_76p1acc.pth"),
        ("vim_tiny.rmeeto_in1k", "Vim-Ti_30epoch_75.3"),
        ("vim_base_patch16_224", "vim_b_midclstok_81p9acc.pth"),
        ("vim_base_patch16_224.midclstok_in1k", "vim_b_midclstok_81p9acc.pth"),
        ("videomamba_middle", "videomamba_m16_in1k_res224.pth"),
        ("videomamba_middle_k400_f8_224.rmeeto_k400", "K400_VideoMamba-M_15epochs_78.9"),
        ("videomamba_small_k400_f8", "videomamba_s16_k400_f8_res224.pth"),
        ("vim_nano", None),
        ("vim_tiny.other", None),
        ("", None),
    ],
)
def test_find(name: str, file: str | None) -> None:
    found = find(name)
    assert (found and found.file) == file


def test_no_torch_is_needed_to_read_the_table() -> None:
    code = "import sys; from rmeeto.models.origins import ORIGINS; assert ORIGINS and 'torch' not in sys.modules"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
