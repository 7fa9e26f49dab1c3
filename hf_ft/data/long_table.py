"""Long tables: one row for each step of a series, gathered to one row for each series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame, Series


def is_long(features: Mapping[str, Any], columns: Mapping[str, str | list[str]], role: str) -> bool:
    """Tell whether a table has one row a step: a column names the series, and `role` holds single numbers.

    Args:
        features: the columns of the table with their types, as `datasets` gives them.
        columns: role -> column(s).
        role: the role whose values make the series.
    """
    from datasets import Value

    named = columns.get(role, [])
    parts = [named] if isinstance(named, str) else named
    return "series_id" in columns and all(isinstance(features[part], Value) for part in parts)


def gather_steps(
    rows: Dataset,
    series_id: str,
    steps: Sequence[str],
    whole: Sequence[str],
    timestamp: str | None = None,
    *,
    name: str = "train",
) -> Dataset:
    """Make one row of the steps of each series, in the order in which the series first appear.

    Args:
        rows: one row a step.
        series_id: the column that tells the series apart.
        steps: columns with a number for each step; they become lists, with None where a number is missing.
        whole: columns that say something of the whole series: one value, in any or all of its rows.
        timestamp: the column to sort the steps of a series by; None: they stay in the order of the table.
        name: of the table, for messages.

    Returns:
        One row a series, with these columns; `timestamp` holds the time of its first step.

    Raises:
        DataError: a row belongs to no series, a column of `whole` has several values in a series, or a time
            cannot be read or occurs twice in its series.
    """
    from datasets import Dataset

    # `series_id` may be one of the others as well, such as data.id or data.split.by.
    columns = dict.fromkeys([series_id, *steps, *whole, *([timestamp] if timestamp else [])])
    frame: DataFrame = rows.select_columns(list(columns)).to_pandas()
    lost = frame.index[frame[series_id].isna()].tolist()
    if lost:
        raise DataError(
            f"{name}: {len(lost)} rows have no {series_id!r} (data.columns.series_id): {listing(lost, 5)}"
        )
    order = frame[series_id].drop_duplicates().tolist()
    if timestamp is not None:
        frame = _in_time_order(frame, series_id, timestamp, name)
    groups = frame.groupby(series_id, sort=False)
    found = {series_id: order}
    for column in steps:
        lists = groups[column].agg(list)
        found[column] = [[None if one != one else one for one in lists[series]] for series in order]
    if timestamp is not None:
        found[timestamp] = groups[timestamp].first().loc[order].tolist()
    for column in whole:
        if column not in (series_id, timestamp):
            _check_one_value(groups[column].unique(), column, name)
            found[column] = groups[column].first().loc[order].tolist()
    return Dataset.from_dict(found)


def _in_time_order(frame: DataFrame, series_id: str, timestamp: str, name: str) -> DataFrame:
    """Sort the steps by time; a moment that a series has twice is another series mixed in."""
    import pandas

    moments = frame[timestamp]
    if not pandas.api.types.is_numeric_dtype(moments):
        try:
            moments = pandas.to_datetime(moments, utc=True, format="ISO8601")
        except ValueError as error:
            raise DataError(
                f"{name}: cannot read a time in column {timestamp!r} ({error}); write ISO 8601, as in "
                "2016-01-04T12:30, or numbers"
            ) from error
    frame = frame.assign(**{timestamp: moments}).sort_values(timestamp, kind="stable")
    twice = frame[frame.duplicated([series_id, timestamp])]
    if len(twice):
        places = [
            f"{one} at {moment}"
            for one, moment in zip(twice[series_id][:3], twice[timestamp][:3], strict=True)
        ]
        raise DataError(
            f"{name}: {len(twice)} times occur twice in their series: {listing(places)}. Remove the repeated "
            "rows, or name the column that tells the series apart in data.columns.series_id"
        )
    return frame


def _check_one_value(values: Series, column: str, name: str) -> None:
    """Refuse a column that differs between the steps of one series, though it is about the whole series."""
    import pandas

    given = values.map(lambda found: [one for one in found if not pandas.isna(one)])
    several = given[given.map(len) > 1]
    if len(several):
        places = [f"{series}: {listing(found, 3)}" for series, found in several.head(3).items()]
        raise DataError(
            f"{name}: column {column!r} differs within {len(several)} series, and it is about a whole series "
            f"({'; '.join(places)})"
        )
