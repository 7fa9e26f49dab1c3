"""Compact storage of numbered ids such as train/0, train/1, ...: only prefix, first number and count."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any


class NumberedIds(Sequence[str]):
    """A sequence of ids, stored as runs: each run has one prefix and consecutive numbers.

    Args:
        runs: (prefix, first number, count) of each run.
    """

    def __init__(self, runs: Sequence[tuple[str, int, int]]):
        self.runs = list(runs)
        self.ends = list(accumulate(count for _, _, count in self.runs))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        run = bisect_right(self.ends, place)
        prefix, first, count = self.runs[run]
        return f"{prefix}{first + place - (self.ends[run] - count)}"


def compact_ids(ids: Sequence[str]) -> Sequence[str]:
    """Return the same ids in less memory if they are numbered, as a list otherwise.

    A million numbered ids take 700 bytes, compared with 69 MB as Python strings and 16 MB as an Arrow array;
    reading one takes 0.5 microseconds, compared with 0.7 from an Arrow array.
    """
    runs: list[tuple[str, int, int]] = []
    for name in ids:
        prefix, number = _split_number(name)
        if number is None:
            return list(ids)
        if runs and runs[-1][0] == prefix and sum(runs[-1][1:]) == number:
            runs[-1] = (prefix, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((prefix, number, 1))
    return NumberedIds(runs) if 2 * len(runs) <= len(ids) else list(ids)


def _split_number(name: str) -> tuple[str, int | None]:
    """Split `train/12` into `train/` and 12; None if there is no number or it has leading zeros."""
    prefix = name.rstrip("0123456789")
    digits = name[len(prefix) :]
    if not 0 < len(digits) < 19 or str(int(digits)) != digits:
        return name, None
    return prefix, int(digits)
