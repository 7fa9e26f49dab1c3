"""Read files of rows: CSV, TSV, JSON lines, JSON and Parquet; text is never turned into another type."""

from __future__ import annotations

import ast
import contextlib
import csv
import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError
from hf_ft.text_utils import listing, media_kind

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame, Series

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}
# Plain numbers only: `007`, `1_000` and `1e5 m` stay text.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]{0,14})(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
# Cells that mean a missing number in a column of numbers; in a column of text they are text.
_MISSING = {"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"}


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
    from datasets import concatenate_datasets, load_dataset

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
            return load_dataset("parquet", data_files={"train": list(paths)}, split="train")
        if kind == "csv":
            import pandas

            frame = pandas.concat([_read_csv(path) for path in paths], ignore_index=True)
            return from_frame(_infer_types(frame))
        return (
            concatenate_datasets([_read_json(path) for path in paths])
            if len(paths) > 1
            else _read_json(paths[0])
        )
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"data.source: cannot read {listing(paths, 3)}: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """Return the first line of the innermost error, because `datasets` wraps the useful message."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0]


def _read_csv(path: str) -> DataFrame:
    import pandas

    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            first = file.readline()
        except UnicodeDecodeError as error:
            raise DataError(f"data.source: {path} is not UTF-8 ({error}); save it as UTF-8.") from error
    delimiter = max(",;\t", key=first.count)
    header = next(csv.reader([first], delimiter=delimiter), [])
    if not header:
        raise DataError(f"data.source: {path} is empty; expected a header line with the column names.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"data.source: {path} has several columns named {listing(twice)}; give each its own name."
        )
    least, most = _count_rows(path, delimiter)
    with warnings.catch_warnings():
        # pandas only warns when a line has more fields than the header, and then drops them.
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        try:
            frame = pandas.read_csv(
                path, sep=delimiter, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
            )
        except (pandas.errors.ParserError, pandas.errors.ParserWarning, UnicodeDecodeError) as error:
            raise DataError(
                f"data.source: cannot read {path}: {error}; expected {len(header)} columns."
            ) from error
    if not least <= len(frame) <= most:
        raise DataError(
            f"data.source: {path}: pandas reads {len(frame)} rows and Python's csv module reads {most}; "
            "expected a file that all programs read alike: look for stray quotes and unusual line ends."
        )
    return _resolve_media(frame, os.path.dirname(path))


