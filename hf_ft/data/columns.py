"""Map the columns of the data to the roles of the task, and build the table of each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_ft.data.class_folders import ROW_ID
from hf_ft.data.labels import split_label_cells
from hf_ft.data.long_table import gather_steps, is_long
from hf_ft.data.table import Table
from hf_ft.errors import DataError
from hf_ft.text_utils import hint, listing, nearest

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_ft.recipe.schema import DataSection
    from hf_ft.task import Role


def read_table(
    rows: Dataset, source: str, split: str, section: DataSection, roles: Mapping[str, Role]
) -> Table:
    """Build the table of a split: map its columns to roles, and give each row an id.

    The id of a row is the value of `data.id`; otherwise the id of its series, or the path of its file below
    the source folder; otherwise `<source split>/<position>`.

    Args:
        rows: the rows of the split, as read from the source.
        source: name of the split in the source.
        split: train, validation or test, for messages.
        section: the section `data` of the recipe.
        roles: the task's roles.

    Raises:
        DataError: a role or column does not exist, or the rows do not fit the section.
    """
    columns = map_columns(rows.column_names, roles, section.columns, split)
    gathered = next((role for role in columns if roles[role].gathered), None)
    if gathered is not None and is_long(rows.features, columns, gathered):
        rows = _gather_series(rows, columns, gathered, split, section, roles)
        ids = [f"{source}/{value}" for value in rows[columns["series_id"]]]
    elif ROW_ID in rows.column_names:
        ids = [str(value) for value in rows[ROW_ID]]
    else:
        ids = [f"{source}/{index}" for index in range(len(rows))]
    if section.id is not None:
        if section.id not in rows.column_names:
            raise DataError(
                f"data.id: {split} has no column {section.id!r}{hint(section.id, rows.column_names)} "
                f"(found columns: {listing(rows.column_names)})"
            )
        ids = [str(value) for value in rows[section.id]]
    if section.label_separator is not None:
        rows = split_label_cells(rows, columns.get("label"), section.label_separator, split)
    return Table(rows, columns, ids)


def _gather_series(
    rows: Dataset,
    columns: Mapping[str, str | list[str]],
    gathered: str,
    split: str,
    section: DataSection,
    roles: Mapping[str, Role],
) -> Dataset:
    """Turn a table with one row per step into a table with one row per series."""
    time = columns.get("timestamp")
    whole = [part for role in columns if roles[role].target for part in _names(columns[role])]
    whole += [name for name in (section.id, section.split.by) if name and name in rows.column_names]
    steps, series_id = _names(columns[gathered]), str(columns["series_id"])
    timestamp = None if time is None else str(time)
    return gather_steps(rows, series_id, steps, whole, timestamp, name=split)


def _names(column: str | list[str]) -> list[str]:
    return [column] if isinstance(column, str) else column


def map_columns(
    found: Sequence[str],
    roles: Mapping[str, Role],
    given: Mapping[str, str | list[str]],
    split: str = "train",
) -> dict[str, str | list[str]]:
    """Choose the column of each role: from the recipe, else a column of the role's name or a usual name.

    Columns without a role are ignored (tf#22119). A role that is not required may have no column.

    Args:
        found: names of the columns of the data.
        roles: the task's roles.
        given: `data.columns` of the recipe.
        split: name of the split, for messages.

    Returns:
        role -> column, or list of columns.

    Raises:
        DataError: a role or column does not exist; the message lists every problem and the columns found.
    """
    problems = [
        f"data.columns.{role}: the task has no such role{hint(role, roles)} (roles: {listing(roles)})"
        for role in given
        if role not in roles
    ]
    columns: dict[str, str | list[str]] = {}
    for name, role in roles.items():
        if name in given:
            wanted = given[name]
            if isinstance(wanted, list) and not role.several:
                problems.append(f"data.columns.{name}: expected one column, found the list {wanted}")
            for column in [wanted] if isinstance(wanted, str) else wanted:
                if column not in found:
                    problems.append(
                        f"data.columns.{name}: there is no column {column!r}{hint(column, found)}"
                    )
            columns[name] = wanted
            continue
        usual_column = next((usual for usual in (name, *role.usual) if usual in found), None)
        if usual_column is not None:
            columns[name] = usual_column
        elif role.required:
            near = nearest(name, found) or "<column>"
            problems.append(f"no column for the role {name!r} ({role.help}): set data.columns.{name}: {near}")
    if problems:
        raise DataError(f"{split}: " + "\n".join(problems) + f"\nfound columns: {', '.join(found)}")
    return columns
