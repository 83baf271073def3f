"""The published networks' own answers: logits within 1e-4, lengths, class places and sizes exactly."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from rmeeto.models import Vim, VimConfig
from rmeeto.models.configs import CONFIGS
from rmeeto.ops import native_info, use_backend
from rmeeto.reduction import Settings, attach, detach
from rmeeto.schedule import Schedule

HERE = Path(__file__).parent
_SPEC = importlib.util.spec_from_file_location("golden_fill", HERE / "fill.py")
fill = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fill)

SMALL = VimConfig(img_size=(112, 112), embed_dim=48, depth=8, num_classes=10)
TOLERANCE = 1e-4

# case: (r, where it merges, settings besides the official class place)
CASES = {
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
NATIVE = pytest.mark.skipif(native_info() is None, reason="the native kernels are not built here")
BACKENDS = ["reference", pytest.param("native", marks=NATIVE)]


@cache
def golden(file):
    with np.load(HERE / file) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@cache
def filled(config):
    return fill.fill_model(Vim(config)).eval()


def merging(config, r, where, settings):
    schedule = Schedule.constant(r, config.depth, **where)
    return attach(filled(config), schedule, Settings(class_place="official", **settings))


def observed(model, images):
    """Logits; tokens leaving each block and the class token's place there; sizes and residual stream at the end."""
    leaving = []
    handles = [layer.register_forward_hook(lambda _m, _a, tokens: leaving.append(tokens)) for layer in model.layers]
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


def test_every_golden_case_is_in_the_table():
    assert {key.split("/")[0] for key in golden("vim.npz")} == set(CASES)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_small_vim(case, backend):
    expected = {key.split("/")[1]: value for key, value in golden("vim.npz").items() if key.startswith(f"{case}/")}
    model = merging(SMALL, *CASES[case])
    with use_backend(backend):
        seen = observed(model, fill.fill_input("image", (3, 3, 112, 112)))
    assert seen["lengths"].tolist() == expected["lengths"].tolist()
    assert (seen["positions"] == expected["positions"][:, None]).all()
    assert torch.equal(seen["sizes"], expected["sizes"])
    torch.testing.assert_close(seen["logits"], expected["logits"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(seen["last_hidden"], expected["last_hidden"], atol=TOLERANCE, rtol=1e-5)


@NATIVE
@pytest.mark.parametrize(
    ("name", "r"), [("vim_tiny", 0), ("vim_tiny", 5), ("vim_tiny", 11), ("vim_tiny", 20), ("vim_small", 11)]
)
def test_full_size_vim(name, r):
    expected = {key: value for key, value in golden("full_size.npz").items() if key.startswith(f"{name}/r{r}/")}
    with use_backend("native"):
        seen = observed(merging(CONFIGS[name], r, {}, {}), fill.fill_input("imagenet", (2, 3, 224, 224)))
    assert seen["lengths"].tolist() == expected[f"{name}/r{r}/lengths"].tolist()
    assert (seen["positions"] == expected[f"{name}/r{r}/positions"][:, None]).all()
    torch.testing.assert_close(seen["logits"], expected[f"{name}/r{r}/logits"], atol=TOLERANCE, rtol=0)


@NATIVE
@pytest.mark.parametrize("settings", [{}, {"class_place": "exact"}, {"size_aware_scan": True}, {"mode": "amax"}])
def test_gradients_of_both_ops_agree(settings):
    model = filled(SMALL)
    attach(model, Schedule.constant(12, SMALL.depth), Settings(**{"class_place": "official", **settings}))
    images = fill.fill_input("image", (3, 3, 112, 112))
    gradients = {}
    for backend in ("reference", "native"):
        model.zero_grad()
        with use_backend(backend):
            torch.nn.functional.cross_entropy(model(images), torch.tensor([1, 4, 7])).backward()
        gradients[backend] = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    assert all(gradient.abs().max() > 0 for gradient in gradients["reference"].values())
    for name, expected in gradients["reference"].items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(gradients["native"][name], expected, atol=1e-4 * scale, rtol=1e-3, msg=name)


def test_detached_model_answers_as_the_unmerged_one():
    model = merging(SMALL, 12, {}, {})
    with use_backend("reference"), torch.no_grad():
        logits = detach(model)(fill.fill_input("image", (3, 3, 112, 112)))
    torch.testing.assert_close(logits, golden("vim.npz")["r0/logits"], atol=TOLERANCE, rtol=0)
