"""Unordered and repeated timestamps, gaps and missing values are found and named by row."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
from series_tables import frame, split_tables, table

from hf_ft.errors import DataError
from hf_ft.inputs.series.options import SeriesOptions
from hf_ft.inputs.series.series_table import fill, read_series, table_times

HOUR = 3_600_000_000_000


def read(data, **options):
    return read_series({"train": table(data)}, SeriesOptions(**options))


def test_a_plain_series_keeps_its_order_values_and_ids():
    data = frame(50)
    series = read(data)
    assert series.step == HOUR
    assert np.allclose(series.values[:, 0], data["target"])
    assert series.ids[0] == "train/0" and series.ids[-1] == "train/49"
    assert series.breaks.tolist() == [True, *[False] * 49]


def test_unordered_rows_are_named_or_sorted():
    data = frame(20)
    data = data.iloc[[*range(10), 15, *range(10, 15), *range(16, 20)]].reset_index(drop=True)
    with pytest.raises(DataError, match=r"1 rows .*train/11 is earlier than train/10.*unordered: sort"):
        read(data)
    with pytest.raises(DataError, match="train/11 is earlier"):
        table_times(table(data), SeriesOptions())
    series = read(data, unordered="sort")
    assert (np.diff(series.times) == HOUR).all()
    assert series.ids[15] == "train/10"


def test_repeated_timestamps_are_named():
    data = frame(20)
    data.loc[5, "timestamp"] = data.loc[4, "timestamp"]
    with pytest.raises(
        DataError, match=r"1 timestamps occur twice .*train/4 and train/5 \(2016-01-04 04:00:00\)"
    ):
        read(data)


def test_gaps_are_named_split_or_ignored():
    data = frame(30).drop(index=[10, 11]).reset_index(drop=True)
    with pytest.raises(DataError, match=r"1 gaps: after train/9 \(2016-01-04 09:00:00\) 2 steps of 01:00:00"):
        read(data)
    split, ignored = read(data, gaps="split"), read(data, gaps="ignore")
    assert np.flatnonzero(split.breaks).tolist() == [0, 10]
    assert np.flatnonzero(ignored.breaks).tolist() == [0]
    assert "train/9" in split.notes[0]


def test_a_jump_between_given_splits_is_no_error_and_no_window_spans_it():
    data = frame(60)
    tables = {"train": table(data[:30]), "test": table(data[40:].reset_index(drop=True), "test")}
    assert np.flatnonzero(read_series(tables, SeriesOptions()).breaks).tolist() == [0, 30]


def test_a_gap_of_daylight_saving_is_none_with_the_zone():
    times = pandas.date_range("2016-03-26 12:00", periods=48, freq="1h", tz="Europe/Berlin")
    data = frame(48)
    data["timestamp"] = times.strftime("%Y-%m-%d %H:%M")
    with pytest.raises(DataError, match=r"that daylight saving skips, set task\.time_zone"):
        read(data)
    series = read(data, time_zone="Europe/Berlin")
    assert (np.diff(series.times) == HOUR).all()


def test_missing_values_are_named_and_counted():
    data = frame(20)
    data.loc[[3, 7], "target"] = np.nan
    with pytest.raises(DataError, match=r"column 'target': 2 of 20 values are missing: train/3, train/7"):
        read(data)
    assert "train/3" in read(data, missing="drop_windows").notes[0]


def test_text_and_infinity_are_named():
    data = frame(20)
    data["wind"] = ["NE"] * 20
    with pytest.raises(DataError, match=r"column 'wind': expected numbers, found 'NE' in row train/0"):
        read_series({"train": table(data, past="wind")}, SeriesOptions())
    data.loc[4, "target"] = np.inf
    with pytest.raises(DataError, match="in row train/4 is infinite"):
        read(data)


def test_several_series_are_kept_apart():
    data = pandas.concat([frame(20, site="a"), frame(15, start="2016-02-01", site="b")], ignore_index=True)
    data = data.sort_values("timestamp", kind="stable")
    series = read_series({"train": table(data, series_id="site")}, SeriesOptions())
    assert series.names == ["a", "b"]
    assert np.flatnonzero(series.breaks).tolist() == [0, 20]
    assert series.find(np.array([0, 1]), np.array([series.times[3]] * 2)).tolist() == [3, -1]


def test_without_its_id_column_two_series_are_found_out():
    data = pandas.concat([frame(20), frame(20)], ignore_index=True)
    with pytest.raises(DataError, match="series_id"):
        read(data)


def test_a_column_plays_one_role():
    with pytest.raises(DataError, match="target has several"):
        read_series({"train": table(frame(20), past="target")}, SeriesOptions())


def test_filling_uses_nothing_from_outside_the_window():
    history = np.array([[np.nan], [1.0], [np.nan], [3.0], [np.nan]])[None]
    assert fill(history)[0, :, 0].tolist() == [1, 1, 2, 3, 3]
    assert np.isnan(history).any(), "the series itself stays as it was"


def test_the_split_of_every_row_is_kept():
    series = read_series(split_tables(frame(30), 20, 25), SeriesOptions())
    assert np.bincount(series.split).tolist() == [20, 5, 5]