def _count_rows(path: str, delimiter: str) -> tuple[int, int]:
    """Count the rows below the header, and refuse quotes that do not enclose a whole cell.

    pandas reads a cell that begins with a stray quote up to the next quote, which may be many lines below,
    and the rows between are lost without a message.

    Returns:
        The number of rows without and with those of one blank cell: pandas skips some of them.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        before, rows, blank, limit = 0, 0, 0, csv.field_size_limit(2**31 - 1)
        try:
            for cells in reader:
                before = reader.line_num
                is_blank = len(cells) == 1 and not cells[0].strip()
                rows, blank = rows + bool(cells), blank + is_blank
        except UnicodeDecodeError as error:
            raise DataError(f"data.source: {path} is not UTF-8 ({error}); save it as UTF-8.") from error
        except csv.Error as error:
            raise DataError(
                f"data.source: {path}, line {before + 1}: a quote is not closed, or text follows it "
                f"({error} in line {reader.line_num}); enclose the whole cell in quotes, and write a quote "
                'inside as "".'
            ) from error
        finally:
            csv.field_size_limit(limit)
    return rows - blank - 1, rows - 1


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


def _resolve_media(frame: DataFrame, folder: str) -> DataFrame:
    for name in frame.columns:
        if (
            len(frame)
            and frame[name].map(lambda value: isinstance(value, str) and bool(media_kind(value))).all()
        ):
            frame[name] = frame[name].map(
                lambda value: value if "://" in value else os.path.join(folder, value)
            )
    return frame


def _infer_types(frame: DataFrame) -> DataFrame:
    """Turn text columns into lists or numbers if every cell of the column is one."""
    for name in frame.columns:
        frame[name] = _parse_lists(frame[name]) or _parse_numbers(frame[name])
    return frame


def _parse_lists(column: Series) -> list[list[Any] | None] | None:
    """Parse a column of cells such as `["a", "b"]`, or `['a', 'b']` as pandas writes it.

    Returns:
        One list per cell, None for an empty cell; None for the column if a cell is no list, or if text and
        numbers are mixed.
    """
    cells = [cell.strip() for cell in column.fillna("")]
    if not any(cells) or not all(cell.startswith("[") and cell.endswith("]") for cell in cells if cell):
        return None
    found = []
    for cell in cells:
        try:
            found.append(_parse_list(cell) if cell else None)
        except (ValueError, SyntaxError):
            return None
    items = [item for values in found for item in values or ()]
    all_text = all(isinstance(item, str) for item in items)
    all_numbers = all(isinstance(item, int | float) and not isinstance(item, bool) for item in items)
    return found if all_text or all_numbers else None


def _parse_list(cell: str) -> list[Any]:
    try:
        return list(json.loads(cell))
    except json.JSONDecodeError:
        return list(ast.literal_eval(cell))


def _parse_numbers(column: Series) -> Series:
    """Turn a text column into numbers if every cell is a plain number or missing; else return it as it is."""
    cells = column.fillna("").str.strip()
    missing = cells.isin(_MISSING)
    present = cells[~missing]
    if present.empty:
        return column
    if present.map(lambda text: bool(_INTEGER.fullmatch(text))).all():
        return cells.mask(missing, None).astype("Int64" if missing.any() else "int64")
    if present.map(lambda text: bool(_DECIMAL.fullmatch(text))).all():
        return cells.mask(missing, "nan").astype("float64")
    return column


def _read_json(path: str) -> Dataset:
    """Read JSON lines or a JSON list of objects with `json`; Arrow's reader would turn text into dates."""
    with open(path, encoding="utf-8-sig") as file:
        text = file.read()
    if text.lstrip().startswith("["):
        records = json.loads(text, object_pairs_hook=_unique)
    else:
        records = []
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    records.append(json.loads(line, object_pairs_hook=_unique))
                except ValueError as error:
                    raise DataError(
                        f"data.source: {path}, line {number}: {error}; expected one object per line."
                    ) from error
    return from_records(records, f"data.source: {path}", folder=os.path.dirname(path))


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
    import pyarrow
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
    for key, values in columns.items():
        _require_one_kind(key, values, name)
    try:
        return Dataset.from_dict(columns)
    except (pyarrow.ArrowException, OverflowError, UnicodeError) as error:
        raise DataError(f"{name}: the values do not fit into the columns of a table: {error}.") from error


def _require_one_kind(key: str, values: Sequence[Any], name: str) -> None:
    """Refuse a column that mixes kinds of values, such as text and numbers; name a row of each."""
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


def from_frame(frame: DataFrame) -> Dataset:
    """Build a data set from a pandas DataFrame, without its index.

    Raises:
        DataError: the values of a column do not fit together.
    """
    import pyarrow
    from datasets import Dataset

    try:
        return Dataset.from_pandas(frame, preserve_index=False)
    except (pyarrow.ArrowException, OverflowError, UnicodeError) as error:
        for key in frame.columns:
            if frame[key].dtype == object:
                known = frame[key].where(frame[key].notna(), None)
                _require_one_kind(str(key), known.tolist(), "the DataFrame")
        raise DataError(f"the DataFrame does not fit into a table: {error}.") from error


def download(address: str) -> str:
    """Download an https address into the cache of `datasets`, unless it is there, and return the local path.

    Raises:
        DataError: the address cannot be fetched.
    """
    from datasets import DownloadManager

    try:
        local = str(DownloadManager().download(address))
    except (OSError, ValueError) as error:
        raise DataError(f"data.source: cannot fetch {address}: {_cause(error)}") from error
    # The cache names files by a hash without a suffix, but the suffix tells the format.
    suffix = Path(address.split("?")[0]).suffix
    link = Path(local).with_name(Path(local).name + suffix)
    with contextlib.suppress(FileExistsError):
        os.link(local, link)
    return str(link)
