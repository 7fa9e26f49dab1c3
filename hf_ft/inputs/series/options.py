"""Recipe keys of the tasks that read time series."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hf_ft.recipe.schema import PositiveInt, Section


class SeriesOptions(Section):
    """How the rows of a table are read as steps of one or several time series."""

    timestamp_format: str | None = None
    """Format of timestamps: a strptime format ('%d/%m/%Y %H:%M'), unix_s or unix_ms; null: ISO 8601."""
    time_zone: str | None = None
    """IANA name of the time zone; null: timestamps have a UTC offset, or no daylight saving time."""
    step: str | None = None
    """Time between two rows, such as 5min, 1h or 1D; null: the most frequent difference."""
    unordered: Literal["error", "sort"] = "error"
    """Rows that are not sorted by time within their series: stop with an error; sort: sort them."""
    gaps: Literal["error", "split", "ignore"] = "error"
    """Missing steps: stop with an error; split: no window spans a gap; ignore: treat rows as consecutive."""
    missing: Literal["error", "drop_windows", "interpolate"] = "error"
    """Missing values: stop with an error; leave out windows with one; or fill histories, never targets."""
    calendar: list[Literal["hour_of_day", "day_of_week", "day_of_year", "weekend"]] = Field(default=[])
    """Calendar features that the model gets as covariates known ahead."""


class WindowOptions(SeriesOptions):
    """How windows are cut from time series."""

    context_length: Annotated[int, Field(ge=2)] = 96
    """Steps of history that the model reads."""
    horizon: PositiveInt = 24
    """Steps to forecast."""
    stride: PositiveInt = 1
    """Steps from one training window to the next."""
    eval_stride: PositiveInt = 1
    """Steps from one validation or test window to the next."""
    reach_back: bool = True
    """Whether the history of a validation or test window may reach into the split before, as in real use."""


class WholeSeriesOptions(Section):
    """How whole series are read, one from each row."""

    missing: Literal["error", "interpolate"] = "error"
    """Missing values within a series: error: the row is bad; interpolate: fill them linearly."""
    trees: bool = True
    """Whether to fit gradient-boosted trees on all values of the series as a baseline (scikit-learn)."""
