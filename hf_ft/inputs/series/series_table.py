"""Time series in memory: the rows of all splits as one array, sorted by series and time.

Reading checks for unordered and repeated timestamps, missing steps and missing values, and names their rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.data.compact_ids import compact_ids
from hf_ft.errors import DataError
from hf_ft.inputs.series.options import SeriesOptions
from hf_ft.inputs.series.step_checks import (
    check_missing,
    check_order,
    check_repeats,
    find_gaps,
    find_step,
    list_row_ids,
)
from hf_ft.inputs.series.timestamps import calendar, calendar_names, hours, parse_timestamps
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    from pandas import DataFrame

    from hf_ft.data.table import Table

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Channels:
    """The columns of a series, in the order of the model's channels.

    Args:
        target: columns to forecast.
        past: covariates that are known up to the present.
        known: covariates that are known ahead.
        calendar: calendar features, known ahead.
        timestamp: the column of the timestamps.
        series_id: the column that says which series a row belongs to, or None.
    """

    target: list[str]
    past: list[str]
    known: list[str]
    calendar: list[str]
    timestamp: str
    series_id: str | None = None

    @classmethod
    def of(cls, columns: Mapping[str, str | list[str]], features: Sequence[str]) -> Channels:
        """Take the columns that play the roles `target`, `past`, `known`, `timestamp` and `series_id`."""

        def several(role: str) -> list[str]:
            found = columns.get(role, [])
            return [found] if isinstance(found, str) else list(found)

        parts = {role: several(role) for role in ("target", "past", "known")}
        names = [name for part in parts.values() for name in part]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(
                f"data.columns: {listing(twice)} has several of the roles target, past and known; the model "
                "always sees the past of a target, so give a target no other role"
            )
        one = several("series_id")
        return cls(
            **parts,
            calendar=list(features),
            timestamp=several("timestamp")[0],
            series_id=one[0] if one else None,
        )

    @property
    def values(self) -> list[str]:
        """The columns that are known up to the present, targets first."""
        return [*self.target, *self.past]

    @property
    def ahead(self) -> list[str]:
        """The columns that are known ahead, calendar features last."""
        return [*self.known, *calendar_names(self.calendar)]


@dataclass
class Series:
    """The rows of all splits, sorted by series and time: N steps.

    Args:
        channels: the columns and their roles.
        values: targets and past covariates in original units, float64 [N, C].
        ahead: known covariates and calendar features, float64 [N, K].
        times: nanoseconds since 1970 in UTC, int64 [N].
        hours: hour of the day in local time, int8 [N].
        series: number of the series of each row, in the smallest integer type [N].
        names: names of the series.
        split: position of each row's split in SPLITS, int8 [N].
        ids: N row ids.
        step: nanoseconds between two rows.
        breaks: whether a row does not continue the row before it (another series, or a gap that splits), bool
            [N].
        notes: irregularities that the options allow, one line each.
    """

    channels: Channels
    values: np.ndarray
    ahead: np.ndarray
    times: np.ndarray
    hours: np.ndarray
    series: np.ndarray
    names: list[str]
    split: np.ndarray
    ids: Sequence[str]
    step: int
    breaks: np.ndarray
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.values, self.ahead, self.times, self.hours, self.series, self.split, self.breaks)
        return sum(array.nbytes for array in arrays)

    def bounds(self, series: int) -> tuple[int, int]:
        """Return the position of the first row of a series, and of the first row after it."""
        low, high = np.searchsorted(self.series, [series, series + 1])
        return int(low), int(high)

    def find(self, series: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Find rows by series and time.

        Args:
            series: number of a series, int, broadcast to the shape of `times`.
            times: nanoseconds since 1970 in UTC, int64.

        Returns:
            The position of each row, or -1 where there is no such row, int64 in the shape of `times`.
        """
        found = np.full(times.shape, -1, dtype=np.int64)
        for one in np.unique(series):
            low, high = self.bounds(int(one))
            inside = np.broadcast_to(series == one, times.shape)
            wanted = times[inside]
            place = np.minimum(low + np.searchsorted(self.times[low:high], wanted), high - 1)
            found[inside] = np.where(self.times[place] == wanted, place, -1)
        return found


