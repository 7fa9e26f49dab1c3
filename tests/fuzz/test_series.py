"""Time series with every fault that a table of them can have: each row is kept with its value, or named."""

from __future__ import annotations

import datetime
import random
import zoneinfo
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import pytest
from fuzzing import drawn, mutated
from hypothesis import strategies as st

from hf_ft.data.columns import read_table
from hf_ft.data.sources import rows_in_memory
from hf_ft.data.table import Table
from hf_ft.inputs.series.options import SeriesOptions, WholeSeriesOptions
from hf_ft.inputs.series.series_table import Series, read_series
from hf_ft.inputs.series.timestamps import parse_timestamps
from hf_ft.inputs.series.whole_series import SeriesInput
from hf_ft.recipe.schema import DataSection

Rows = list[dict[str, Any]]
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "UTC",
    "Africa/Casablanca",
)


# Tables with one row for each step of a series


def some_steps(rng: random.Random) -> Rows:
    """Return the rows of one or two series: regular steps in UTC, and a number for each."""
    step = datetime.timedelta(seconds=rng.choice([1, 60, 1800, 3600, 86400]))
    start = datetime.datetime(2016, rng.randint(1, 12), rng.randint(1, 28), rng.randint(0, 23))
    rows = []
    for name in "ab"[: rng.randint(1, 2)]:
        for number in range(rng.choice([2, 3, 10, 60])):
            value = rng.choice([rng.gauss(0, 1), float(number), 5.0])
            rows.append({"timestamp": start + number * step, "target": value, "series_id": name})
    return rows


def changed_value(rng: random.Random, rows: Rows) -> None:
    for _ in range(rng.choice([1, 2, len(rows)])):
        odd = [float("nan"), float("inf"), -float("inf"), None, 1e308, -1e308, 5e-324, 2**53, 0.0]
        rng.choice(rows)["target"] = rng.choice(odd)


def text_value(rng: random.Random, rows: Rows) -> None:
    """Make the values text, one of which is no number."""
    for row in rows:
        row["target"] = str(row["target"])
    rng.choice(rows)["target"] = rng.choice(["", "x", "1,5", "1_000", "nan", "inf", "0x1", " 7 ", "１"])


def moved(rng: random.Random, rows: Rows) -> None:
    """Move a row to another place, or all rows to any."""
    if rng.random() < 0.5:
        rng.shuffle(rows)
    else:
        rows.insert(rng.randrange(len(rows)), rows.pop(rng.randrange(len(rows))))


def removed(rng: random.Random, rows: Rows) -> None:
    del rows[rng.randrange(len(rows)) : rng.randrange(len(rows) + 1)]
    if not rows:
        rows.append({"timestamp": datetime.datetime(2016, 1, 1), "target": 1.0, "series_id": "a"})


def doubled(rng: random.Random, rows: Rows) -> None:
    rows.insert(rng.randrange(len(rows)), dict(rng.choice(rows)))


def shifted(rng: random.Random, rows: Rows) -> None:
    """Shift the time of a row by a second, a day, or hundreds of years."""
    shift = datetime.timedelta(seconds=rng.choice([-1, 1, 0.5, 1e-6, 86400, 1.5e10, 2.4e11, -6e10]))
    rng.choice(rows)["timestamp"] += shift


def odd_id(rng: random.Random, rows: Rows) -> None:
    rng.choice(rows)["series_id"] = rng.choice([None, "", "A", "a ", "é", "\0"])


TABLE_MUTATIONS: tuple[Callable[[random.Random, Rows], None], ...] = (
    changed_value,
    text_value,
    moved,
    removed,
    doubled,
    shifted,
    odd_id,
)


def written_times(rng: random.Random, rows: Rows) -> str | None:
    """Write the times in some way; return `task.timestamp_format`, which may be wrong."""
    way = rng.choice(["iso", "iso", "local", "datetime", "unix", "ms", "offset", "european", "mixed"])
    kept: str | None = None
    for row in rows:
        moment = row["timestamp"].replace(tzinfo=datetime.UTC)
        if way in ("unix", "ms"):
            row["timestamp"] = int(moment.timestamp() * (1000 if way == "ms" else 1))
            kept = {"unix": "unix_s", "ms": "unix_ms"}[way]
        elif way == "offset":
            row["timestamp"] = moment.astimezone(datetime.timezone(datetime.timedelta(hours=5.5))).isoformat()
        elif way == "european":
            row["timestamp"], kept = moment.strftime("%d/%m/%Y %H:%M:%S"), "%d/%m/%Y %H:%M:%S"
        elif way == "local":
            row["timestamp"] = moment.astimezone(zoneinfo.ZoneInfo("Europe/Berlin")).strftime(
                "%Y-%m-%d %H:%M:%S"
            )
        elif way == "mixed":
            row["timestamp"] = rng.choice([moment.isoformat(), str(row["timestamp"]), None, "", "yesterday"])
        elif way == "iso":
            row["timestamp"] = str(row["timestamp"])
    wrong = ["unix_s", "unix_ms", "%Y", "%d/%m/%Y", "%H:%M", "%Q", "%", "", "\0", "%z", "%d.%m.%y %z"]
    return rng.choice(wrong) if rng.random() < 0.15 else kept


