"""Inputs of a prediction as rows, each with its place and the columns of its file; bad rows kept apart."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.data.files import format_of, read_files
from hf_ft.data.sources import rows_in_memory
from hf_ft.errors import DataError
from hf_ft.text_utils import hint, listing

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_ft.task import Row, Task

# What a task calls a row of a table that it reads; here the place of the row is told.
_NUMBERED = re.compile(r"^input \d+: ")


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be predicted for.

    Args:
        place: the file, and the number of the row in a file of rows, counted from 1.
        reason: what is wrong with it.
    """

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass
class Inputs:
    """Rows to predict for, and where they come from.

    Args:
        rows: N rows as the task reads them.
        places: the place of each row, for messages [N].
        carried: the columns of each row's file that go to the output as they are [N].
        bad: rows that could not be read.
    """

    rows: list[Row] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    carried: list[dict[str, Any]] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


def read_inputs(task: Task, inputs: Any, id_column: str | None = None, usual_id: str | None = None) -> Inputs:
    """Read inputs with what their files say beside; rows that cannot be read are kept apart.

    Args:
        task: of the model.
        inputs: as `predict_to_file` takes them.
        id_column: the column that names the rows of a file.
        usual_id: the column that names them where there is one of this name; None: `id`.

    Raises:
        DataError: a file cannot be read, has no such column, or none of its rows can be used.
    """
    found, names = Inputs(), [name for name in (usual_id, "id") if name is not None]
    for table, part in itertools.groupby(listed(inputs), key=_is_table):
        if table:
            for one in part:
                _read_rows(task, one, id_column, names, found)
        else:
            rows = task.read_inputs(_checked(task, list(part)))
            found.rows += rows
            found.places += [str(row["id"]) for row in rows]
            found.carried += [{} for _ in rows]
    if not task.media_roles:
        # Where nothing is to be decoded, every row is looked at before anything is computed.
        _set_bad_rows_apart(task, found)
    return found


def _is_table(one: Any) -> bool:
    """Tell a file of rows, a DataFrame or a Dataset from other inputs."""
    if isinstance(one, str | Path):
        return os.path.isfile(one) and format_of(str(one)) is not None
    return hasattr(one, "columns") or hasattr(one, "column_names")


def _checked(task: Task, inputs: list[Any]) -> list[Any]:
    """Refuse a folder where the task reads no media: it would be taken for a text."""
    folders = [one for one in inputs if isinstance(one, str | Path) and os.path.isdir(one)]
    if folders and not task.media_roles:
        raise DataError(f"{folders[0]}: is a folder; expected a file of rows")
    return inputs


def _set_bad_rows_apart(task: Task, found: Inputs) -> None:
    """Move rows that cannot be used to `found.bad`."""
    problems = [task.inspect(row).problem for row in found.rows]
    found.bad += bad_rows(found, {at: one for at, one in enumerate(problems) if one is not None})
    good = [number for number, reason in enumerate(problems) if reason is None]
    found.rows = [found.rows[number] for number in good]
    found.places = [found.places[number] for number in good]
    found.carried = [found.carried[number] for number in good]


def listed(inputs: Any) -> list[Any]:
    """Give inputs as a list, one that stands alone too."""
    return list(inputs) if isinstance(inputs, list | tuple) else [inputs]


def _read_rows(task: Task, one: Any, id_column: str | None, usual: Sequence[str], found: Inputs) -> None:
    """Read a file of rows, a DataFrame or a Dataset; where the task refuses it, row by row."""
    named = isinstance(one, str | Path)
    file = str(one) if named else "the table"
    table = read_files([file]) if named else rows_in_memory(one)["train"]
    if id_column is not None and id_column not in table.column_names:
        raise DataError(
            f"{file}: there is no column {id_column!r}{hint(id_column, table.column_names)} (found columns: "
            f"{listing(table.column_names)})"
        )
    rows = list(_rows_of(task, table, file, found.bad))
    # Steps of a series become one row: then no column belongs to a row alone.
    single = len(rows) == len(table)
    column = id_column or next((name for name in usual if name in table.column_names), None)
    names = _names(table, column) if single else None
    kept = _carried(table) if single else []
    for number, row in enumerate(rows):
        if row is None:
            continue
        place = f"{file}, row {number + 1}" if single else f"{file}, {row['id']}"
        if names is not None:
            number_of = f"{file}/{number}" if named else str(number)
            row = {**row, "id": names[number] if names[number] is not None else number_of}
        found.rows.append(row)
        found.places.append(place)
        found.carried.append({name: values[number] for name, values in kept})


def _rows_of(task: Task, table: Dataset, file: str, bad: list[BadRow]) -> Iterator[Row | None]:
    """Give the rows of a table; None for one that the task refuses, unless it refuses all."""
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
            reasons[number] = _NUMBERED.sub("", str(error))
    if len(reasons) == len(table):
        raise DataError(f"{file}: {_NUMBERED.sub('', str(refused))}") from refused
    bad += [BadRow(f"{file}, row {number + 1}", reason) for number, reason in reasons.items()]
    yield from rows


def _names(table: Dataset, column: str | None) -> list[str | None]:
    values = [None] * len(table) if column is None else table[column][:]
    return [None if value is None else str(value) for value in values]


def _carried(table: Dataset) -> list[tuple[str, list[Any]]]:
    """Give the columns of plain values and of lists of text: media and series are large, and at hand."""
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
    """Say where the rows are that cannot be used, and why: position -> reason."""
    return [_bad_row(found.rows[at], found.places[at], problems[at]) for at in sorted(problems)]


def _bad_row(row: Row, place: str, problem: str) -> BadRow:
    """Take from a problem the name of the row that it begins with: the place stands in front of it."""
    name = re.escape(str(row["id"]))
    return BadRow(place, re.sub(rf"^row {name}[,:] (file {name}: )?", "", problem))
