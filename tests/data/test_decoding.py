from __future__ import annotations

import errno
import io

import numpy as np
import pytest

from rmeeto.data.augment import eval_transform
from rmeeto.data.decoding import UNREADABLE, decode, reason_of
from rmeeto.data.spec import InputSpec

from .spoil import BAD, ODD, encoded, ramp


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_with_a_reason(kind):
    with pytest.raises(UNREADABLE) as caught:
        decode(io.BytesIO(BAD[kind]()))
    reason = reason_of(caught.value)
    assert reason
    assert "\n" not in reason


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_has_its_pixels(kind):
    make, expected, allowed = ODD[kind]
    image = decode(io.BytesIO(make()))
    assert image.mode == ("RGB" if expected.ndim == 3 else "L")
    found = np.asarray(image).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= allowed
    assert eval_transform(InputSpec.of((3, 16, 16)))(image).shape == (3, 16, 16)


def test_random_damage_is_either_read_or_refused():
    """Whatever bytes change, nothing but the named errors comes out."""
    from PIL import Image

    random = np.random.default_rng(0)
    whole = [encoded(Image.fromarray(ramp()), name) for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")]
    reasons = []
    for turn in range(700):
        data = bytearray(whole[turn % len(whole)])
        for place in random.integers(0, min(len(data), 400), 4):
            data[place] = random.integers(0, 256)
        try:
            decode(io.BytesIO(bytes(data)))
        except UNREADABLE as error:
            reasons.append(reason_of(error))
    assert all(reasons)
    assert 0 < len(reasons) < 700


def test_a_fault_of_the_machine_costs_no_image():
    with pytest.raises(OSError, match="too many"):
        reason_of(OSError(errno.EMFILE, "too many open files"))
