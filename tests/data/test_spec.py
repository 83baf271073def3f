from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rmeeto.data.spec import Augment, DataSpec, InputSpec, Share
from rmeeto.errors import SettingsError


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DataSpec(""), "data is empty"),
        (lambda: DataSpec(batch_size=0), "batch_size 0"),
        (lambda: DataSpec(val_limit=-3), "val_limit -3"),
        (lambda: DataSpec(workers=-1), "workers -1"),
        (lambda: DataSpec(prefetch=0), "prefetch 0"),
        (lambda: DataSpec(train_share=0.0), "train_share 0.0"),
        (lambda: DataSpec(train_share=1.5), "train_share 1.5"),
        (lambda: DataSpec(train_share=0.5, train_limit=5), "train_share 0.5 and train_limit 5 both"),
        (lambda: DataSpec(subset_seed=-1), "subset_seed -1"),
        (lambda: DataSpec(max_bad_images=1.1), "max_bad_images 1.1"),
        (lambda: InputSpec((2, 8, 8)), "input size"),
        (lambda: InputSpec((3, 0, 8)), "input size"),
        (lambda: InputSpec((1, 8, 8)), "one number per channel"),
        (lambda: InputSpec(std=(0.0, 1.0, 1.0)), "std"),
        (lambda: InputSpec(crop_pct=0), "crop_pct 0"),
        (lambda: InputSpec(crop_mode="middle"), "crop_mode 'middle'"),
        (lambda: InputSpec(interpolation="random"), "interpolation 'random'"),
        (lambda: InputSpec.from_dict({"sizes": (3, 8, 8)}), "unknown keys"),
        (lambda: Augment(crop="square"), "crop 'square'"),
        (lambda: Augment(scale=(1.0, 0.5)), "scale"),
        (lambda: Augment(ratio=(0.5,)), "ratio"),
        (lambda: Augment(hflip=1.5), "hflip 1.5"),
        (lambda: Augment(erasing=-0.1), "erasing -0.1"),
        (lambda: Augment(erasing_mode="black"), "erasing_mode 'black'"),
        (lambda: Augment(padding=-1), "padding -1"),
        (lambda: Augment(repeats=0), "repeats 0"),
        (lambda: Augment(interpolation="cubic"), "interpolation 'cubic'"),
        (lambda: Augment(auto_augment="strong"), "auto_augment 'strong'"),
        (lambda: Share(2, 2), "share 2 of 2"),
    ],
)
def test_an_impossible_value_is_refused_in_one_line(make, words):
    with pytest.raises(SettingsError) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "auto_augment",
    ["none", "rand-m9-mstd0.5-inc1", "rand-m5-n2-mstd0.25-inc1", "original-mstd0.5", "v0", "augmix-m5-w4"],
)
def test_timm_s_policies_are_accepted(auto_augment):
    assert Augment(auto_augment=auto_augment).auto_augment == auto_augment


def test_the_published_augmentation_is_the_default():
    augment = Augment()
    assert (augment.crop, augment.scale, augment.ratio) == ("resized", (0.08, 1.0), (3 / 4, 4 / 3))
    assert (augment.hflip, augment.policy, augment.color_jitter) == (0.5, "rand-m9-mstd0.5-inc1", 0)
    assert (augment.erasing, augment.erasing_mode, augment.interpolation, augment.repeats) == (
        0.25,
        "pixel",
        "bicubic",
        3,
    )


@pytest.mark.parametrize("value", [InputSpec.of((1, 28, 28)), InputSpec(), Augment(), Augment.light(), Augment.none()])
def test_values_survive_json(value):
    assert type(value).from_dict(json.loads(json.dumps(value.to_dict()))) == value


@pytest.mark.parametrize(("size", "crop_pct"), [((3, 224, 224), 0.875), ((1, 28, 28), 1.0), ((3, 32, 32), 1.0)])
def test_small_images_are_not_cropped(size, crop_pct):
    form = InputSpec.of(size)
    assert form.crop_pct == crop_pct
    assert len(form.mean) == size[0]


def test_settings_are_read_without_torch():
    code = "import sys; from rmeeto.data import Augment, DataSpec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
