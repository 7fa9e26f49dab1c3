"""Texts as they come: what is wrong with one, which are the same, and how a user's own become rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_ft.errors import DataError
from hf_ft.text_utils import listing

# One text, or the columns that make it together, of which some may be empty.
Text = str | Sequence[str | None]


def joined(text: Text, separator: str) -> str:
    """Give a text as one string, its columns joined and empty ones left out."""
    return text if isinstance(text, str) else separator.join(part for part in text if part)


def problem_of(text: Any) -> str | None:
    """Say what is wrong with a text, or with the columns that make it together; None where nothing is."""
    parts = text if isinstance(text, (list, tuple)) else [text]
    for part in parts:
        if not isinstance(part, str) and part is not None:
            return f"found {type(part).__name__} {part!r} in place of a text; see data.columns.text"
    return None if any(part and part.strip() for part in parts) else "the text is empty"


def read_texts(inputs: Any, columns: Mapping[str, str | list[str]]) -> list[dict[str, Any]]:
    """Turn what a user hands to a Predictor into rows.

    Args:
        inputs: a text; a tuple of texts where the columns are several; a dict by column or role; a list of
            these; a DataFrame; or paths of CSV, JSON lines or Parquet files.
        columns: role -> column(s) of the training table.

    Raises:
        DataError: a text is missing or empty, or nothing can be read there.
    """
    import pandas

    if isinstance(inputs, pandas.DataFrame):
        inputs = inputs.to_dict("records")
    elif isinstance(inputs, (str, Path, tuple, Mapping)):
        inputs = [inputs]
    values = [value for given in inputs for value in _values(given, columns)]
    rows = [_row(str(number), value, columns) for number, value in enumerate(values)]
    for row in rows:
        problem = next(filter(None, (problem_of(row[role]) for role in columns)), None)
        if problem is not None:
            raise DataError(f"input {row['id']}: {problem}")
    return rows


def _values(given: Any, columns: Mapping[str, str | list[str]]) -> list[Any]:
    """Give the rows of a file; what is no file is itself a text or a row."""
    from hf_ft.data.files import FORMATS, format_of, read_files

    if isinstance(given, Path) and format_of(str(given)) is None:
        expected = f"{listing(FORMATS)} with the column(s) {listing(_flat(columns.values()))}"
        raise DataError(f"{given}: expected a file of rows: {expected}")
    # One word that ends like a file of rows was never meant as a text: a wrong path must not get a label.
    named = isinstance(given, (str, Path)) and format_of(str(given)) is not None
    if not named or (isinstance(given, str) and not os.path.isfile(given) and len(given.split()) > 1):
        return [given]
    return list(read_files([str(given)]))


def _row(name: str, value: Any, columns: Mapping[str, str | list[str]]) -> dict[str, Any]:
    if isinstance(value, Mapping):
        name = str(value.get("id", name))
        if all(role in value for role in columns):
            return {"id": name, **{role: value[role] for role in columns}}
        missing = [column for column in _flat(columns.values()) if column not in value]
        if missing:
            raise DataError(f"input {name}: no {listing(missing)}; found {listing(value)}")
        texts = {
            role: value[column] if isinstance(column, str) else [value[part] for part in column]
            for role, column in columns.items()
        }
        return {"id": name, **texts}
    parts = [value] if isinstance(value, str) else list(value)
    if len(parts) != len(columns):
        raise DataError(f"input {name}: {len(parts)} texts; expected {' and '.join(columns)}")
    return {"id": name, **dict(zip(columns, parts, strict=True))}


def _flat(columns: Iterable[str | list[str]]) -> list[str]:
    return [part for column in columns for part in ([column] if isinstance(column, str) else column)]
