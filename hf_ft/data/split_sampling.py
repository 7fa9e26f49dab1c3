"""Draw rows for a split from a seed: in class proportions, in whole groups, or the latest in time."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

from hf_ft.data.labels import advice_on_amounts
from hf_ft.errors import DataError
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    import numpy as np

    # Positions of the rows that are left, and positions of the rows that are drawn.
    Draw: TypeAlias = tuple[np.ndarray, np.ndarray]

# Groups are divided into at most this many folds; the wanted share is rounded to a number of folds.
_MOST_FOLDS = 20


def draw_rows(total: int, rows: int, classes: Sequence[str] | None, seed: int, key: str) -> Draw:
    """Draw rows at random, in the proportions of the classes.

    The row of a class that has only one row is never drawn.

    Args:
        total: number of rows to draw from.
        rows: number of rows to draw.
        classes: the class of each row; None: classes are ignored.
        seed: random seed.
        key: recipe key of the split, for messages.

    Returns:
        Positions left, positions drawn; both ascending.

    Raises:
        DataError: the rows left or drawn would be too few to hold every class.
    """
    import numpy as np
    from sklearn.model_selection import train_test_split

    everything = np.arange(total)
    if classes is None:
        _, drawn = train_test_split(everything, test_size=rows, random_state=seed)
        return np.setdiff1d(everything, drawn), np.sort(drawn)
    counts = Counter(classes)
    pool = everything[[counts[name] > 1 for name in classes]]
    several = sum(count > 1 for count in counts.values())
    if not several or rows < several or len(pool) - rows < several:
        raise DataError(f"{key}: {_too_few(counts, rows, len(pool))}{advice_on_amounts(counts)}")
    strata = [classes[index] for index in pool]
    _, drawn = train_test_split(pool, test_size=rows, random_state=seed, stratify=strata)
    return np.setdiff1d(everything, drawn), np.sort(drawn)


def _too_few(counts: Mapping[str, int], rows: int, pool: int) -> str:
    """Return why a draw cannot hold every class on both sides, with the counts.

    Args:
        counts: class -> number of rows to draw from.
        rows: number of rows to draw.
        pool: number of rows whose class has at least two rows.
    """
    several, total = sum(count > 1 for count in counts.values()), sum(counts.values())
    if not several:
        return (
            f"each of the {len(counts)} classes has one row, and a row cannot be on both sides of a split; "
            "give each class at least two rows, or merge classes"
        )
    text = f"{rows} of {total} rows cannot hold each of {several} classes on both sides"
    if pool < 2 * several:
        return f"{text}: {total / len(counts):.1f} rows per class are too few; add rows or merge classes"
    room = f"ask for at least {several} and at most {pool - several} rows"
    return f"{text}; {room}, or set data.split.stratify: false"


def draw_distinct(first: np.ndarray, rows: int, classes: Sequence[str] | None, seed: int, key: str) -> Draw:
    """Draw about `rows` rows as `draw_rows` does, and never separate rows that are equal.

    Args:
        first: for each row, the position of the first row that is equal to it, int [N].
        rows: number of rows to draw.
        classes: as for `draw_rows`.
        seed: random seed.
        key: recipe key of the split, for messages.

    Returns:
        Positions left, positions drawn; both ascending.

    Raises:
        DataError: as for `draw_rows`.
    """
    import numpy as np

    distinct = np.unique(first)
    if len(distinct) == len(first):
        return draw_rows(len(first), rows, classes, seed, key)
    wanted = max(1, round(rows * len(distinct) / len(first)))
    strata = None if classes is None else [classes[index] for index in distinct]
    try:
        _, drawn = draw_rows(len(distinct), wanted, strata, seed, key)
    except DataError as error:
        raise DataError(
            f"{error}. Equal rows are counted once here: of {len(first)} rows {len(distinct)} are different"
        ) from error
    taken = np.isin(first, distinct[drawn])
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def draw_groups(rows: int, groups: Sequence[str], classes: Sequence[str] | None, seed: int, key: str) -> Draw:
    """Draw whole groups with about `rows` rows together, in class proportions as far as groups allow.

    Args:
        rows: number of rows to draw; the result differs from it, because groups are drawn whole.
        groups: the group of each row.
        classes: the class of each row; None: classes are ignored.
        seed: random seed.
        key: recipe key of the split, for messages.

    Returns:
        Positions left, positions drawn; both ascending. No group is in both, and every class is left.

    Raises:
        DataError: there is only one group, or all rows of a class would be drawn.
    """
    import numpy as np
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    most = min(_MOST_FOLDS, len(set(groups)))
    if most < 2:
        raise DataError(f"{key}: all rows are of one group, so no group can be drawn.")
    share = Fraction(rows, len(groups)).limit_denominator(most)
    share = min(max(share, Fraction(1, most)), Fraction(most - 1, most))
    stratified = classes is not None and max(Counter(classes).values()) >= share.denominator
    kind = StratifiedGroupKFold if stratified else GroupKFold
    with warnings.catch_warnings():
        # scikit-learn warns of classes with fewer rows than folds; the audit reports them.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        folds = kind(share.denominator, shuffle=True, random_state=seed)
        parts = [part for _, part in folds.split(np.zeros(len(groups)), classes, groups)]
    labels = np.asarray(classes if classes is not None else [""] * len(groups))
    draws = []
    for start in range(share.denominator):
        taken = [parts[(start + step) % share.denominator] for step in range(share.numerator)]
        drawn = np.sort(np.concatenate(taken))
        left = np.setdiff1d(np.arange(len(groups)), drawn)
        draws.append((left, drawn))
    # Of all runs of consecutive folds, choose the first that leaves, and then draws, the most classes.
    left, drawn = max(draws, key=lambda draw: tuple(len(np.unique(labels[side])) for side in draw))
    lost = sorted(set(labels) - set(labels[left]))
    if lost:
        raise DataError(f"{key}: whole groups cannot be drawn without taking every row of {listing(lost)}.")
    return left, drawn


def draw_latest(times: np.ndarray, rows: int) -> Draw:
    """Draw the latest rows; rows with the same time are never separated.

    Args:
        times: time of each row as a number, [N].
        rows: number of rows to draw; more are drawn if several rows have the earliest time of the draw.

    Returns:
        Positions left, positions drawn; both in time order.

    Raises:
        DataError: no row would be left.
    """
    import numpy as np

    order = np.argsort(times, kind="stable")
    in_order = times[order]
    cut = int(np.searchsorted(in_order, in_order[len(order) - rows], side="left"))
    if cut == 0:
        raise DataError("data.split.by: time: too few different timestamps to cut the rows in two.")
    return order[:cut], order[cut:]


def draw_sample(total: int, rows: int, classes: Sequence[str] | None, seed: int, key: str) -> np.ndarray:
    """Draw a sample in class proportions that holds every class at least once.

    Args:
        total: number of rows to draw from.
        rows: number of rows to draw.
        classes: the class of each row; None: classes are ignored.
        seed: random seed.
        key: recipe key of the sample, for messages.

    Returns:
        Positions drawn, ascending.

    Raises:
        DataError: there are more classes than rows to draw.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(total)
    if classes is None:
        return np.sort(shuffled[:rows])
    names, codes, counts = np.unique(np.asarray(classes)[shuffled], return_inverse=True, return_counts=True)
    if rows < len(names):
        advice = advice_on_amounts(Counter(classes))
        raise DataError(f"{key}: {rows} rows cannot hold each of {len(names)} classes; ask for more{advice}")
    # One row for each class; the other rows are allotted by the largest remainder method.
    shares = (counts - 1) * (rows - len(names)) / max(1, (counts - 1).sum())
    taken = 1 + np.floor(shares).astype(int)
    taken[np.argsort(np.floor(shares) - shares, kind="stable")[: rows - taken.sum()]] += 1
    parts = [shuffled[codes == code][: taken[code]] for code in range(len(names))]
    return np.sort(np.concatenate(parts))
