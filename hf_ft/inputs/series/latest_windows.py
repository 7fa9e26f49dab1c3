"""For prediction: cut the last window of each series from a table of recent rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ft.data.table import Table
from hf_ft.errors import DataError
from hf_ft.inputs.raw_inputs import read_table
from hf_ft.inputs.series.options import SeriesOptions
from hf_ft.inputs.series.series_table import Channels, Series, fill, read_series
from hf_ft.inputs.series.timestamps import calendar, hours, wall_clock
from hf_ft.text_utils import listing


def latest_windows(
    inputs: Sequence[Any], channels: Channels, options: Any, step: int
) -> list[dict[str, Any]]:
    """Cut the last `context_length` steps of each series, with the covariates of the steps to forecast.

    The present row of a series is the last row in which every target has a value; the rows after it hold the
    covariates that are known ahead.

    Args:
        inputs: paths of files, a table in memory, or dicts.
        channels: the columns that the model was trained on.
        options: the options of time-series-forecasting.
        step: nanoseconds between two rows.

    Returns:
        One row for each series, like a row of `Windows` without `target`; its id is the id of the present
        row.

    Raises:
        DataError: a column is missing, the history is too short or has a gap, or the covariates that are
            known ahead do not cover every step to forecast.
    """
    table = _history_table(inputs, channels)
    relaxed: SeriesOptions = options.model_copy(update={"missing": "interpolate", "step": f"{step}ns"})
    series = read_series({"train": table}, relaxed)
    return [_latest_window(series, one, options) for one in range(len(series.names))]


def _history_table(inputs: Sequence[Any], channels: Channels) -> Table:
    rows = read_table(inputs)
    roles: dict[str, str | list[str]] = {
        "timestamp": channels.timestamp,
        "target": channels.target,
        "past": channels.past,
        "known": channels.known,
    }
    needed: dict[str, str | list[str]] = {role: columns for role, columns in roles.items() if columns}
    needed |= {"series_id": channels.series_id} if channels.series_id else {}
    names = [
        name for columns in needed.values() for name in ([columns] if isinstance(columns, str) else columns)
    ]
    absent = [name for name in names if name not in rows.column_names]
    if absent:
        raise DataError(f"missing columns: {listing(absent)}; found columns: {listing(rows.column_names)}")
    return Table(rows, needed, [str(number) for number in range(len(rows))])


def _latest_window(series: Series, number: int, options: Any) -> dict[str, Any]:
    low, high = series.bounds(number)
    targets, name = len(series.channels.target), series.names[number] or "the series"
    observed = np.flatnonzero(~np.isnan(series.values[low:high, :targets]).any(axis=1))
    present = low + int(observed[-1]) + 1 if len(observed) else low
    context, horizon = options.context_length, options.horizon
    if present - low < context:
        raise DataError(f"{name}: found {present - low} steps with values; the model needs {context}")
    start = present - context
    broken = np.flatnonzero(series.breaks[start + 1 : present])
    if len(broken):
        raise DataError(
            f"{name}: steps are missing before row {series.ids[start + 1 + broken[-1]]}, among the last "
            f"{context} steps that the model reads; add these rows"
        )
    history = _without_missing(series.values[start:present], name, options)
    known = len(series.channels.known)
    times = series.times[present - 1] + series.step * np.arange(1, horizon + 1)
    if known:
        if high - present < horizon:
            first, last = wall_clock(times[[0, -1]], options.time_zone)
            raise DataError(
                f"{name}: found {high - present} rows after the last target value; expected "
                f"{listing(series.channels.known)} for the {horizon} steps to forecast, {first} to {last}, "
                "in rows whose target is empty"
            )
        times = series.times[present : present + horizon]
    future = calendar(times, series.channels.calendar, options.time_zone)
    if known:
        future = np.hstack([series.ahead[present : present + horizon, :known], future])
    ahead = _without_missing(np.vstack([series.ahead[start:present], future]), name, options)
    return {
        "id": series.ids[present - 1],
        "series": series.names[number],
        "start": int(times[0]),
        "history": history,
        "ahead": ahead,
        "hour": hours(times, options.time_zone),
    }


def _without_missing(values: np.ndarray, name: str, options: Any) -> np.ndarray:
    """Fill missing values [steps, channels] where `task.missing` allows it, else refuse them."""
    if options.missing == "interpolate" and not np.isnan(values).all(axis=0).any():
        result: np.ndarray = fill(values[None])[0]
        return result
    if np.isnan(values).any():
        raise DataError(
            f"{name}: {int(np.isnan(values).sum())} values that the model reads are missing; add them"
        )
    return values