def some_options(rng: random.Random, written: str | None) -> SeriesOptions:
    wrong_zone = ["Mars/Phobos", "", "../etc", "GMT+25", "Europe/Berlin\0", "localtime", "posixrules"]
    wrong_step = ["1 banana", "", "-1h", "0s", "1e400D", "NaT", "nan", "999999999D", "1M"]
    return SeriesOptions(
        timestamp_format=written,
        time_zone=rng.choice([None, None, *ZONES, rng.choice(wrong_zone)]),
        step=rng.choice([None, None, None, "1h", "1D", "30min", rng.choice(wrong_step)]),
        unordered=rng.choice(["error", "sort", "sort"]),
        gaps=rng.choice(["error", "split", "ignore", "split"]),
        missing=rng.choice(["error", "drop_windows", "interpolate"]),
        calendar=rng.choice([[], ["hour_of_day", "day_of_year", "weekend"]]),
    )


def wrong_series(rows: Rows, options: SeriesOptions, found: Series) -> str | None:
    """Compare with the rows: each is there once, with its value, its series and its time."""
    if sorted(found.ids) != sorted(f"train/{number}" for number in range(len(rows))):
        return f"found {len(found)} of {len(rows)} rows"
    if not np.isfinite(found.ahead).all():
        return "a calendar feature is not finite"
    for place, row_id in enumerate(found.ids):
        row = rows[int(row_id.rpartition("/")[2])]
        value = np.nan if row["target"] in (None, "") else float(row["target"])
        if not np.array_equal(found.values[place, 0], value, equal_nan=True):
            return f"row {row_id}: the value {found.values[place, 0]} for {row['target']}"
        if found.names[found.series[place]] != row["series_id"]:
            return f"row {row_id}: of the series {found.names[found.series[place]]}"
        moment = expected_moment(row["timestamp"], options)
        if moment is not None and abs(moment - found.times[place]) > 1000:
            return f"row {row_id}: the time {found.times[place]} for {row['timestamp']}, expected {moment}"
    return None


def expected_moment(written: Any, options: SeriesOptions) -> float | None:
    """Return nanoseconds since 1970 by Python's own datetime; None where a local hour occurs twice."""
    if isinstance(written, int):
        return written * (10**9 if options.timestamp_format == "unix_s" else 10**6)
    if isinstance(written, str) and options.timestamp_format:
        written = datetime.datetime.strptime(written, options.timestamp_format)
    if isinstance(written, str):
        written = datetime.datetime.fromisoformat(written)
    if written.tzinfo is None:
        zone = zoneinfo.ZoneInfo(options.time_zone or "UTC")
        moments = {written.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1)}
        if len(moments) > 1:
            return None
    else:
        moments = {written.timestamp()}
    whole = datetime.timedelta(microseconds=1)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    if written.tzinfo is None:
        written = written.replace(tzinfo=zone)
    return (written.astimezone(datetime.UTC) - epoch) // whole * 1000


