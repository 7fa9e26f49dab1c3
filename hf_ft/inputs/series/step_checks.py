"""Check the rows of time series for order, repeated timestamps, gaps and missing values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_ft.errors import DataError
from hf_ft.inputs.series.timestamps import wall_clock
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    from hf_ft.inputs.series.options import SeriesOptions


def check_order(times: np.ndarray, series: np.ndarray, ids: Sequence[str], options: SeriesOptions) -> None:
    """Refuse rows that are not sorted by time within their series, unless `task.unordered` is `sort`.

    Raises:
        DataError: rows are not sorted; the message names them.
    """
    if options.unordered == "sort":
        return
    order = np.argsort(series, kind="stable")
    back = np.flatnonzero((np.diff(times[order]) < 0) & (np.diff(series[order]) == 0))
    if len(back):
        pairs = [f"{ids[order[row + 1]]} is earlier than {ids[order[row]]}" for row in back]
        raise DataError(
            f"{len(back)} rows are not in the order of time: {listing(pairs, 3)}. Is task.timestamp_format "
            "right (day or month first)? Is there a column for data.columns.series_id? Otherwise set "
            "task.unordered: sort"
        )


def check_repeats(times: np.ndarray, series: np.ndarray, ids: Sequence[str], options: SeriesOptions) -> None:
    """Refuse timestamps that occur twice in one series.

    Raises:
        DataError: a timestamp is repeated; the message names the rows.
    """
    same = np.flatnonzero((np.diff(times) == 0) & (np.diff(series) == 0))
    if len(same):
        clock = wall_clock(times[same[:3]], options.time_zone)
        pairs = [
            f"{ids[row]} and {ids[row + 1]} ({when})" for row, when in zip(same.tolist(), clock, strict=False)
        ]
        raise DataError(
            f"{len(same)} timestamps occur twice in their series: {', '.join(pairs)}. Remove the repeated "
            "rows; where the table holds several series, name the column that identifies them in "
            "data.columns.series_id; where it is the hour that daylight saving repeats, set task.time_zone"
        )


def find_step(times: np.ndarray, series: np.ndarray, written: str | None) -> int:
    """Return the time between two rows in nanoseconds.

    Args:
        times: nanoseconds since 1970, sorted within each series, int64 [N].
        series: number of the series of each row, int [N].
        written: `task.step`; None: use the most frequent difference.

    Raises:
        DataError: `written` is not a time, or no series has two rows.
    """
    import pandas

    if written is not None:
        try:
            step = int(pandas.Timedelta(written).value)
        except ValueError as error:
            raise DataError(
                f"task.step: {written!r} is not a time such as 5min, 1h or 1D ({error})"
            ) from error
        if step <= 0:
            raise DataError(f"task.step: expected a time above zero, found {written!r}")
        return step
    differences = np.diff(times)[np.diff(series) == 0]
    if not len(differences):
        raise DataError(
            "no series has two rows, so the time between two rows is unknown; check data.columns.series_id"
        )
    steps, counts = np.unique(differences, return_counts=True)
    return int(steps[counts.argmax()])


def find_gaps(
    times: np.ndarray,
    series: np.ndarray,
    split: np.ndarray,
    ids: Sequence[str],
    step: int,
    options: SeriesOptions,
) -> tuple[np.ndarray, list[str]]:
    """Find the rows that do not follow the row before them by one step.

    Returns:
        Whether no window may contain both a row and the row before it, bool [N]; and notes on allowed gaps.

    Raises:
        DataError: steps are missing within a split, and `task.gaps` does not allow it; the message names the
            rows before the gaps.
    """
    other = np.diff(series) != 0
    jump = (np.diff(times) != step) & ~other
    within = np.flatnonzero(jump & (np.diff(split) == 0))
    breaks = np.concatenate([[True], other if options.gaps == "ignore" else other | jump])
    if not len(within):
        return breaks, []
    clock = wall_clock(times[within[:3]], options.time_zone)
    places = [
        f"after {ids[row]} ({when}) {(times[row + 1] - times[row]) / step - 1:g} steps"
        for row, when in zip(within.tolist(), clock, strict=False)
    ]
    more = ", ..." if len(within) > 3 else ""
    text = f"{len(within)} gaps: {', '.join(places)}{more} of {format_duration(step)} are missing"
    if options.gaps == "error":
        raise DataError(
            f"{text}. Set task.gaps: split (no window spans a gap) or ignore (rows count as consecutive); "
            "where the gap is the hour that daylight saving skips, set task.time_zone; where most rows are "
            "not one step apart, set task.step"
        )
    return breaks, [f"{text} (task.gaps: {options.gaps})"]


def check_missing(
    values: np.ndarray, columns: Sequence[str], ids: Sequence[str], options: SeriesOptions
) -> list[str]:
    """Find missing values in columns [N, C].

    Returns:
        Notes on missing values, where `task.missing` allows them.

    Raises:
        DataError: missing values are not allowed, or a column has no value at all; the message names columns
            and rows.
    """
    lines = []
    for position, name in enumerate(columns):
        rows = np.flatnonzero(np.isnan(values[:, position]))
        if len(rows) == len(values):
            raise DataError(f"column {name!r}: no row has a value")
        if len(rows):
            shown = list_row_ids(rows, ids, 3)
            lines.append(f"column {name!r}: {len(rows)} of {len(values)} values are missing: {shown}")
    if lines and options.missing == "error":
        raise DataError(
            "\n".join(lines)
            + "\nSet task.missing: drop_windows (leave out windows with a missing value) or interpolate "
            "(fill histories by interpolation; windows with missing target values are left out)"
        )
    return [f"{line} (task.missing: {options.missing})" for line in lines]


def list_row_ids(positions: np.ndarray, ids: Sequence[str], limit: int = 5) -> str:
    """List the ids of the first few of these rows, for a message."""
    return listing([ids[int(position)] for position in positions], limit)


def format_duration(step: int) -> str:
    """Write a duration in nanoseconds as days, hours, minutes and seconds."""
    import pandas

    return str(pandas.Timedelta(step, unit="ns")).removeprefix("0 days ")
