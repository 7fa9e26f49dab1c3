"""Which column plays which role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_ft.errors import DataError
from hf_ft.text_utils import hint, listing, nearest

if TYPE_CHECKING:
    from hf_ft.task import Role


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