@pytest.mark.parametrize("cases", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_steps(cases, seed, tally):
    """A table with one row for each step, as forecasting reads it."""

    def try_case(rng: random.Random) -> None:
        rows, changes = some_steps(rng), rng.choice([0, 1, 1, 2])
        for _ in range(changes):
            rng.choice(TABLE_MUTATIONS)(rng, rows)
        written = written_times(rng, rows)
        options = some_options(rng, written)

        def read() -> Series:
            frame = rows_in_memory(pandas.DataFrame(rows))["train"]
            columns: Any = {"timestamp": "timestamp", "target": "target", "series_id": "series_id"}
            table = Table(frame, columns, [f"train/{row}" for row in range(len(rows))])
            return read_series({"train": table}, options)

        names = ("train/", "task.", "column ", "data.columns", "timestamps")
        try:
            tally.tried(read, names, lambda found: wrong_series(rows, options, found))
        except BaseException as error:
            error.add_note(f"{options!r} {rows[:6]}")
            raise

    failures = mutated(tally, seed, cases, try_case)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("cases", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_gathered_steps(cases, seed, tally):
    """A table with one row for each step, gathered to one row for each series."""

    def try_case(rng: random.Random) -> None:
        rows = some_steps(rng)
        for row in rows:
            row["label"] = row["series_id"]
        for _ in range(rng.choice([0, 1, 2])):
            rng.choice(TABLE_MUTATIONS)(rng, rows)
        written_times(rng, rows)
        columns: dict[str, Any] = {"series": "target", "series_id": "series_id"}
        columns |= {"timestamp": "timestamp"} if rng.random() < 0.7 else {}
        section = DataSection(source="x.csv", columns=columns)

        def read() -> Any:
            frame = rows_in_memory(pandas.DataFrame(rows))["train"]
            return read_table(frame, "train", "train", section, SeriesInput.roles)

        def wrong(table: Any) -> str | None:
            counts = {one["series_id"]: 0 for one in rows}
            for row in rows:
                counts[row["series_id"]] += 1
            found = {row["series_id"]: len(row["series"]) for row in table}
            return None if found == counts else f"found {found} steps, expected {counts}"

        try:
            tally.tried(read, ("train",), wrong)
        except BaseException as error:
            error.add_note(f"{columns} {rows[:6]}")
            raise

    failures = mutated(tally, seed, cases, try_case)
    assert not failures, "\n".join(failures)


# Whole series, and timestamps of any form

ODD = st.sampled_from([float("nan"), float("inf"), 1e308, -1e308, 2**70, 10**400, "x", "1", None, True, b"1"])
VALUES = st.floats(-1e6, 1e6) | ODD
SERIES = st.one_of(
    st.lists(st.floats(-10, 10), min_size=1, max_size=6),
    st.lists(VALUES, max_size=6),
    st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=1, max_size=3),
    st.lists(st.lists(VALUES, max_size=4), max_size=3),
    st.lists(st.lists(st.lists(VALUES, max_size=2), max_size=2), max_size=2),
    VALUES,
    st.dictionaries(st.text(max_size=2), VALUES, max_size=2),
)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or value is None


@pytest.mark.parametrize("cases", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_whole_series(cases, seed, tally):
    """A value that should be a series: it keeps its shape and its numbers."""

    @drawn(cases, seed, SERIES, st.sampled_from(["error", "interpolate"]))
    def try_series(given: Any, missing: str) -> None:
        reader = SeriesInput(WholeSeriesOptions(missing=missing), None)

        def wrong(values: np.ndarray) -> str | None:
            expected = np.asarray(given, dtype=np.float64)
            expected = expected[:, None] if expected.ndim == 1 else expected.T
            known = ~np.isnan(expected)
            if values.shape != expected.shape or not np.isfinite(values).all():
                return f"the shape {values.shape}, expected {expected.shape}, all finite"
            return None if np.array_equal(values[known], expected[known]) else f"{values} for {expected}"

        tally.tried(lambda: reader.values({"id": "train/7", "series": given}), ("train/7",), wrong)

    try_series()


TIMES = st.one_of(
    st.datetimes(datetime.datetime(1500, 1, 1), datetime.datetime(2500, 1, 1)).map(str),
    st.datetimes(timezones=st.sampled_from([datetime.UTC, *map(zoneinfo.ZoneInfo, ZONES)])).map(str),
    st.datetimes(datetime.datetime(1500, 1, 1), datetime.datetime(2500, 1, 1)),
    st.datetimes(timezones=st.just(datetime.UTC)),
    st.dates(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.none(),
    st.booleans(),
    st.sampled_from(
        ["2016-W01", "2016-02-30", "24:00", "now", "today", "20160104", "2016-01-04T12Z", "0", "1e9"]
    ),
)
USUAL = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)).map(str)
LISTS = st.lists(TIMES, min_size=1, max_size=3) | st.lists(USUAL, min_size=1, max_size=3)


@pytest.mark.parametrize("cases", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_timestamps(cases, seed, tally):
    """Timestamps of any type: those that are read are what Python's own datetime reads."""
    written = st.sampled_from([None, None, "unix_s", "unix_ms", "%Y-%m-%d", "%d/%m/%Y %H:%M", "%Q", "%s"])

    @drawn(cases, seed, LISTS, written, st.sampled_from([None, None, *ZONES]))
    def try_times(values: list[Any], form: str | None, zone: str | None) -> None:
        ids = [f"train/{number}" for number in range(len(values))]
        options = SeriesOptions(timestamp_format=form, time_zone=zone)

        def wrong(times: np.ndarray) -> str | None:
            if form is not None or not all(isinstance(value, (str, datetime.datetime)) for value in values):
                return None if len(times) == len(values) else "another number of times"
            try:
                expected = [expected_moment(value, options) for value in values]
            except ValueError:
                return None  # a form of ISO 8601 that Python does not know
            pairs = zip(expected, times.tolist(), strict=True)
            return next((f"{two} for {one}" for one, two in pairs if one is not None and one != two), None)

        number = np.zeros(len(values), dtype=np.int64)
        names = ("train/", "task.")
        tally.tried(lambda: parse_timestamps(values, ids, form, zone, number), names, wrong)

    try_times()
