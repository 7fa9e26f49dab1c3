"""Checks of the steps of a series: their order, repeats, gaps and missing values, each named by row."""

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
    """Refuse rows that are not in the order of time within their series, unless they shall be sorted.

    Raises:
        DataError: names the rows.
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
    """Refuse a moment that one series has twice.

    Raises:
        DataError: names the rows.
    """
    same = np.flatnonzero((np.diff(times) == 0) & (np.diff(series) == 0))
    if len(same):
        clock = wall_clock(times[same[:3]], options.time_zone)
        pairs = [
            f"{ids[row]} and {ids[row + 1]} ({when})" for row, when in zip(same.tolist(), clock, strict=False)
        ]
        raise DataError(
            f"{len(same)} timestamps occur twice in their series: {', '.join(pairs)}. Remove the repeated "
            "rows; where the table holds several series, name the column that tells them apart in "
            "data.columns.series_id; where it is an hour in autumn, set task.time_zone"
        )


def find_step(times: np.ndarray, series: np.ndarray, written: str | None) -> int:
    """Give the time between two rows in nanoseconds: as written, or the most frequent difference.

    Raises:
        DataError: it is not a time, or no series has two rows.
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
            "no series has two rows, so there is no step from one to the next; is series_id right?"
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
    """Tell where a row does not follow the one before it, and what to say about it.

    Returns:
        Whether no window may span from the row before to this one, bool [N]; notes on allowed gaps.

    Raises:
        DataError: steps are missing within a split, and `task.gaps` does not allow it; names the rows before.
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
    text = f"{len(within)} gaps: {', '.join(places)}{more} of {spoken(step)} are missing"
    if options.gaps == "error":
        raise DataError(
            f"{text}. Set task.gaps: split (no window spans one) or ignore (the rows as they stand); where "
            "they are an hour in spring, set task.time_zone; where most rows are not one step apart, set "
            "task.step"
        )
    return breaks, [f"{text} (task.gaps: {options.gaps})"]


def check_missing(
    values: np.ndarray, columns: Sequence[str], ids: Sequence[str], options: SeriesOptions
) -> list[str]:
    """Find missing values in columns [N, C].

    Returns:
        What to say about them, where `task.missing` allows them.

    Raises:
        DataError: they are not allowed, or a column has no value at all; names columns and rows.
    """
    lines = []
    for position, name in enumerate(columns):
        rows = np.flatnonzero(np.isnan(values[:, position]))
        if len(rows) == len(values):
            raise DataError(f"column {name!r}: no row has a value")
        if len(rows):
            shown = rows_named(rows, ids, 3)
            lines.append(f"column {name!r}: {len(rows)} of {len(values)} values are missing: {shown}")
    if lines and options.missing == "error":
        raise DataError(
            "\n".join(lines)
            + "\nSet task.missing: drop_windows (leave out windows that hold one) or interpolate "
            "(fill a history from itself; windows without their target values are left out)"
        )
    return [f"{line} (task.missing: {options.missing})" for line in lines]


def rows_named(positions: np.ndarray, ids: Sequence[str], limit: int = 5) -> str:
    """List the ids of these rows for a message, the first few spelled out."""
    return listing([ids[int(position)] for position in positions], limit)


def spoken(step: int) -> str:
    """Write a time as hours, minutes and seconds, after days where there are any."""
    import pandas

    return str(pandas.Timedelta(step, unit="ns")).removeprefix("0 days ")
