"""Timestamps are read without guessing: formats, offsets, zones and the changes of daylight saving."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from hf_ft.errors import DataError
from hf_ft.inputs.series.timestamps import calendar, calendar_names, hours, parse_timestamps


def parse(values, written=None, time_zone=None, series=None):
    ids = [f"train/{row}" for row in range(len(values))]
    numbers = np.zeros(len(values), dtype=int) if series is None else np.asarray(series)
    return parse_timestamps(values, ids, written, time_zone, numbers)


def at(text):
    return pandas.Timestamp(text).value


def test_the_day_comes_first_where_the_format_says_so():
    found = parse(["04/01/2016 0:05", "29/02/2016 23:55"], "%d/%m/%Y %H:%M")
    assert found.tolist() == [at("2016-01-04 00:05"), at("2016-02-29 23:55")]


def test_a_format_that_is_not_iso_is_not_guessed():
    with pytest.raises(DataError, match=r"'04/01/2016 0:05' in row train/0.*timestamp_format"):
        parse(["04/01/2016 0:05", "05/01/2016 0:05"])


def test_one_row_of_another_format_is_named():
    with pytest.raises(DataError, match=r"1 of 3 timestamps .* 'soon' in row train/1"):
        parse(["2016-01-01", "soon", "2016-01-03"])


@pytest.mark.parametrize("written", ["%Q", "%", "%d %Q"])
def test_a_format_that_strptime_does_not_know(written):
    with pytest.raises(DataError, match=f"timestamp_format: '{written}' is no strptime format"):
        parse(["04/01/2016"], written)


def test_missing_timestamps_are_named():
    with pytest.raises(DataError, match="1 rows have no timestamp: train/1"):
        parse(["2016-01-01", None, "2016-01-03"])


def test_numbers_need_a_unit():
    with pytest.raises(DataError, match="unix_s or unix_ms"):
        parse([1_451_606_400, 1_451_610_000])
    assert parse([1_451_606_400], "unix_s").tolist() == [at("2016-01-01")]
    assert parse([1_451_606_400_000], "unix_ms").tolist() == [at("2016-01-01")]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("2300-01-01", None),
        ("1600-01-01", None),
        ("2300-01-01T00:00:00+01:00", None),
        (1_451_606_400_000, "unix_s"),
        (float("inf"), "unix_s"),
    ],
)
def test_times_that_would_wrap_are_named(value, written):
    """2300 became 1715: 64 bits of nanoseconds end in 2262."""
    good = {str: "2016-01-01" + str(value)[10:], int: 0, float: 0.0}[type(value)]
    with pytest.raises(DataError, match=r"1 of 2 timestamps are outside of 1678 to 2261: .* in row train/1"):
        parse([good, value], written)
    assert parse(["2261-12-31", "1678-01-01"]).tolist() == [at("2261-12-31"), at("1678-01-01")]


def test_offsets_are_kept_and_never_mixed_with_none():
    found = parse(["2016-07-01T02:00:00+02:00", "2016-07-01T00:30:00Z"])
    assert found.tolist() == [at("2016-07-01 00:00"), at("2016-07-01 00:30")]
    with pytest.raises(DataError, match="some timestamps have an offset"):
        parse(["2016-07-01T02:00:00+02:00", "2016-07-01T03:00:00"])


def test_the_repeated_hour_in_autumn_is_told_apart_by_order():
    clock = ["2016-10-30 01:30", "2016-10-30 02:30", "2016-10-30 02:30", "2016-10-30 03:30"]
    found = parse(clock, time_zone="Europe/Berlin")
    assert np.diff(found).tolist() == [3_600_000_000_000] * 3
    assert hours(found, "Europe/Berlin").tolist() == [1, 2, 2, 3]


def test_the_repeated_hour_is_told_apart_within_each_series():
    clock = [text for text in ("2016-10-30 02:00", "2016-10-30 02:00", "2016-10-30 03:00") for _ in "ab"]
    found = parse(clock, time_zone="Europe/Berlin", series=[0, 1] * 3)
    assert np.diff(found[::2]).tolist() == [3_600_000_000_000] * 2
    assert found[::2].tolist() == found[1::2].tolist()


def test_a_single_row_of_the_repeated_hour_cannot_be_placed():
    with pytest.raises(DataError, match=r"has twice.*2016-10-30 02:30:00 in row train/1"):
        parse(["2016-10-30 01:30", "2016-10-30 02:30", "2016-10-30 03:30"], time_zone="Europe/Berlin")


def test_a_time_that_the_zone_skips_in_spring_is_an_error():
    with pytest.raises(DataError, match=r"skips.*2016-03-27 02:30:00 in row train/1"):
        parse(["2016-03-27 01:30", "2016-03-27 02:30"], time_zone="Europe/Berlin")


def test_an_unknown_zone_gets_the_nearest_name():
    with pytest.raises(DataError, match="did you mean 'Europe/Berlin'"):
        parse(["2016-01-01"], time_zone="Europe/Berlim")


def test_calendar_features_follow_the_wall_clock():
    times = parse(["2016-07-02T22:00:00Z"])
    features = ["hour_of_day", "weekend"]
    assert calendar_names(features) == ["hour_of_day_sin", "hour_of_day_cos", "weekend"]
    # Midnight of Sunday in Berlin, Saturday evening in UTC; both are weekend, the hours differ.
    assert np.allclose(calendar(times, features, "Europe/Berlin"), [[0, 1, 1]])
    assert np.allclose(calendar(times, features, None), [[np.sin(11 / 6 * np.pi), np.cos(11 / 6 * np.pi), 1]])


def test_datetimes_of_a_table_need_no_format():
    values = pandas.Series(pandas.date_range("2016-01-01", periods=3, freq="1h", tz="Europe/Berlin"))
    assert parse(values)[0] == at("2015-12-31 23:00")
