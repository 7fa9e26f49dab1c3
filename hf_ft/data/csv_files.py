"""Read CSV files: every cell as text, then columns of plain numbers and of lists as such."""

from __future__ import annotations

import ast
import contextlib
import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError
from hf_ft.text_utils import listing, media_kind

if TYPE_CHECKING:
    from pandas import DataFrame, Series

# Plain numbers only: `007`, `1_000` and `1e5 m` stay text.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]{0,14})(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
# Cells that mean a missing number in a column of numbers; in a column of text they are text.
_MISSING = {"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"}


def read_csv_files(paths: Sequence[str]) -> DataFrame:
    """Read CSV files with the same columns as one table, in the given order.

    Raises:
        DataError: a file is no CSV file, or its columns are not those of the first file.
    """
    import pandas

    frames = {path: _resolve_media(_read_csv(path), os.path.dirname(path)) for path in paths}
    check_same_columns({path: list(frame.columns) for path, frame in frames.items()})
    return _infer_types(pandas.concat(frames.values(), ignore_index=True))


def check_same_columns(columns: Mapping[str, Sequence[str]]) -> None:
    """Refuse files of one table that have other columns than the first file.

    Args:
        columns: path of a file -> names of its columns.

    Raises:
        DataError: names the first file with other columns, and these columns.
    """
    first, *others = columns
    for path in others:
        lacks = [name for name in columns[first] if name not in columns[path]]
        more = [name for name in columns[path] if name not in columns[first]]
        if lacks or more:
            found = [f"lacks {listing(lacks)}"] * bool(lacks) + [f"also has {listing(more)}"] * bool(more)
            raise DataError(
                "data.source: the files of one split need the same columns, but "
                f"{path} {' and '.join(found)}, unlike {first}."
            )


def _read_csv(path: str) -> DataFrame:
    """Read one file with the delimiter that gives all rows as many cells as the header."""
    import pandas

    problems = []
    for delimiter in _delimiters(path):
        try:
            header, rows = _read_cells(path, delimiter)
        except DataError as error:
            problems.append(error)
        else:
            columns = zip(*rows, strict=True) if rows else ((),) * len(header)
            return pandas.DataFrame(dict(zip(header, columns, strict=True)), dtype="str")
    raise problems[0]


def _delimiters(path: str) -> list[str]:
    """Return the delimiters that divide the header, most columns first; the comma where none does."""
    cells = {delimiter: len(_header(path, delimiter)) for delimiter in ",;\t"}
    return sorted((one for one in cells if cells[one] > 1), key=lambda one: -cells[one]) or [","]


def _header(path: str, delimiter: str) -> list[str]:
    with _opened(path) as file, contextlib.suppress(csv.Error):
        return next((cells for cells in csv.reader(file, delimiter=delimiter) if cells), [])
    return []


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Iterable[str]]:
    """Open a file as UTF-8, its cells of any length; its lines end as they are written."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(f"data.source: {path} is not UTF-8 ({error}); save it as UTF-8.") from error
    finally:
        csv.field_size_limit(limit)


def _read_cells(path: str, delimiter: str) -> tuple[list[str], list[list[str]]]:
    """Read the header and the rows, and refuse what would lose rows without a message.

    These are quotes that do not enclose a whole cell (with one, all lines up to the next quote are one cell)
    and rows with more or fewer cells than the header, such as both halves of a row with a line break that is
    not in quotes.
    """
    with _opened(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        before, rows = 0, []
        try:
            header = _names(path, next((cells for cells in reader if cells), []))
            before = reader.line_num
            for cells in reader:
                if len(cells) == len(header):
                    rows.append(cells)
                elif len(cells) > 1 or (cells and cells[0].strip()):
                    raise DataError(
                        f"data.source: {path}, line {before + 1}: found {_counted(len(cells), 'cell')}, "
                        f"expected {_counted(len(header), 'column')}; enclose text with {delimiter!r} or a "
                        "line break in quotes."
                    )
                before = reader.line_num
        except csv.Error as error:
            raise DataError(
                f"data.source: {path}, line {before + 1}: a quote is not closed, or text follows it "
                f"({error} in line {reader.line_num}); enclose the whole cell in quotes, and write a quote "
                'inside as "".'
            ) from error
    return header, rows


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _names(path: str, header: Sequence[str]) -> list[str]:
    """Check the names of the columns; one without a name is called as pandas would call it."""
    if not header:
        raise DataError(f"data.source: {path} is empty; expected a header line with the column names.")
    if any("\0" in name for name in header):
        raise DataError(f"data.source: {path} holds NUL characters; save it as UTF-8 text.")
    names = [name or f"Unnamed: {position}" for position, name in enumerate(header)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"data.source: {path} has several columns named {listing(twice)}; give each its own name."
        )
    return names


def _resolve_media(frame: DataFrame, folder: str) -> DataFrame:
    for name in frame.columns:
        if len(frame) and all(map(media_kind, frame[name])):
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
    if all(map(_INTEGER.fullmatch, present)):
        return cells.mask(missing, None).astype("Int64" if missing.any() else "int64")
    if all(map(_DECIMAL.fullmatch, present)):
        return cells.mask(missing, "nan").astype("float64")
    return column
