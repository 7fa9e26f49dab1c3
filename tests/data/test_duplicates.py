import numpy as np
import pytest

from hf_ft.data import duplicates
from hf_ft.data.duplicates import EARLIER, LATER, find_duplicates, near_pairs, rows_in_other_splits
from hf_ft.task import Inspection


def ids(inspected):
    return {split: [f"{split}/{row}" for row in range(len(seen))] for split, seen in inspected.items()}


@pytest.mark.parametrize("at_once", [1, 50, 4_000_000])
@pytest.mark.parametrize("distance", [0, 1, 3])
def test_near_pairs_equal_those_of_a_full_comparison(monkeypatch, at_once, distance):
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    a = rng.integers(2**63, size=60, dtype=np.uint64)
    flips = [
        sum(1 << int(bit) for bit in rng.choice(64, size=rng.integers(6), replace=False)) for _ in range(60)
    ]
    b = np.concatenate([a ^ np.array(flips, dtype=np.uint64), a[:5], a[:5]])
    expected = [
        (i, j) for i in range(len(a)) for j in range(len(b)) if int(a[i] ^ b[j]).bit_count() <= distance
    ]
    found = near_pairs(a, b, distance)
    assert list(zip(*(positions.tolist() for positions in found), strict=True)) == expected


def test_near_pairs_of_no_rows_and_of_a_distance_too_large():
    nothing = np.array([], dtype=np.uint64)
    assert len(near_pairs(nothing, np.array([1], dtype=np.uint64), 3)[0]) == 0
    assert len(near_pairs(np.array([1], dtype=np.uint64), nothing, 3)[0]) == 0
    with pytest.raises(ValueError, match="found 4"):
        near_pairs(nothing, nothing, 4)


def test_equal_rows_within_and_across_splits():
    inspected = {
        "train": [Inspection(digest=digest) for digest in "abcdea"],
        "test": [Inspection(digest=digest) for digest in "axb"],
    }
    within, across = find_duplicates(ids(inspected), inspected)
    assert (within.kind, within.splits, within.rows) == ("equal", ("train", "train"), 1)
    assert within.examples == [("train/5", "train/0")]
    assert (across.splits, across.rows) == (("test", "train"), 2) and across.share == pytest.approx(2 / 3)
    assert across.examples == [("test/0", "train/0"), ("test/2", "train/1")]


def test_nearly_equal_rows_leave_out_equal_and_unreadable_ones():
    inspected = {
        "train": [Inspection(digest="a", perceptual=0b1111), Inspection(digest="b", perceptual=2**64 - 1)],
        "test": [
            Inspection(digest="a", perceptual=0b1111),
            Inspection(digest="c", perceptual=0b1100),
            Inspection(problem="broken", perceptual=0b1111),
            Inspection(digest="d"),
        ],
    }
    found = {entry.kind: entry for entry in find_duplicates(ids(inspected), inspected)}
    assert found["equal"].splits == ("train", "test") and found["equal"].rows == 1
    assert found["nearly equal"].examples == [("train/0", "test/1")]


def test_equal_rows_with_different_labels_are_named():
    """They are an error in the labels, and were reported as a harmless repetition."""
    inspected = {"train": [Inspection(digest=digest) for digest in "aabbc"], "test": [Inspection(digest="c")]}
    labels = {"train": ["x", "x", "x", "y", "x"], "test": ["y"]}
    within, across = find_duplicates(ids(inspected), inspected, labels)
    names = ids(inspected)
    assert within.contradictory == [(names["train"][3], names["train"][2])]
    assert across.contradictory == [(names["test"][0], names["train"][4])]
    assert not find_duplicates(ids(inspected), inspected)[0].contradictory


def test_rows_in_other_splits_are_all_named_with_an_equal_row():
    inspected = {
        "train": [Inspection(digest=digest) for digest in "abbcd"],
        "validation": [
            Inspection(digest="b"),
            Inspection(digest="c"),
            Inspection(problem="broken", digest="d"),
        ],
        "test": [Inspection(digest="c"), Inspection(digest="e"), Inspection()],
    }
    names = ids(inspected)
    assert rows_in_other_splits(names, inspected, LATER) == {
        "train": {"train/1": "validation/0", "train/2": "validation/0", "train/3": "test/0"},
        "validation": {"validation/1": "test/0"},
    }
    assert rows_in_other_splits(names, inspected, EARLIER) == {
        "validation": {"validation/0": "train/1", "validation/1": "train/3"},
        "test": {"test/0": "train/3"},
    }
    del inspected["test"]
    found = rows_in_other_splits(ids(inspected), inspected, LATER)
    assert found == {
        "train": {"train/1": "validation/0", "train/2": "validation/0", "train/3": "validation/1"}
    }
