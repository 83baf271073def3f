"""The published networks' own answers: logits within 1e-4, lengths, class places and sizes exactly."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from rmeeto.models import Vim, VimConfig
from rmeeto.models.configs import config_of
from rmeeto.ops import native_info, use_backend
from rmeeto.reduction import Settings, attach, detach
from rmeeto.schedule import Schedule

from .fill import fill_input, fill_model

HERE = Path(__file__).parent
TOLERANCE = 1e-4

# case: (r, where it merges, settings besides the official class place)
IMAGE_CASES = {
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
VIDEO_CASES = {
    "r0": (0, {}, {}),
    "r6": (6, {}, {}),
    "r6_unordered": (6, {}, {"order": "unordered"}),
    "r6_prune": (6, {}, {"mode": "prune"}),
    "r20": (20, {}, {}),
}


class Network(NamedTuple):
    """A small network whose answers are in a file.

    Attributes:
        file: the answers.
        config: the sizes.
        input: tag and shape of the input.
        cases: what was asked.
    """

    file: str
    config: VimConfig
    input: tuple[str, tuple[int, ...]]
    cases: dict

    def images(self):
        return fill_input(*self.input)

    def expected(self, case):
        return {key.split("/")[1]: value for key, value in golden(self.file).items() if key.startswith(f"{case}/")}


SIZES = {"embed_dim": 48, "num_classes": 10}
IMAGE = ("image", (3, 3, 112, 112))
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
}
ALL_CASES = [(network, case) for network in NETWORKS for case in NETWORKS[network].cases]
NATIVE = pytest.mark.skipif(native_info() is None, reason="the native kernels are not built here")
BACKENDS = ["reference", pytest.param("native", marks=NATIVE)]


@cache
def golden(file):
    with np.load(HERE / file) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@cache
def filled(config):
    return fill_model(Vim(config)).eval()


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


@pytest.mark.parametrize("network", NETWORKS)
def test_every_golden_case_is_in_the_table(network):
    network = NETWORKS[network]
    assert {key.split("/")[0] for key in golden(network.file)} == set(network.cases)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("network", "case"), ALL_CASES)
def test_small_network(network, case, backend):
    network = NETWORKS[network]
    expected = network.expected(case)
    model = merging(network.config, *network.cases[case])
    with use_backend(backend):
        seen = observed(model, network.images())
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
        seen = observed(merging(config_of(name), r, {}, {}), fill_input("imagenet", (2, 3, 224, 224)))
    assert seen["lengths"].tolist() == expected[f"{name}/r{r}/lengths"].tolist()
    assert (seen["positions"] == expected[f"{name}/r{r}/positions"][:, None]).all()
    torch.testing.assert_close(seen["logits"], expected[f"{name}/r{r}/logits"], atol=TOLERANCE, rtol=0)


@NATIVE
@pytest.mark.parametrize(
    ("network", "settings"),
    [
        ("vim", {}),
        ("vim", {"class_place": "exact"}),
        ("vim", {"size_aware_scan": True}),
        ("vim", {"mode": "amax"}),
        ("videomamba", {}),
        ("video", {"class_place": "exact"}),
    ],
)
def test_gradients_of_both_ops_agree(network, settings):
    network = NETWORKS[network]
    model, images = filled(network.config), network.images()
    attach(model, Schedule.constant(12, network.config.depth), Settings(**{"class_place": "official", **settings}))
    labels = torch.tensor([1, 4, 7][: len(images)])
    gradients = {}
    for backend in ("reference", "native"):
        model.zero_grad()
        with use_backend(backend):
            torch.nn.functional.cross_entropy(model(images), labels).backward()
        gradients[backend] = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    still = [name for name, gradient in gradients["reference"].items() if not gradient.any()]
    # A class token that stands first has no past: the last forward scan's decay never reaches the logits.
    assert still == ([f"layers.{network.config.depth - 1}.mixer.A_log"] if network.config.class_place == 0 else [])
    for name, expected in gradients["reference"].items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(gradients["native"][name], expected, atol=1e-4 * scale, rtol=1e-3, msg=name)


@pytest.mark.parametrize("network", NETWORKS)
def test_detached_model_answers_as_the_unmerged_one(network):
    network = NETWORKS[network]
    model = merging(network.config, 12, {}, {})
    with use_backend("reference"), torch.no_grad():
        logits = detach(model)(network.images())
    torch.testing.assert_close(logits, network.expected("r0")["logits"], atol=TOLERANCE, rtol=0)
