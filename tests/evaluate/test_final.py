"""The interval where the bootstrap has no width."""

import pytest

from hf_ft.evaluate.final import _wilson


def test_all_right_on_few_rows_is_not_certainty():
    low, high = _wilson(1.0, 12, 0.95)
    assert low == pytest.approx(0.757, abs=0.002) and high == pytest.approx(1.0)
