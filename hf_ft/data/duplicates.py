"""Find rows that occur twice: equal by their content hash, or nearly equal by their perceptual hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from hf_ft.task import Inspection

# Rows are nearly equal if their 64-bit perceptual hashes differ in at most this many bits.
NEAR = 3
# Split -> the splits that the model or its checkpoint was chosen with before; and the reverse.
EARLIER = {"validation": ("train",), "test": ("train", "validation")}
LATER = {"train": ("test", "validation"), "validation": ("test",)}
_PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Duplicates:
    """Rows of one split that occur again in the same or in another split.

    Args:
        kind: `equal` or `nearly equal`.
        splits: the split whose rows are counted, and the split in which they occur again.
        rows: number of rows of the first split that occur again.
        share: their share of the rows of the first split, 0 to 1.
        examples: up to 20 pairs of row ids, one id from each split.
        contradictory: pairs of equal rows with different labels, up to 20; they come first.
    """

    kind: str
    splits: tuple[str, str]
    rows: int
    share: float
    examples: list[tuple[str, str]]
    contradictory: list[tuple[str, str]] = field(default_factory=list)


def find_duplicates(
    ids: Mapping[str, Sequence[str]],
    inspected: Mapping[str, Sequence[Inspection]],
    labels: Mapping[str, Sequence[Any]] | None = None,
) -> list[Duplicates]:
    """Find equal rows within and across splits, and nearly equal rows across splits.

    Args:
        ids: split -> row ids.
        inspected: split -> inspection of each row; rows with a problem are ignored.
        labels: split -> label of each row; None: labels are not compared.

    Returns:
        One entry per kind and pair of splits that share rows. For two splits, the rows of the smaller split
        are counted.
    """
    found: list[Duplicates] = []
    label_of = {
        name: str(label)
        for split, names in ids.items()
        for name, label in zip(names, (labels or {}).get(split, ()), strict=False)
    }
    places: dict[str, dict[str, list[str]]] = {split: {} for split in inspected}
    for split, entries in inspected.items():
        for name, entry in zip(ids[split], entries, strict=True):
            if entry.digest is not None and entry.problem is None:
                places[split].setdefault(entry.digest, []).append(name)
        again = [names for names in places[split].values() if len(names) > 1]
        rows = sum(len(names) - 1 for names in again)
        examples = [(name, names[0]) for names in again for name in names[1:]]
        found += _entry("equal", split, split, rows, len(entries), examples, label_of)
    for pair in combinations(inspected, 2):
        small, large = sorted(pair, key=lambda split: len(inspected[split]))
        shared = places[small].keys() & places[large].keys()
        examples = [
            (names[0], places[large][key][0]) for key, names in places[small].items() if key in shared
        ]
        rows = sum(len(places[small][key]) for key in shared)
        found += _entry("equal", small, large, rows, len(inspected[small]), examples, label_of)
        near = _near(inspected[small], inspected[large])
        examples = [(ids[small][i], ids[large][j]) for i, j in near]
        found += _entry(
            "nearly equal", small, large, len({i for i, _ in near}), len(inspected[small]), examples
        )
    return found


def rows_in_other_splits(
    ids: Mapping[str, Sequence[str]],
    inspected: Mapping[str, Sequence[Inspection]],
    compared: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, str]]:
    """Find all rows of a split that are equal to a row of certain other splits.

    Args:
        ids: split -> row ids.
        inspected: split -> inspection of each row; rows with a problem are ignored.
        compared: split -> the splits that its rows are compared with, such as `EARLIER` or `LATER`.

    Returns:
        Split -> row id -> id of the first equal row of the first such split; only splits with such rows.
    """
    usable = {
        split: [
            (name, entry.digest)
            for name, entry in zip(ids[split], entries, strict=True)
            if entry.digest is not None and entry.problem is None
        ]
        for split, entries in inspected.items()
    }
    found = {}
    for split, others in compared.items():
        places: dict[str, str] = {}
        for other in others:
            for name, digest in usable.get(other, ()):
                places.setdefault(digest, name)
        found[split] = {name: places[digest] for name, digest in usable.get(split, ()) if digest in places}
    return {split: rows for split, rows in found.items() if rows}


def _entry(
    kind: str,
    split: str,
    other: str,
    rows: int,
    of: int,
    examples: list[tuple[str, str]],
    label_of: Mapping[str, str] | None = None,
) -> list[Duplicates]:
    if not rows:
        return []
    known = label_of or {}
    differing = [(one, two) for one, two in examples if known.get(one) != known.get(two)]
    return [Duplicates(kind, (split, other), rows, rows / of, examples[:20], differing[:20])]


def _near(a: Sequence[Inspection], b: Sequence[Inspection]) -> list[tuple[int, int]]:
    """Return the positions of nearly equal rows of two splits, without the equal ones."""
    rows, hashes = [], []
    for entries in (a, b):
        usable = [
            row for row, entry in enumerate(entries) if entry.perceptual is not None and entry.problem is None
        ]
        rows.append(usable)
        hashes.append(np.array([entries[row].perceptual for row in usable], dtype=np.uint64))
    first, second = near_pairs(hashes[0], hashes[1], NEAR)
    pairs = [(rows[0][i], rows[1][j]) for i, j in zip(first.tolist(), second.tolist(), strict=True)]
    return [(i, j) for i, j in pairs if a[i].digest is None or a[i].digest != b[j].digest]


def near_pairs(a: np.ndarray, b: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Find all pairs of 64-bit hashes that differ in at most `distance` bits.

    Two hashes that differ in at most 3 bits agree in at least one of four bands of 16 bits, so only pairs
    that share a band are compared.

    Args:
        a: uint64 [N].
        b: uint64 [M].
        distance: largest number of bits that may differ, 0 to 3.

    Returns:
        The positions of each pair in `a` and in `b`, int [pairs] each, sorted, each pair once.

    Raises:
        ValueError: the distance is not 0 to 3.
    """
    if not 0 <= distance <= 3:
        raise ValueError(f"distance must be 0 to 3, found {distance}")
    found: list[np.ndarray] = [np.empty((2, 0), dtype=np.int64)]
    for shift in (0, 16, 32, 48):
        band_a, band_b = ((hashes >> np.uint64(shift)) & np.uint64(0xFFFF) for hashes in (a, b))
        order = np.argsort(band_b, kind="stable")
        low = np.searchsorted(band_b[order], band_a, side="left")
        counts = np.searchsorted(band_b[order], band_a, side="right") - low
        # Many hashes may share a band: pairs are compared in pieces, which bounds the memory.
        pieces = np.searchsorted(np.cumsum(counts), np.arange(_PAIRS_AT_ONCE, counts.sum(), _PAIRS_AT_ONCE))
        for start, stop in pairwise([0, *pieces.tolist(), len(a)]):
            size = counts[start:stop]
            left = np.repeat(np.arange(start, stop), size)
            within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
            right = order[np.repeat(low[start:stop], size) + within]
            close = np.bitwise_count(a[left] ^ b[right]) <= distance
            found.append(np.stack([left[close], right[close]]))
    pairs = np.unique(np.concatenate(found, axis=1), axis=1)
    return pairs[0], pairs[1]
