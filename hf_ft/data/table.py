"""A table: the raw rows of one split, with the columns of a `datasets.Dataset` under the task's roles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


class Table:
    """The raw rows of one split; a row is a dict of role -> value, and `id`.

    Media are not decoded: an image is `{"bytes": ..., "path": ...}`. The task decodes it, so that an error
    can name the row.

    Args:
        dataset: the rows; Image, Audio and Video features are set to `decode=False`.
        columns: role -> name of the column, or names of the columns that together have the role.
        ids: one id per row, unique over all splits.
    """

    def __init__(self, dataset: Dataset, columns: Mapping[str, str | list[str]], ids: Sequence[str]):
        self.dataset = dataset
        self.columns = dict(columns)
        self.ids = list(ids)
        # Column -> its view. `datasets` builds a new view and copies the features on every access.
        self._views: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        # A data set without columns has no rows, but a table without roles still has ids.
        raw = self.dataset[int(index)] if self.columns else {}
        row = {
            role: raw[column] if isinstance(column, str) else [raw[name] for name in column]
            for role, column in self.columns.items()
        }
        return {**row, "id": self.ids[index]}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def column(self, name: str, indices: Sequence[int] | None = None) -> list[Any]:
        """Return the values of a role, or of a column of the source.

        Args:
            name: name of the role or column.
            indices: positions of the rows, in the order of the result; None: all rows.
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
        """Tell whether there is a role or column of this name."""
        return name in self.columns or name in self.dataset.column_names

    def select(self, indices: Sequence[int]) -> Table:
        """Return a table of the rows at these positions, in this order."""
        return Table(self.dataset.select(indices), self.columns, [self.ids[index] for index in indices])

    def without(self, *roles: str) -> Table:
        """Return a table without some roles; their columns are not read."""
        columns = {name: column for name, column in self.columns.items() if name not in roles}
        named = [[column] if isinstance(column, str) else column for column in columns.values()]
        used = sorted({name for names in named for name in names})
        return Table(self.dataset.select_columns(used), columns, self.ids)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the rows, which `datasets` computes."""
        return self.dataset._fingerprint
