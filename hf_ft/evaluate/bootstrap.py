"""Percentile bootstrap: confidence intervals of a metric, and of its difference from a baseline's."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hf_ft.errors import DataError
from hf_ft.task import Metrics

Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedBaseline:
    """A baseline that a model is compared with row by row.

    Args:
        metrics: metrics that were updated with the baseline's results of M rows.
        rows: positions of these rows in the split, ascending, int [M]; None: all rows.
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

    A resample draws N rows with replacement, and the metric is computed on each resample (Efron 1979,
    "Bootstrap methods: another look at the jackknife"). The interval shows how much the metric would vary
    with another test set of this size; it does not show how much it would vary with another training run.

    With groups, whole groups are drawn (the cluster bootstrap; Davison and Hinkley 1997, "Bootstrap methods
    and their application", section 3.8): frames of one track or scans of one patient are not independent, and
    an interval over rows would be too narrow.

    A resample on which the metric is undefined (ROC-AUC without a positive row) is drawn again.

    Args:
        metrics: metrics that were updated with all N rows.
        name: the metric.
        rows: N.
        resamples: number of resamples.
        confidence: nominal coverage of the interval, such as 0.95.
        seed: of the random draws; the same seed gives the same interval.
        groups: group of each row, N keys, or None.

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
    baselines: Sequence[PairedBaseline],
    name: str,
    rows: int,
    *,
    resamples: int,
    confidence: float,
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> tuple[Interval, list[Interval | None]]:
    """Return the interval of a metric, and the intervals of its differences from the baselines.

    The bootstrap is paired: model and baseline are measured on the same resampled rows, so that a resample
    which is easy or hard for both hardly changes the difference (Efron and Tibshirani 1993, "An introduction
    to the bootstrap", chapter 8). All baselines use the resamples of `bootstrap_interval`.

    Args:
        metrics: metrics that were updated with the model's results of all N rows.
        baselines: baselines, each with the rows that it has a result for.
        name: the metric.
        rows: N.
        resamples: number of resamples.
        confidence: nominal coverage of the intervals.
        seed: of the random draws.
        groups: group of each row, N keys, or None.

    Returns:
        (low, high) of the metric; and for each baseline (low, high) of the model's value minus the baseline's
        value, or None where that is undefined on most resamples.

    Raises:
        DataError: as `bootstrap_interval`.
    """
    positions = [_positions(baseline, rows) for baseline in baselines]
    own: list[float] = []
    differences: list[list[float]] = [[] for _ in baselines]
    for drawn in _draws(rows, groups, seed, 2 * resamples):
        value = metrics.value(name, drawn)
        if np.isnan(value):
            continue
        own.append(value)
        for baseline, place, found in zip(baselines, positions, differences, strict=True):
            if len(found) < resamples:
                difference = _difference(metrics, baseline, place, name, drawn, value)
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


def seeds_interval(
    metrics: Sequence[Metrics],
    name: str,
    rows: int,
    *,
    resamples: int,
    confidence: float,
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """Return the interval of a metric's mean over training runs with different seeds.

    A resample draws runs and rows, each with replacement, and takes the mean of the metric over the runs
    drawn (Owen 2007, "The pigeonhole bootstrap"). The interval shows how much the mean would vary with other
    seeds and another test set; with a handful of runs it is rough.

    Args:
        metrics: of each run, updated with its results of the same N rows.
        name: the metric.
        rows: N.
        resamples: number of resamples.
        confidence: nominal coverage of the interval.
        seed: of the random draws.
        groups: group of each row, N keys, or None.

    Returns:
        (low, high).

    Raises:
        DataError: as `bootstrap_interval`.
    """
    rng = np.random.default_rng((seed, 1))
    means: list[float] = []
    for drawn in _draws(rows, groups, seed, 2 * resamples):
        runs, times = np.unique(rng.integers(len(metrics), size=len(metrics)), return_counts=True)
        mean = np.average([metrics[run].value(name, drawn) for run in runs], weights=times)
        means += [] if np.isnan(mean) else [float(mean)]
        if len(means) == resamples:
            return _interval(means, (1 - confidence) / 2)
    raise DataError(
        f"{name} is undefined on {2 * resamples - len(means)} of {2 * resamples} resamples of {rows} rows; "
        "evaluate on more rows, or set evaluate.intervals: none"
    )


def _draws(rows: int, groups: Sequence[Hashable] | None, seed: int, most: int) -> Iterator[np.ndarray]:
    """Draw resamples of row positions: rows, or whole groups of rows, with replacement."""
    members = _members(rows, groups)
    count = rows if members is None else len(members)
    if count < 2:
        kind = "row" if members is None else "group"
        raise DataError(f"an interval needs at least 2 {kind}s, found {count}")
    rng = np.random.default_rng(seed)
    for _ in range(most):
        drawn = rng.integers(count, size=count)
        yield drawn if members is None else np.concatenate([members[group] for group in drawn])


def _positions(baseline: PairedBaseline, rows: int) -> np.ndarray | None:
    """Return the position of each row among the baseline's rows, int [N], -1 for none; None: all rows are."""
    if baseline.rows is None:
        return None
    positions = np.full(rows, -1)
    positions[baseline.rows] = np.arange(len(baseline.rows))
    return positions


def _difference(
    metrics: Metrics,
    baseline: PairedBaseline,
    positions: np.ndarray | None,
    name: str,
    drawn: np.ndarray,
    value: float,
) -> float:
    """Return the model's value minus the baseline's, on the drawn rows that the baseline has a result for."""
    if positions is None:
        return value - baseline.metrics.value(name, drawn)
    known = drawn[positions[drawn] >= 0]
    if not len(known):
        return float("nan")
    return metrics.value(name, known) - baseline.metrics.value(name, positions[known])


def _interval(values: Sequence[float], tail: float) -> Interval:
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _members(rows: int, groups: Sequence[Hashable] | None) -> list[np.ndarray] | None:
    """Return the row positions of each group, in the order in which the groups first appear."""
    if groups is None:
        return None
    if len(groups) != rows:
        raise DataError(f"{len(groups)} groups came with {rows} rows; expected one group for each row")
    found: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        found.setdefault(group, []).append(row)
    return [np.asarray(indices) for indices in found.values()]
