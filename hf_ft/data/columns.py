"""Which column plays which role, and the table of a split that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_ft.data.class_folders import ROW_ID
from hf_ft.data.labels import part_labels
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
    """Give the rows of a split their roles and their ids.

    Args:
        rows: as the source gave them.
        source: what the source calls this split; the first part of ids that are numbers.
        split: train, validation or test, for messages.
        section: the recipe's `data:`.
        roles: the task's roles.

    Raises:
        DataError: a role or column does not exist, or the rows cannot be read as the section says.
    """
    columns = map_columns(rows.column_names, roles, section.columns, split)
    gathered = next((role for role in columns if roles[role].gathered), None)
    if gathered is not None and is_long(rows.features, columns, gathered):
        rows = _one_row_a_series(rows, columns, gathered, split, section, roles)
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
        rows = part_labels(rows, columns.get("label"), section.label_separator, split)
    return Table(rows, columns, ids)


def _one_row_a_series(
    rows: Dataset,
    columns: Mapping[str, str | list[str]],
    gathered: str,
    split: str,
    section: DataSection,
    roles: Mapping[str, Role],
) -> Dataset:
    """Make one row a series of a table with one row a step."""
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
    """Decide which column plays which role: as the recipe says, else named like it, else a usual name.

    Columns that play no role are left alone (tf#22119). A role that is not required may stay without a
    column.

    Args:
        found: the columns of the data.
        roles: the task's roles.
        given: `data.columns` of the recipe.
        split: the split they belong to, for messages.

    Returns:
        role -> column, or list of columns.

    Raises:
        DataError: a role or column does not exist; every problem is listed, with the columns found.
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
