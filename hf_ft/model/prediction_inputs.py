"""Read the inputs of a prediction: rows with their place and the columns of their file, and bad rows."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.data.files import FORMATS, format_of, read_files
from hf_ft.data.sources import rows_in_memory
from hf_ft.errors import DataError
from hf_ft.text_utils import hint, listing

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_ft.task import Row, Task

# `Task.read_inputs` starts its messages with the number of the input; here the place of the row replaces it.
_INPUT_NUMBER = re.compile(r"^input \d+: ")


@dataclass(frozen=True)
class BadRow:
    """A row for which no prediction is possible.

    Args:
        place: the file, and for a file of rows the number of the row, counted from 1.
        reason: why the row cannot be used.
    """

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass
class Inputs:
    """The rows of a prediction.

    Args:
        rows: N rows for the task.
        places: place of each row, for messages [N].
        carried: columns of the row's file that are copied to the output, for each row [N].
        bad: rows that cannot be read.
    """

    rows: list[Row] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    carried: list[dict[str, Any]] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


def read_inputs(task: Task, inputs: Any, id_column: str | None = None, usual_id: str | None = None) -> Inputs:
    """Read the inputs of `predict_to_file`, with the columns of their files; collect bad rows in `bad`.

    Args:
        task: the task of the model.
        inputs: as for `predict_to_file`.
        id_column: column of the input files with the ids of rows.
        usual_id: column with the ids if `id_column` is None and a file has this column; else `id`.

    Raises:
        DataError: a file cannot be read, has no column `id_column`, or none of its rows can be used.
    """
    found, names = Inputs(), [name for name in (usual_id, "id") if name is not None]
    for table, part in itertools.groupby(listed(inputs), key=_is_table):
        if table:
            for one in part:
                _read_rows(task, one, id_column, names, found)
        else:
            rows = task.read_inputs(_refuse_paths(task, list(part)))
            found.rows += rows
            found.places += [str(row["id"]) for row in rows]
            # A text that was given on the command line is copied, so that its answer can be told from others.
            found.carried += [
                {key: value for key, value in row.items() if key != "id" and isinstance(value, str)}
                if not task.media_roles
                else {}
                for row in rows
            ]
    if not task.media_roles:
        # Inspecting a row without media is fast, so bad rows are found before anything is computed.
        _move_bad_rows(task, found)
    return found


def _is_table(one: Any) -> bool:
    """Tell whether an input is a file of rows, a DataFrame or a Dataset."""
    if isinstance(one, str | Path):
        return os.path.isfile(one) and format_of(str(one)) is not None
    return hasattr(one, "columns") or hasattr(one, "column_names")


def _refuse_paths(task: Task, inputs: list[Any]) -> list[Any]:
    """Raise a DataError for a path if the task reads no media, because its name would be read as a text."""
    for one in inputs if not task.media_roles else ():
        if not isinstance(one, str | Path):
            continue
        if os.path.isdir(one):
            raise DataError(f"{one}: is a folder; expected a file of rows")
        if os.path.isfile(one):
            raise DataError(f"{one}: is a file of an unknown kind; expected {', '.join(FORMATS)}")
        name = str(one)
        if len(name.split()) == 1 and (format_of(name) is not None or name.casefold().endswith(".txt")):
            raise DataError(f"{one}: there is no such file (current folder: {os.getcwd()})")
    return inputs


def _move_bad_rows(task: Task, found: Inputs) -> None:
    """Inspect all rows and move those that cannot be used to `found.bad`."""
    problems = [task.inspect(row).problem for row in found.rows]
    found.bad += bad_rows(found, {at: one for at, one in enumerate(problems) if one is not None})
    good = [number for number, reason in enumerate(problems) if reason is None]
    found.rows = [found.rows[number] for number in good]
    found.places = [found.places[number] for number in good]
    found.carried = [found.carried[number] for number in good]


def listed(inputs: Any) -> list[Any]:
    """Return inputs as a list; a single input becomes a list of one."""
    return list(inputs) if isinstance(inputs, list | tuple) else [inputs]


def _read_rows(task: Task, one: Any, id_column: str | None, usual: Sequence[str], found: Inputs) -> None:
    """Read a file of rows, a DataFrame or a Dataset and add its rows to `found`."""
    named = isinstance(one, str | Path)
    file = str(one) if named else "the table"
    table = read_files([file]) if named else rows_in_memory(one)["train"]
    if id_column is not None and id_column not in table.column_names:
        raise DataError(
            f"{file}: there is no column {id_column!r}{hint(id_column, table.column_names)} (found columns: "
            f"{listing(table.column_names)})"
        )
    rows = list(_rows_of(task, table, file, found.bad))
    # If steps of a series are gathered into one row, the columns of the file do not belong to single rows.
    single = len(rows) == len(table)
    column = id_column or next((name for name in usual if name in table.column_names), None)
    names = _ids(table, column) if single else None
    carried = _carried_columns(table) if single else []
    for number, row in enumerate(rows):
        if row is None:
            continue
        place = f"{file}, row {number + 1}" if single else f"{file}, {row['id']}"
        if names is not None:
            number_of = f"{file}/{number}" if named else str(number)
            row = {**row, "id": names[number] if names[number] is not None else number_of}
        found.rows.append(row)
        found.places.append(place)
        found.carried.append({name: values[number] for name, values in carried})


def _rows_of(task: Task, table: Dataset, file: str, bad: list[BadRow]) -> Iterator[Row | None]:
    """Yield the rows of a table; None for a row that the task refuses, which is added to `bad`.

    If the task refuses the table as a whole, its rows are read one by one.

    Raises:
        DataError: the task refuses every row.
    """
    frame = table.to_pandas()
    try:
        yield from task.read_inputs(frame)
        return
    except DataError as error:
        refused = error
    reasons: dict[int, str] = {}
    rows: list[Row | None] = []
    for number in range(len(table)):
        try:
            (row,) = task.read_inputs(frame.iloc[[number]])
            rows.append(row)
        except DataError as error:
            rows.append(None)
            reasons[number] = _INPUT_NUMBER.sub("", str(error))
    if len(reasons) == len(table):
        raise DataError(f"{file}: {_INPUT_NUMBER.sub('', str(refused))}") from refused
    bad += [BadRow(f"{file}, row {number + 1}", reason) for number, reason in reasons.items()]
    yield from rows


def _ids(table: Dataset, column: str | None) -> list[str | None]:
    values = [None] * len(table) if column is None else table[column][:]
    return [None if value is None else str(value) for value in values]


def _carried_columns(table: Dataset) -> list[tuple[str, list[Any]]]:
    """Return (name, values) of the columns with single values or lists of text, without media and series."""
    from datasets import List, Value

    text = (Value("string"), Value("large_string"))
    plain = {
        name
        for name, feature in table.features.items()
        if (isinstance(feature, Value) and "binary" not in feature.dtype)
        or (isinstance(feature, List) and feature.feature in text)
    }
    return [(name, table[name][:]) for name in table.column_names if name in plain]


def bad_rows(found: Inputs, problems: Mapping[int, str]) -> list[BadRow]:
    """Build a BadRow for each problem.

    Args:
        found: the rows.
        problems: position of a row -> why it cannot be used.
    """
    return [_bad_row(found.rows[at], found.places[at], problems[at]) for at in sorted(problems)]


def _bad_row(row: Row, place: str, problem: str) -> BadRow:
    """Build a BadRow; the id at the start of the problem is removed, because the place replaces it."""
    name = re.escape(str(row["id"]))
    return BadRow(place, re.sub(rf"^row {name}[,:] (file {name}: )?", "", problem))
