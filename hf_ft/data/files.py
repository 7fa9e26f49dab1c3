"""Read files of rows: CSV, TSV, JSON lines, JSON and Parquet; text is never turned into another type."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.data.csv_files import read_csv_files
from hf_ft.data.parquet_files import first_line, read_parquet_files
from hf_ft.errors import DataError
from hf_ft.text_utils import listing, media_kind

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}


def format_of(path: str) -> str | None:
    """Return the format of a file by its suffix: `csv`, `json`, `parquet`, or None if it is unknown."""
    return FORMATS.get(os.path.splitext(path)[1].casefold())


def read_files(paths: Sequence[str]) -> Dataset:
    """Read files of one format as one data set, in the given order.

    A CSV column becomes numbers only if every value is a plain number; values such as `no`, `NA`, `007` and
    `2016-01-04` stay text. It becomes lists if every cell is a list, `["a", "b"]` or `[1, 2]`. If all values
    of a text column are names of media files, they are resolved against the folder of the table, so that a
    table may lie beside its images.

    Args:
        paths: the files.

    Raises:
        DataError: a file cannot be read, or the files do not fit together.
    """
    from datasets import concatenate_datasets

    formats = {path: format_of(path) for path in paths}
    unknown = [path for path, kind in formats.items() if kind is None]
    if unknown:
        raise DataError(f"data.source: cannot read {listing(unknown, 3)}; expected {', '.join(FORMATS)}.")
    if len(set(formats.values())) > 1:
        raise DataError(
            f"data.source: files of several formats for one split: {listing(paths)}; keep one format."
        )
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise DataError(f"data.source: there is no file {listing(missing, 3)}.")
    kind = formats[paths[0]]
    try:
        if kind == "parquet":
            return read_parquet_files(paths)
        if kind == "csv":
            return from_frame(read_csv_files(paths))
        return (
            concatenate_datasets([_read_json(path) for path in paths])
            if len(paths) > 1
            else _read_json(paths[0])
        )
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"data.source: cannot read {listing(paths, 3)}: {first_line(error)}") from error


def line_breaks(rows: Dataset) -> int:
    """Count the rows that have a line break inside a text cell.

    In a CSV file these are rows of several lines, or rows that two stray quotes have made one.
    """
    import numpy as np
    import pyarrow
    import pyarrow.compute as compute

    found = np.zeros(len(rows), dtype=bool)
    for column in rows.data.columns:
        if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
            found |= compute.fill_null(compute.match_substring(column, "\n"), False).to_numpy()
    return int(found.sum())


def _read_json(path: str) -> Dataset:
    """Read JSON lines or a JSON list of objects with `json`; Arrow's reader would turn text into dates."""
    with open(path, encoding="utf-8-sig") as file:
        text = file.read()
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text, object_pairs_hook=_unique)
        else:
            records = _json_lines(path, text)
    except RecursionError as error:
        raise DataError(f"data.source: cannot read {path}: values are nested too deep.") from error
    return from_records(records, f"data.source: {path}", folder=os.path.dirname(path))


def _json_lines(path: str, text: str) -> list[Any]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line, object_pairs_hook=_unique))
            except ValueError as error:
                raise DataError(
                    f"data.source: {path}, line {number}: {error}; expected one object per line."
                ) from error
    return records


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of JSON, and refuse a key that it has twice: `json` would keep the last value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = listing(sorted({key for key in names if names.count(key) > 1}))
        raise ValueError(f"an object has several values for {twice}")
    return found


def from_records(records: Sequence[Any], name: str, folder: str | None = None) -> Dataset:
    """Build a data set from dicts; a key that a record lacks becomes None there.

    Args:
        records: one dict per row.
        name: what the records are called in messages.
        folder: folder against which names of media files are resolved; None: they are left as they are.

    Raises:
        DataError: a record is not a dict, or the values of a column do not fit together.
    """
    from datasets import Dataset

    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{name}: record {number} is {type(record).__name__}, expected an object.")
    keys = list(dict.fromkeys(key for record in records for key in record))
    columns = {key: [record.get(key) for record in records] for key in keys}
    if folder is not None:
        for key, values in columns.items():
            if values and all(isinstance(value, str) and media_kind(value) for value in values):
                columns[key] = [value if "://" in value else os.path.join(folder, value) for value in values]
    for key, values in columns.items():  # `datasets` would store text beside numbers as JSON
        _require_one_kind(str(key), values, name)
    return _stored(lambda names: Dataset.from_dict({key: columns[key] for key in names}), columns, name)


