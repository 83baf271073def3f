"""Settings: what is refused, and JSON."""

from __future__ import annotations

import json

import pytest

from rmeeto.errors import SettingsError
from rmeeto.reduction import Settings, feature_width


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"feature": "X"}, "'X'"),
        ({"similarity": "dot"}, "cosine, l1, l2"),
        ({"mode": "median"}, "sum, mean, amax, amin, prune"),
        ({"order": "random"}, "ordered, unordered"),
        ({"class_place": "middle"}, "exact, official"),
        ({"split": "halves"}, "patches, sequence"),
        ({"matcher": "hungarian"}, "'hungarian'"),
        ({"rank": 0}, "rank = 0"),
        ({"rank": True}, "rank = True"),
        ({"rank": 1.0}, "rank = 1.0"),
        ({"seed": -1}, "seed = -1"),
        ({"size_aware_scan": "False"}, "'False'"),
        ({"proportional_attention": 1}, "proportional_attention = 1"),
        ({"shuffle": 1.5}, "1.5"),
        ({"shuffle": "half"}, "'half'"),
        ({"shuffle": float("nan")}, "nan"),
        ({"ranks": 1}, "unknown settings ranks"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(values, word):
    with pytest.raises(SettingsError) as caught:
        Settings.from_dict(values)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_and_back():
    settings = Settings(feature="delta", rank=3, shuffle=0.5, size_aware_scan=True)
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert Settings.from_dict({}) == Settings()


@pytest.mark.parametrize(("feature", "width"), [("hidden", 192), ("x", 192), ("B", 16), ("C", 16), ("delta", 384)])
def test_width_of_the_compared_feature(feature, width):
    assert feature_width(feature, embed_dim=192, inner_dim=384, state_size=16) == width


def test_width_of_a_feature_that_a_mamba_has_not():
    with pytest.raises(SettingsError, match="'q' is of attention"):
        feature_width("q", embed_dim=192, inner_dim=384, state_size=16)
