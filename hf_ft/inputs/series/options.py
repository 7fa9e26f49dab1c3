"""Recipe keys of the tasks that read time series."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hf_ft.recipe.schema import PositiveInt, Section


class SeriesOptions(Section):
    """How the rows of a table are read as steps of one or several time series."""

    timestamp_format: str | None = None
    """How timestamps are written: a strptime format ('%d/%m/%Y %H:%M'), unix_s or unix_ms; null: ISO 8601."""
    time_zone: str | None = None
    """IANA name of the zone whose wall clock is shown; null: timestamps have an offset, or never jump."""
    step: str | None = None
    """Time between two rows, such as 5min, 1h or 1D; null: the most frequent difference."""
    unordered: Literal["error", "sort"] = "error"
    """What to do with rows that are not in the order of time within their series."""
    gaps: Literal["error", "split", "ignore"] = "error"
    """Missing steps: stop; split: no window spans one; ignore: the rows as they stand."""
    missing: Literal["error", "drop_windows", "interpolate"] = "error"
    """Missing values: stop; leave out windows with one; or fill a history from itself, never a target."""
    calendar: list[Literal["hour_of_day", "day_of_week", "day_of_year", "weekend"]] = Field(default=[])
    """Features of the calendar, known ahead, that the model sees beside the values."""


class WindowOptions(SeriesOptions):
    """How windows are cut out of time series."""

    context_length: Annotated[int, Field(ge=2)] = 96
    """Steps of history that the model sees."""
    horizon: PositiveInt = 24
    """Steps to forecast."""
    stride: PositiveInt = 1
    """Steps from one training window to the next."""
    eval_stride: PositiveInt = 1
    """Steps from one validation or test window to the next."""
    reach_back: bool = True
    """Whether the history of a validation or test window may lie in the split before, as it will in use."""


class WholeSeriesOptions(Section):
    """How whole series are read, one in each row."""

    missing: Literal["error", "interpolate"] = "error"
    """Missing values within a series: a bad row; or filled along a straight line."""
    trees: bool = True
    """Whether gradient-boosted trees on all values of the series are fitted beside (scikit-learn)."""
