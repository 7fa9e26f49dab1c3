"""How sure a metric is: the percentile bootstrap over rows, or over groups of rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from hf_ft.errors import DataError
from hf_ft.task import Metrics


def bootstrap_interval(
    metrics: Metrics,
    name: str,
    rows: int,
    *,
    resamples: int,
    confidence: float,
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Give the percentile bootstrap interval of a metric.

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
    members = _members(rows, groups)
    count = rows if members is None else len(members)
    if count < 2:
        kind = "row" if members is None else "group"
        raise DataError(f"an interval needs at least 2 {kind}s to draw from, and there are {count}")
    rng = np.random.default_rng(seed)
    values: list[float] = []
    for _ in range(2 * resamples):
        drawn = rng.integers(count, size=count)
        chosen = drawn if members is None else np.concatenate([members[group] for group in drawn])
        value = metrics.value(name, chosen)
        if not np.isnan(value):
            values.append(value)
        if len(values) == resamples:
            break
    else:
        undefined, tried = 2 * resamples - len(values), 2 * resamples
        raise DataError(
            f"{name} is undefined on {undefined} of {tried} resamples of {rows} rows; evaluate on more rows, "
            f"or set evaluate.intervals: none"
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _members(rows: int, groups: Sequence[Hashable] | None) -> list[np.ndarray] | None:
    """Give the row indices of each group, in the order the groups first appear."""
    if groups is None:
        return None
    if len(groups) != rows:
        raise DataError(f"{len(groups)} groups came with {rows} rows; expected one for each")
    found: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        found.setdefault(group, []).append(row)
    return [np.asarray(indices) for indices in found.values()]
