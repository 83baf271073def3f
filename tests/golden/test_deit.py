"""The published DeiT's own answers: logits within 1e-4, lengths and sizes exactly."""

from __future__ import annotations

import pytest

from .cases import DEIT_CASES, IMAGE, TOLERANCE, answers, golden, inexact, largest_error, merging_deit, observed
from .fill import fill_input


def test_every_golden_case_is_in_the_table():
    assert {key.split("/")[0] for key in golden("deit.npz")} == set(DEIT_CASES)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("case", DEIT_CASES)
def test_deit(case, fused):
    model, expected = merging_deit(case, fused=fused), answers("deit.npz", f"{case}/")
    assert {"logits", "lengths", "sizes"} == set(expected)
    seen = observed(model, fill_input(*IMAGE), model.slots)
    assert not inexact(seen, expected)
    assert largest_error(seen, expected) <= TOLERANCE
