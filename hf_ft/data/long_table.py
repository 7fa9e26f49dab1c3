"""Long tables: turn a table with one row per step into a table with one row per series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame, Series


def is_long(features: Mapping[str, Any], columns: Mapping[str, str | list[str]], role: str) -> bool:
    """Tell whether a table has one row per step.

    It has if a column has the role `series_id`, and the columns of `role` hold single numbers.

    Args:
        features: column -> type, as `datasets` gives them.
        columns: role -> column, or list of columns.
        role: the role that holds the values of the series.
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
    """Build one row per series, in the order in which the series first appear.

    Args:
        rows: table with one row per step.
        series_id: column with the id of the series.
        steps: columns with a number for each step; they become lists, with None for a missing number.
        whole: columns with one value for the whole series, which may stand in any or all of its rows.
        timestamp: column to sort the steps of a series by; None: the steps stay in the order of the table.
        name: name of the table, for messages.

    Returns:
        A table with one row per series and these columns; `timestamp` holds the time of the first step.

    Raises:
        DataError: a row has no series id, a column of `whole` has several values in one series, or a time
            cannot be parsed or occurs twice in its series.
    """
    from datasets import Dataset

    # The column `series_id` may also be the column of data.id or data.split.by.
    columns = dict.fromkeys([series_id, *steps, *whole, *([timestamp] if timestamp else [])])
    frame: DataFrame = rows.select_columns(list(columns)).to_pandas()
    missing = frame.index[frame[series_id].isna()].tolist()
    if missing:
        raise DataError(
            f"{name}: {len(missing)} rows have no {series_id!r} (data.columns.series_id): "
            f"{listing(missing, 5)}"
        )
    order = frame[series_id].drop_duplicates().tolist()
    if timestamp is not None:
        frame = _sort_by_time(frame, series_id, timestamp, name)
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


def _sort_by_time(frame: DataFrame, series_id: str, timestamp: str, name: str) -> DataFrame:
    """Sort the steps by time; refuse a time that occurs twice in a series, as if two series were mixed."""
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
    """Raise a DataError if a column of the whole series has several values in one series."""
    import pandas

    given = values.map(lambda found: [one for one in found if not pandas.isna(one)])
    several = given[given.map(len) > 1]
    if len(several):
        places = [f"{series}: {listing(found, 3)}" for series, found in several.head(3).items()]
        raise DataError(
            f"{name}: column {column!r} needs one value per series, but {len(several)} series have several "
            f"({'; '.join(places)}); correct them"
        )
