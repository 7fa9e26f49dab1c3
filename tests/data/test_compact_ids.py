"""Compact ids: equal to the list of ids that they replace, in a fraction of its memory."""

from __future__ import annotations

import pytest

from hf_ft.data.compact_ids import NumberedIds, compact_ids

LISTS = {
    "counting": [f"train/{row}" for row in range(100)],
    "two files": [*(f"a.csv/{row}" for row in range(50)), *(f"b/{row}" for row in range(9, 60))],
    "with gaps": [f"x{row}" for row in range(100) if row % 10],
    "numbers alone": [str(row) for row in range(40)],
}


@pytest.mark.parametrize("names", LISTS.values(), ids=LISTS)
def test_numbered_ids_are_compacted_and_equal(names):
    found = compact_ids(names)
    assert isinstance(found, NumberedIds) and len(found.runs) <= len(names) / 9
    assert list(found) == names and len(found) == len(names)
    assert [found[row] for row in range(-len(names), len(names))] == names * 2
    assert found[3:20:4] == names[3:20:4] and names[7] in found
    with pytest.raises(IndexError):
        found[len(names)]


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b", "c", "d"],
        ["x007", "x008", "x009", "x010"],
        [f"n{row}" for row in (5, 1, 9, 3)],
        ["0" * 40] * 4,
        [],
    ],
)
def test_other_ids_stay_a_list(names):
    assert list(compact_ids(names)) == names


def test_ids_with_very_long_numbers_stay_a_list():
    names = [f"{'9' * 5000}{row}" for row in range(4)]
    assert compact_ids(names) == names