def _require_one_kind(key: str, values: Sequence[Any], name: str) -> None:
    """Refuse a column that mixes kinds of values, such as text and numbers; name a row of each."""
    if len(set(map(type, values)) - {type(None)}) < 2:
        return
    first: dict[str, int] = {}
    for number, value in enumerate(values):
        if value is not None:
            first.setdefault(_kind(value), number)
    if len(first) < 2:
        return
    shown = {kind: (f"{values[number]!r:.40}", number + 1) for kind, number in first.items()}
    found = [f"{kind} ({text} in record {number})" for kind, (text, number) in shown.items()]
    missing = any(text == "nan" for text, _ in shown.values())
    advice = "; where a value is missing, write None in place of NaN" if missing else ""
    raise DataError(f"{name}: column {key!r} mixes types: {listing(found)}{advice}.")


def _kind(value: Any) -> str:
    """Return the kind of a value, of which a column may have only one."""
    import numpy as np

    kinds: dict[str, tuple[type, ...]] = {
        "true or false": (bool, np.bool_),
        "a number": (int, float, np.number),
        "text": (str,),
        "bytes": (bytes,),
        "a list": (list, tuple, np.ndarray),
        "an object": (dict,),
    }
    return next((kind for kind, types in kinds.items() if isinstance(value, types)), "another value")


def from_frame(frame: DataFrame, name: str = "data.source") -> Dataset:
    """Build a data set from a pandas DataFrame, without its index.

    Args:
        frame: the rows.
        name: what the rows are called in messages.

    Raises:
        DataError: the columns have no names or one name twice, or the values of one do not fit together.
    """
    from datasets import Dataset

    twice = frame.columns[frame.columns.duplicated()].tolist()
    if twice:
        raise DataError(f"{name}: several columns are named {listing(twice)}; give each its own name.")
    columns = {key: frame[key] for key in frame.columns}
    return _stored(lambda names: Dataset.from_pandas(frame[names], preserve_index=False), columns, name)


def _stored(
    build: Callable[[list[Any]], Dataset], columns: Mapping[Any, Iterable[Any]], name: str
) -> Dataset:
    """Build a data set of columns, and name the column that cannot be stored.

    Args:
        build: returns the data set of the columns with these names.
        columns: name -> values.
        name: what the rows are called in messages.
    """
    unnamed = [key for key in columns if "\0" in str(key)]
    if unnamed:
        raise DataError(f"{name}: found the column {unnamed[0]!r}; expected a name without NUL.")
    found = _build(build, list(columns))
    if isinstance(found, str):
        for key, values in columns.items():
            _require_one_kind(str(key), [None if _is_missing(value) else value for value in values], name)
        bad = [key for key in columns if isinstance(_build(build, [key]), str)]
        place = f"column {bad[0]!r} mixes types or cannot be stored" if bad else "the columns do not fit"
        raise DataError(f"{name}: {place}: {found}.")
    for key, values in columns.items():
        if _has_names(found.features[str(key)]) and any(map(_has_nul_name, values)):
            raise DataError(f"{name}: column {key!r} holds an object with NUL in a name; rename it.")
    return found


def _build(build: Callable[[list[Any]], Dataset], names: list[Any]) -> Dataset | str:
    """Return the data set of these columns, or why Arrow cannot store them."""
    import pyarrow

    try:
        return build(names)
    except OverflowError:
        return "a whole number has more than 64 bits; write such numbers as text"
    except (pyarrow.ArrowException, ValueError, TypeError, KeyError) as error:
        return first_line(error)


def _is_missing(value: Any) -> bool:
    """Tell whether pandas takes a value for a missing one."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _has_names(feature: Any) -> bool:
    """Tell whether values of a feature are objects, or lists of objects."""
    inner = getattr(feature, "feature", None)
    return isinstance(feature, dict) or (inner is not None and _has_names(inner))


def _has_nul_name(value: Any) -> bool:
    """Tell whether an object has a name with NUL: Arrow ends a name there, and loses its value."""
    if isinstance(value, dict):
        return any("\0" in str(name) for name in value) or any(map(_has_nul_name, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_nul_name, value))


def download(address: str) -> str:
    """Download an https address into the cache of `datasets`, unless it is there, and return the local path.

    Raises:
        DataError: the address cannot be fetched.
    """
    from datasets import DownloadManager

    try:
        local = str(DownloadManager().download(address))
    except (OSError, ValueError) as error:
        raise DataError(f"data.source: cannot fetch {address}: {first_line(error)}") from error
    # The cache names files by a hash without a suffix, but the suffix tells the format.
    suffix = Path(address.split("?")[0]).suffix
    link = Path(local).with_name(Path(local).name + suffix)
    with contextlib.suppress(FileExistsError):
        os.link(local, link)
    return str(link)