def read_series(tables: Mapping[str, Table], options: SeriesOptions) -> Series:
    """Read the tables of all splits as one set of series, and check them.

    Args:
        tables: split -> rows, with the roles `timestamp` and `target`, and optionally `past`, `known` and
            `series_id`.
        options: the format of timestamps, and the irregularities that are allowed.

    Raises:
        DataError: timestamps or values are unreadable, unordered, repeated or missing; the message names the
            rows, and the option that would allow it.
    """
    import pandas

    first = next(iter(tables.values()))
    channels = Channels.of(first.columns, options.calendar)
    columns = [channels.timestamp, *channels.values, *channels.known]
    columns += [channels.series_id] if channels.series_id else []
    frames = {name: table.dataset.select_columns(columns).to_pandas() for name, table in tables.items()}
    frame = pandas.concat(frames.values(), ignore_index=True)
    ids = [row_id for table in tables.values() for row_id in table.ids]
    split = np.concatenate([np.full(len(one), SPLITS.index(name), np.int8) for name, one in frames.items()])
    series, names = number_series(frame, channels.series_id, ids)
    times = parse_timestamps(
        frame[channels.timestamp], ids, options.timestamp_format, options.time_zone, series
    )
    check_order(times, series + len(names) * split.astype(np.int64), ids, options)

    order = np.lexsort((times, series))
    times, series, split, ids = times[order], series[order], split[order], [ids[row] for row in order]
    values = numbers(frame, channels.values, order, ids)
    known = numbers(frame, channels.known, order, ids)
    check_repeats(times, series, ids, options)
    step = find_step(times, series, options.step)
    breaks, notes = find_gaps(times, series, split, ids, step, options)
    notes += check_missing(np.hstack([values, known]), [*channels.values, *channels.known], ids, options)
    return Series(
        channels,
        values,
        np.hstack([known, calendar(times, channels.calendar, options.time_zone)]),
        times,
        hours(times, options.time_zone),
        series.astype(np.min_scalar_type(len(names))),
        names,
        split,
        compact_ids(ids),
        step,
        breaks,
        notes,
    )


def table_times(table: Table, options: SeriesOptions) -> np.ndarray:
    """Return the time of each row of a table, int64 nanoseconds [N]; check that the rows are in order."""
    channels = Channels.of(table.columns, ())
    columns = [channels.timestamp, *([channels.series_id] if channels.series_id else [])]
    frame = table.dataset.select_columns(columns).to_pandas()
    series, _ = number_series(frame, channels.series_id, table.ids)
    times = parse_timestamps(
        frame[channels.timestamp], table.ids, options.timestamp_format, options.time_zone, series
    )
    check_order(times, series, table.ids, options)
    return times


def number_series(frame: DataFrame, column: str | None, ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Number the series in the order of their first rows: the number of each row, int64 [N]; the names."""
    import pandas

    if column is None:
        return np.zeros(len(frame), dtype=np.int64), [""]
    codes, names = pandas.factorize(frame[column])
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        raise DataError(f"{len(missing)} rows have no {column!r}: {list_row_ids(missing, ids)}")
    return codes.astype(np.int64), [str(name) for name in names]


def numbers(frame: DataFrame, columns: Sequence[str], order: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """Read columns as float64 [N, len(columns)] with the rows in this order; NaN where a value is missing."""
    import pandas

    found = np.empty((len(frame), len(columns)))
    for position, name in enumerate(columns):
        column = frame[name].iloc[order].reset_index(drop=True)
        number = pandas.to_numeric(column, errors="coerce")
        text = np.flatnonzero((number.isna() & column.notna()).to_numpy())
        if len(text):
            raise DataError(
                f"column {name!r}: expected numbers, found {column[text[0]]!r} in row {ids[text[0]]} "
                f"({len(text)} of {len(column)} rows). Correct the values, or leave the column out of "
                "data.columns"
            )
        found[:, position] = number.to_numpy(dtype=np.float64, na_value=np.nan)
    endless = np.argwhere(np.isinf(found))
    if len(endless):
        row, column = endless[0]
        raise DataError(
            f"column {columns[column]!r}: the value in row {ids[row]} is infinite ({len(endless)} infinite "
            "values in all). Correct the values, or leave the column out of data.columns"
        )
    return found


def fill(history: np.ndarray) -> np.ndarray:
    """Fill missing values of each window by linear interpolation within the window.

    Values before the first known value, and after the last one, are copies of that value. Only values of the
    same window are used, so no value from after the present can leak into a history.

    Args:
        history: float [B, steps, channels]; each channel has at least one known value.

    Returns:
        A filled copy, or the array itself where nothing is missing.
    """
    holes = np.isnan(history)
    if not holes.any():
        return history
    filled: Any = history.copy()
    steps = np.arange(history.shape[1])
    for window, channel in np.argwhere(holes.any(axis=1)):
        empty = holes[window, :, channel]
        filled[window, empty, channel] = np.interp(
            steps[empty], steps[~empty], history[window, ~empty, channel]
        )
    result: np.ndarray = filled
    return result
