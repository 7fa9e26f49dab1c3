"""A role-aware view of a `datasets.Dataset`: the raw rows of one split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


class Table:
    """Rows of one split, seen through the roles of the task.

    Media are never decoded here: an image is the raw `{"bytes": ..., "path": ...}`, so that a file that
    cannot be decoded is met by the task, which can name the row.

    Args:
        dataset: the rows, Arrow-backed; Image and Audio features set to `decode=False`.
        columns: role -> column name, or the list of names that make the role together.
        ids: one name per row, unique over all splits.
    """

    def __init__(self, dataset: Dataset, columns: Mapping[str, str | list[str]], ids: Sequence[str]):
        self.dataset = dataset
        self.columns = dict(columns)
        self.ids = list(ids)
        # Columns that were asked for: `datasets` makes a view of one anew each time, and copies the features.
        self._views: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        # A data set that lost its last column has lost its rows.
        raw = self.dataset[int(index)] if self.columns else {}
        row = {
            role: raw[column] if isinstance(column, str) else [raw[name] for name in column]
            for role, column in self.columns.items()
        }
        return {**row, "id": self.ids[index]}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def column(self, name: str, indices: Sequence[int] | None = None) -> list[Any]:
        """Give the values of a role, or of a column of the source that plays none.

        Args:
            name: of the role or column.
            indices: the rows that are wanted, in this order; None: all.
        """
        column = self.columns.get(name, name)
        if isinstance(column, str):
            return self._values(column, indices)
        return [
            list(values) for values in zip(*(self._values(part, indices) for part in column), strict=True)
        ]

    def _values(self, column: str, indices: Sequence[int] | None) -> list[Any]:
        if column not in self._views:
            self._views[column] = self.dataset[column]
        return self._views[column][slice(None) if indices is None else [int(index) for index in indices]]

    def has(self, name: str) -> bool:
        """Tell whether there is such a role or column."""
        return name in self.columns or name in self.dataset.column_names

    def select(self, indices: Sequence[int]) -> Table:
        """Give the rows at these positions, in this order."""
        return Table(self.dataset.select(indices), self.columns, [self.ids[index] for index in indices])

    def without(self, *roles: str) -> Table:
        """Give the same rows without some roles, whose columns are then not read."""
        columns = {name: column for name, column in self.columns.items() if name not in roles}
        named = [[column] if isinstance(column, str) else column for column in columns.values()]
        used = sorted({name for names in named for name in names})
        return Table(self.dataset.select_columns(used), columns, self.ids)

    @property
    def fingerprint(self) -> str:
        """Hash of the rows, as `datasets` keeps it."""
        return self.dataset._fingerprint
