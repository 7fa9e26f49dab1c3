"""Convert timestamps to UTC without guessing formats or zones, and compute calendar features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.errors import DataError
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    from pandas import DatetimeIndex, Series

# In these modules a time is the number of nanoseconds since 1970 in UTC.
SECOND = 1_000_000_000
# More seconds before or after 1970 do not fit into 64 bits of nanoseconds.
MOST_SECONDS = 2**63 // SECOND - 1
EPOCHS = {"unix_s": SECOND, "unix_ms": SECOND // 1000}
# An offset from UTC at the end of a text with a time of day: Z, +01:00, -0500.
_OFFSET = re.compile(r"\d[T ]\d.*(Z|[+-]\d{2}:?\d{2})$")

# feature -> period in days, or None for a flag. A periodic feature is a sine and a cosine over its period.
CALENDAR = {"hour_of_day": 1.0, "day_of_week": 7.0, "day_of_year": 365.2425, "weekend": None}


def parse_timestamps(
    values: Sequence[Any], ids: Sequence[str], written: str | None, time_zone: str | None, series: np.ndarray
) -> np.ndarray:
    """Convert timestamps to nanoseconds since 1970 in UTC.

    Text without a UTC offset is local time of `time_zone`; without a zone it is read as UTC, a clock without
    daylight saving. When daylight saving ends, one hour occurs twice in local time: the order of the rows
    decides which rows belong to its first and which to its second occurrence.

    Args:
        values: N timestamps: text, datetimes, or numbers since 1970.
        ids: N row ids, for messages.
        written: `task.timestamp_format`: a strptime format, `unix_s`, `unix_ms`; None: ISO 8601.
        time_zone: IANA name, or None.
        series: number of the series of each row, int [N]; a repeated hour is resolved within each series.

    Returns:
        Nanoseconds since 1970 in UTC, int64 [N].

    Raises:
        DataError: a timestamp is missing, has another format, or does not exist in this zone; the message
            names the rows.
    """
    import pandas

    column = pandas.Series(list(values))
    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise DataError(f"{len(missing)} rows have no timestamp: {_rows(missing, ids)}")
    if pandas.api.types.is_numeric_dtype(column):
        return _numbers(column, ids, written)
    if pandas.api.types.is_datetime64_any_dtype(column):
        moments = column
    else:
        moments = _texts(column.astype(str), ids, written)
    if moments.dt.tz is not None:
        return _nanoseconds(moments.dt.tz_convert("UTC").dt.tz_localize(None), ids)
    if time_zone is None:
        return _nanoseconds(moments, ids)
    found = np.empty(len(moments), dtype=np.int64)
    for one in np.unique(series):
        rows = np.flatnonzero(series == one)
        found[rows] = _localise(moments.iloc[rows], [ids[int(row)] for row in rows], time_zone)
    return found


def _numbers(column: Series, ids: Sequence[str], written: str | None) -> np.ndarray:
    if written not in EPOCHS:
        raise DataError(
            f"the timestamps are numbers ({column.iloc[0]} in row {ids[0]}); set task.timestamp_format: "
            "unix_s or unix_ms, for seconds or milliseconds since 1970"
        )
    _check_range(column.to_numpy(dtype=np.float64) * EPOCHS[written] / SECOND, column, ids)
    result: np.ndarray = np.round(column.to_numpy(dtype=np.float64) * EPOCHS[written]).astype(np.int64)
    return result


def _check_range(seconds: np.ndarray, written: Series, ids: Sequence[str]) -> None:
    """Refuse times that 64 bits of nanoseconds cannot hold.

    Args:
        seconds: since 1970, [N].
        written: N times as they are shown in the message.
        ids: N row ids.
    """
    outside = np.flatnonzero(~(np.abs(seconds) < MOST_SECONDS))
    if len(outside):
        first = int(outside[0])
        raise DataError(
            f"{len(outside)} of {len(seconds)} timestamps are outside of 1678 to 2261: "
            f"{written.iloc[first]} in row {ids[first]}. Correct them, or leave these rows out; is "
            "task.timestamp_format right?"
        )


def _texts(column: Series, ids: Sequence[str], written: str | None) -> Series:
    import pandas

    if written in EPOCHS:
        raise DataError(
            f"task.timestamp_format: found {written}, but row {ids[0]} holds the text {column.iloc[0]!r}; "
            "write a strptime format, or remove the key for ISO 8601"
        )
    offset = column.map(lambda text: bool(_OFFSET.search(text.strip()))).to_numpy()
    if offset.any() and not offset.all():
        raise DataError(
            f"some timestamps have an offset from UTC and others do not: {column[offset].iloc[0]!r} in row "
            f"{ids[int(np.argmax(offset))]}, {column[~offset].iloc[0]!r} in row {ids[int(np.argmin(offset))]}"
        )
    aware = bool(offset.all()) or (written is not None and "%z" in written)
    try:
        moments = pandas.to_datetime(column, format=written or "ISO8601", errors="coerce", utc=aware)
    except ValueError as error:
        raise DataError(
            f"task.timestamp_format: {written!r} is no strptime format ({error}); expected one such as "
            "'%d/%m/%Y %H:%M', or unix_s or unix_ms"
        ) from error
    wrong = np.flatnonzero(moments.isna())
    if len(wrong):
        expected = f"the format {written!r}" if written else "ISO 8601 (2016-01-31 23:55)"
        raise DataError(
            f"{len(wrong)} of {len(column)} timestamps do not have {expected}: {column.iloc[wrong[0]]!r} in "
            f"row {ids[wrong[0]]}. Set task.timestamp_format, for instance '%d/%m/%Y %H:%M' where the day "
            "comes first"
        )
    return moments


def _localise(moments: Series, ids: Sequence[str], time_zone: str) -> np.ndarray:
    clock = moments.dt.tz_localize(zone(time_zone), ambiguous="NaT", nonexistent="shift_forward")
    twice = np.flatnonzero(clock.isna())
    existing = moments.dt.tz_localize(
        time_zone, ambiguous=np.ones(len(moments), dtype=bool), nonexistent="NaT"
    )
    absent = np.flatnonzero(existing.isna())
    if len(absent):
        raise DataError(
            f"task.time_zone: {len(absent)} rows have a time that {time_zone} skips when its clock goes "
            f"forward: {moments.iloc[absent[0]]} in row {ids[absent[0]]}. The timestamps are in another "
            "zone, or in a clock without daylight saving: correct task.time_zone, or remove it"
        )
    try:
        known = moments.dt.tz_localize(time_zone, ambiguous="infer")
    except ValueError as error:
        raise DataError(
            f"task.time_zone: {len(twice)} rows lie in the hour that {time_zone} has twice, and their order "
            f"does not say in which of the two: {moments.iloc[twice[0]]} in row {ids[twice[0]]}. Write the "
            "timestamps in UTC or with a UTC offset"
        ) from error
    return _nanoseconds(known.dt.tz_convert("UTC").dt.tz_localize(None), ids)


def zone(name: str) -> Any:
    """Load a time zone by its IANA name.

    Raises:
        DataError: no zone has this name; the message gives the nearest name.
    """
    import zoneinfo

    from hf_ft.text_utils import hint

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        raise DataError(
            f"task.time_zone: there is no zone {name!r}{hint(name, sorted(zoneinfo.available_timezones()))}. "
            "Expected an IANA name such as Europe/Berlin"
        ) from error


def _nanoseconds(moments: Series, ids: Sequence[str]) -> np.ndarray:
    """Convert UTC times to nanoseconds; numpy would wrap times that do not fit: 2300 becomes 1715."""
    seconds = moments.to_numpy().astype("datetime64[s]").astype(np.int64)
    _check_range(seconds, moments, ids)
    result: np.ndarray = moments.to_numpy().astype("datetime64[ns]").astype(np.int64)
    return result


def wall_clock(times: np.ndarray, time_zone: str | None) -> DatetimeIndex:
    """Convert times to the local time of a zone (UTC where none is named)."""
    import pandas

    moments = pandas.DatetimeIndex(np.asarray(times, dtype="datetime64[ns]"))
    if time_zone is None:
        return moments
    return moments.tz_localize("UTC").tz_convert(zone(time_zone)).tz_localize(None)


def hours(times: np.ndarray, time_zone: str | None) -> np.ndarray:
    """Return the hour of the day of each time, in local time, int8 [N]."""
    result: np.ndarray = wall_clock(times, time_zone).hour.to_numpy().astype(np.int8)
    return result


def calendar_names(features: Sequence[str]) -> list[str]:
    """Name the columns that `calendar` computes for these features."""
    return [
        name
        for feature in features
        for name in ([feature] if CALENDAR[feature] is None else [f"{feature}_sin", f"{feature}_cos"])
    ]


def calendar(times: np.ndarray, features: Sequence[str], time_zone: str | None) -> np.ndarray:
    """Compute calendar features of times, in local time.

    Args:
        times: nanoseconds since 1970 in UTC, int64 [N].
        features: names in CALENDAR.
        time_zone: IANA name; None: UTC.

    Returns:
        Values from -1 to 1, float64 [N, columns], in the order of `calendar_names`.
    """
    clock = wall_clock(times, time_zone)
    fraction = (clock.hour * 3600 + clock.minute * 60 + clock.second).to_numpy() / 86_400
    days = {
        "hour_of_day": fraction,
        "day_of_week": clock.dayofweek.to_numpy() + fraction,
        "day_of_year": clock.dayofyear.to_numpy() - 1 + fraction,
    }
    columns = []
    for feature in features:
        period = CALENDAR[feature]
        if period is None:
            columns.append((clock.dayofweek >= 5).astype(np.float64))
        else:
            angle = 2 * np.pi * days[feature] / period
            columns += [np.sin(angle), np.cos(angle)]
    return np.stack(columns, axis=1) if columns else np.empty((len(times), 0))


def _rows(positions: np.ndarray, ids: Sequence[str]) -> str:
    return listing([ids[position] for position in positions], 5)
