"""Turn the inputs of a Predictor into rows: files of rows, tables, dicts, or single values."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError
from hf_ft.text_utils import MEDIA, hint, listing, media_kind

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_ft.task import Role, Row

Columns = Mapping[str, str | list[str]]


def read_rows(
    inputs: Any, roles: Mapping[str, Role], columns: Columns, single: Callable[[Any, str], list[Row]]
) -> list[Row]:
    """Turn inputs into rows by role.

    Args:
        inputs: one input or a list of them: a file of rows (CSV, JSON lines, Parquet), a DataFrame, a
            Dataset, a dict by role or by column, or any value that `single` can read.
        roles: the roles that a row needs, with their usual column names.
        columns: role -> column(s) of the training table, which are tried first.
        single: turns any other input into rows; its second argument is the id for a row that has none.

    Returns:
        Rows with an `id`: their own where they have one, else their number.

    Raises:
        DataError: no column fits a role, or a file cannot be read.
    """
    rows: list[Row] = []
    for given in inputs if isinstance(inputs, list) else [inputs]:
        if isinstance(given, Mapping):
            rows.append(_by_role(given, roles, columns, str(len(rows)), f"input {len(rows)}"))
        elif is_row_file(given) or is_table(given):
            for values in read_table([given]):
                place = f"{given}" if is_row_file(given) else f"input {len(rows)}"
                rows.append(_by_role(values, roles, columns, str(len(rows)), place))
        else:
            rows += single(given, str(len(rows)))
    return rows


def is_row_file(value: Any) -> bool:
    """Tell whether a value names a file of rows.

    A single word with the ending of such a file counts even if the file does not exist: a wrong path must not
    be taken for a text.
    """
    from hf_ft.data.files import format_of

    if not isinstance(value, (str, Path)) or format_of(str(value)) is None:
        return False
    return isinstance(value, Path) or os.path.isfile(value) or len(value.split()) == 1


def is_table(value: Any) -> bool:
    """Tell whether a value is a table in memory: a DataFrame or a Dataset."""
    from datasets import Dataset
    from pandas import DataFrame

    return isinstance(value, (DataFrame, Dataset))


def read_table(inputs: Sequence[Any]) -> Dataset:
    """Read files of rows as one table, in their order; or convert a table in memory, or a list of dicts.

    Raises:
        DataError: the inputs have another type, or a file cannot be read.
    """
    from hf_ft.data.files import read_files
    from hf_ft.data.sources import as_datasets

    if len(inputs) == 1 and is_table(inputs[0]):
        return as_datasets(inputs[0], "inputs")["train"]
    if inputs and all(isinstance(one, (str, Path)) for one in inputs):
        return read_files([str(one) for one in inputs])
    return as_datasets(list(inputs), "inputs")["train"]


def no_row_file(value: Any) -> DataError:
    """Make the error for a path that is not a file of rows, where only such files can be read."""
    from hf_ft.data.files import FORMATS

    return DataError(f"{value}: expected a file of rows: {listing(FORMATS)}")


def without_usual_names(roles: Mapping[str, Role]) -> dict[str, Role]:
    """Remove the usual column names of roles, so that prediction never guesses which column is meant."""
    return {name: replace(role, usual=()) for name, role in roles.items()}


def choose_columns(
    found: Sequence[str], roles: Mapping[str, Role], columns: Columns, place: str
) -> dict[str, str | list[str]]:
    """Choose a column for each role: the training column, else one named like the role, else a usual name.

    Args:
        found: the columns of the input.
        roles: the roles that are needed.
        columns: role -> column(s) of the training table.
        place: which input this is, for the message.

    Raises:
        DataError: no column fits a role.
    """
    chosen: dict[str, str | list[str]] = {}
    for name, role in roles.items():
        trained = columns.get(name, name)
        wanted = [trained] if isinstance(trained, str) else list(trained)
        missing = [column for column in wanted if column not in found]
        usual = next((column for column in (name, *role.usual) if column in found), None)
        if missing and usual is None:
            raise DataError(
                f"{place}: no column {listing(missing)}{hint(missing[0], found)}; found {listing(found)}"
            )
        chosen[name] = str(usual) if missing else trained
    return chosen


def _by_role(
    values: Mapping[str, Any], roles: Mapping[str, Role], columns: Columns, name: str, place: str
) -> Row:
    chosen = choose_columns(list(values), roles, columns, place)
    row = {
        role: values[column] if isinstance(column, str) else [values[part] for part in column]
        for role, column in chosen.items()
    }
    return {"id": str(values.get("id", name)), **row}


def media_files(path: Path, kind: str) -> list[Path]:
    """List all files of one kind in a folder, at any depth, sorted by name; of a file, list the file itself.

    Args:
        path: a file of any ending, or a folder.
        kind: `image`, `video` or `audio`.

    Raises:
        DataError: the path does not exist, or the folder has no file of this kind.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(
            f"{path}: there is no such file or folder; expected an {kind}, a folder, or a file of rows"
        )
    found = sorted(file for file in path.rglob("*") if media_kind(file.name) == kind)
    if not found:
        raise DataError(
            f"{path}: no {kind} in this folder; expected files ending in {listing(MEDIA[kind], 20)}"
        )
    return found
