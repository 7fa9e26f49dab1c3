"""Paired timing: an answer is sure only where most pairs agree."""

import pytest

from hf_ft.train import paired_timing
from hf_ft.train.paired_timing import MOST_PAIRS, USUAL_PAIRS, PairedTiming, time_pairs


@pytest.mark.parametrize(
    ("speedups", "is_faster", "is_sure"),
    [
        ((2.0,), True, True),
        ((1.2,), False, False),  # one pair that is not decisive
        ((1.3, 1.4, 1.2), True, True),
        ((1.4, 0.3, 1.3, 1.4, 1.5), True, True),  # a burst of another program in one of five
        ((1.4, 0.9, 1.3, 0.8, 2.5), False, False),  # a busy machine
        ((0.8, 0.9, 0.9), False, True),
        ((0.4,), False, True),
    ],
)
def test_an_answer_is_sure_only_where_most_pairs_agree(speedups, is_faster, is_sure):
    found = PairedTiming(tuple((speedup, 1.0) for speedup in speedups))
    assert (found.is_faster, found.is_sure) == (is_faster, is_sure)
    assert ("not sure" in str(found)) == (not is_sure) and f"{min(speedups):.2f}" in str(found)
    assert found.fastest_seconds == (min(speedups), 1.0)


@pytest.mark.parametrize(
    ("usual", "long", "expected"),
    [
        (2.0, False, USUAL_PAIRS),
        (2.0, True, 1),
        (1.2, True, 3),
        (1.1, False, MOST_PAIRS),  # neither above nor below the threshold
    ],
)
def test_measuring_ends_when_it_is_sure(monkeypatch, usual, long, expected):
    monkeypatch.setattr(paired_timing, "LONG_SECONDS", -1 if long else 60)
    called = []
    found = time_pairs(lambda: called.append("usual") or usual, lambda: called.append("new") or 1.0)
    assert len(found.pairs) == expected
    assert called == ["usual", "new"] * (expected + 1)  # the first of each is not counted
