"""How sure a metric is, and how sure its difference from another model's: the percentile bootstrap."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hf_ft.errors import DataError
from hf_ft.task import Metrics

Interval = tuple[float, float]


@dataclass(frozen=True)
class Rival:
    """What a model is compared with, row by row.

    Args:
        metrics: what has seen the rival's results of M rows.
        rows: which rows of the split these are, ascending, int [M]; None: all of them.
    """

    metrics: Metrics
    rows: np.ndarray | None = None


def bootstrap_interval(
    metrics: Metrics,
    name: str,
    rows: int,
    *,
    resamples: int,
    confidence: float,
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """Return the percentile bootstrap interval of a metric.

    Rows are drawn with replacement, as many as there are, and the metric is taken of each such resample
    (Efron 1979, "Bootstrap methods: another look at the jackknife"). The interval tells how much the figure
    would move with another test set of this size; it says nothing of another training run.

    With groups, whole groups are drawn (the cluster bootstrap; Davison and Hinkley 1997, section 3.8): frames
    of one track, scans of one patient are not independent, and an interval over rows would be too narrow.

    A resample on which the metric is undefined (ROC-AUC without a positive row) is drawn again.

    Args:
        metrics: what has seen all N rows.
        name: the metric.
        rows: N.
        resamples: how many resamples.
        confidence: the interval's nominal coverage, such as 0.95.
        seed: of the draws; the same seed gives the same interval.
        groups: N group keys, or None.

    Returns:
        (low, high).

    Raises:
        DataError: there are too few rows or groups, or the metric is undefined on most resamples.
    """
    own, _ = paired_intervals(
        metrics, [], name, rows, resamples=resamples, confidence=confidence, seed=seed, groups=groups
    )
    return own


def paired_intervals(
    metrics: Metrics,
    rivals: Sequence[Rival],
    name: str,
    rows: int,
    *,
    resamples: int,
    confidence: float,
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> tuple[Interval, list[Interval | None]]:
    """Return the interval of a metric, and those of its differences from the rivals'.

    The bootstrap is paired: model and rival are measured on the same resampled rows, so what makes a resample
    easy or hard for both falls out of the difference (Efron and Tibshirani 1993, "An introduction to the
    bootstrap", chapter 8). All rivals share the draws of `bootstrap_interval`.

    Args:
        metrics: what has seen the model's results of all N rows.
        rivals: what the model is compared with, each on the rows that it has a result for.
        name: the metric.
        rows: N.
        resamples: how many resamples.
        confidence: the intervals' nominal coverage.
        seed: of the draws.
        groups: N group keys, or None.

    Returns:
        (low, high) of the metric; and for each rival (low, high) of the model's value minus the rival's, None
        where that is undefined on most resamples.

    Raises:
        DataError: as `bootstrap_interval`.
    """
    positions = [_positions(rival, rows) for rival in rivals]
    own: list[float] = []
    differences: list[list[float]] = [[] for _ in rivals]
    for drawn in _draws(rows, groups, seed, 2 * resamples):
        value = metrics.value(name, drawn)
        if np.isnan(value):
            continue
        own.append(value)
        for rival, place, found in zip(rivals, positions, differences, strict=True):
            if len(found) < resamples:
                difference = _difference(metrics, rival, place, name, drawn, value)
                found += [] if np.isnan(difference) else [difference]
        if min(map(len, [own, *differences])) >= resamples:
            break
    if len(own) < resamples:
        raise DataError(
            f"{name} is undefined on {2 * resamples - len(own)} of {2 * resamples} resamples of {rows} rows; "
            "evaluate on more rows, or set evaluate.intervals: none"
        )
    tail = (1 - confidence) / 2
    paired = [_interval(found, tail) if len(found) == resamples else None for found in differences]
    return _interval(own[:resamples], tail), paired


def _draws(rows: int, groups: Sequence[Hashable] | None, seed: int, most: int) -> Iterator[np.ndarray]:
    """Draw rows, or whole groups of them, with replacement."""
    members = _members(rows, groups)
    count = rows if members is None else len(members)
    if count < 2:
        kind = "row" if members is None else "group"
        raise DataError(f"an interval needs at least 2 {kind}s to draw from, and there are {count}")
    rng = np.random.default_rng(seed)
    for _ in range(most):
        drawn = rng.integers(count, size=count)
        yield drawn if members is None else np.concatenate([members[group] for group in drawn])


def _positions(rival: Rival, rows: int) -> np.ndarray | None:
    """Return where the rival's metrics have each row, -1 for nowhere, int [N]; None: each at its own place."""
    if rival.rows is None:
        return None
    positions = np.full(rows, -1)
    positions[rival.rows] = np.arange(len(rival.rows))
    return positions


def _difference(
    metrics: Metrics, rival: Rival, positions: np.ndarray | None, name: str, drawn: np.ndarray, value: float
) -> float:
    """Return the model's value minus the rival's on the drawn rows that the rival has a result for."""
    if positions is None:
        return value - rival.metrics.value(name, drawn)
    known = drawn[positions[drawn] >= 0]
    if not len(known):
        return float("nan")
    return metrics.value(name, known) - rival.metrics.value(name, positions[known])


def _interval(values: Sequence[float], tail: float) -> Interval:
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _members(rows: int, groups: Sequence[Hashable] | None) -> list[np.ndarray] | None:
    """Return the row indices of each group, in the order the groups first appear."""
    if groups is None:
        return None
    if len(groups) != rows:
        raise DataError(f"{len(groups)} groups came with {rows} rows; expected one for each")
    found: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        found.setdefault(group, []).append(row)
    return [np.asarray(indices) for indices in found.values()]
