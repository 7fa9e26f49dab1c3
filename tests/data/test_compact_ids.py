"""Names that count on: equal to the list they stand for, in a fraction of its memory."""

from __future__ import annotations

import pytest

from hf_ft.data.compact_ids import NumberedNames, compact

LISTS = {
    "counting": [f"train/{row}" for row in range(100)],
    "two files": [*(f"a.csv/{row}" for row in range(50)), *(f"b/{row}" for row in range(9, 60))],
    "with gaps": [f"x{row}" for row in range(100) if row % 10],
    "numbers alone": [str(row) for row in range(40)],
}


@pytest.mark.parametrize("names", LISTS.values(), ids=LISTS)
def test_names_that_count_on_are_the_same_names(names):
    found = compact(names)
    assert isinstance(found, NumberedNames) and len(found.runs) <= len(names) / 9
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
def test_other_names_stay_what_they_are(names):
    assert list(compact(names)) == names


def test_numbers_too_long_to_be_read_stay_text():
    names = [f"{'9' * 5000}{row}" for row in range(4)]
    assert compact(names) == names
