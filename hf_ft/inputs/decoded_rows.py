"""Rows whose media are decoded once, stored in files, and read from these files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.errors import DataError
from hf_ft.storage.row_store import Field, RowStore
from hf_ft.task import Preprocessed

if TYPE_CHECKING:
    import torch

    from hf_ft.data.table import Table
    from hf_ft.task import Row, Task


# The media of a row, one uint8 tensor for each role.
Media = Mapping[str, "torch.Tensor"]
# The largest number of axes of decoded media: frames of a video have four.
_MAX_AXES = 4


class DecodedRows:
    """The rows of a split, like a Table, with decoded media (`Task.media`) in place of the raw media.

    The first process that reads a row decodes and stores it. A run that reads cached activations and never
    encodes a row therefore decodes none.

    Args:
        task: decodes the media.
        rows: the raw rows.
        store: stores the media of all rows of the split.
        preprocessed: whether the processor's geometry is applied before the media are stored.
        places: position of each row in the store, int [N]; None: all rows, in order.
    """

    def __init__(
        self,
        task: Task,
        rows: Table,
        store: RowStore,
        *,
        preprocessed: bool,
        places: np.ndarray | None = None,
    ):
        self.task, self.rows, self.store, self.preprocessed = task, rows, store, preprocessed
        self.roles = task.media_roles
        self.ids = rows.ids
        self.places = np.arange(len(rows)) if places is None else places
        # The other values of a row, read without its media files.
        self.others = rows.without(*self.roles)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Hash of the raw rows."""
        return self.rows.fingerprint

    def __getitem__(self, index: int) -> Row:
        (media,) = self._decoded([index])
        values = {
            role: Preprocessed(one) if self.preprocessed else one.numpy() for role, one in media.items()
        }
        return {**self.others[index], **values}

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def column(self, name: str, indices: Sequence[int] | None = None) -> list[Any]:
        """Return the values of a role or column, media in their raw form; `indices` None: of all rows."""
        return self.rows.column(name, indices)

    def select(self, indices: Sequence[int]) -> DecodedRows:
        """Return the rows at these positions, in this order."""
        places = self.places[list(indices)]
        return DecodedRows(
            self.task, self.rows.select(indices), self.store, preprocessed=self.preprocessed, places=places
        )

    def stacked(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Copy the preprocessed media of many rows into one tensor for each role, uint8 [B, ...]."""
        missing = [int(index) for index in indices if self.places[index] not in self.store]
        self._decoded(list(dict.fromkeys(missing)))
        return self.store.read([int(place) for place in self.places[indices]])

    def _decoded(self, indices: Sequence[int]) -> list[Media]:
        """Return the media of rows: read the stored ones, decode and store the missing ones."""
        missing = [index for index in indices if self.places[index] not in self.store]
        decoded: dict[int, Media] = {}
        if missing:
            found = self.task.media([self.rows[index] for index in missing], preprocessed=self.preprocessed)
            decoded = dict(zip(missing, found or [], strict=True))
            for index, media in decoded.items():
                self._write(index, media)
        return [decoded[index] if index in decoded else self.read_stored(index) for index in indices]

    def _write(self, index: int, media: Media) -> None:
        place = int(self.places[index])
        if not self.preprocessed:
            # In a few formats the size in the header differs from the decoded size: such rows are not stored.
            if sum(one.numel() for one in media.values()) == self.store.lengths[place]:
                self.store.write(place, stored_values(media, self.roles, preprocessed=False))
            return
        for field in self.store.fields:
            if tuple(media[field.name].shape) != field.shape:
                raise DataError(
                    f"row {self.ids[index]}: the processor gives its {field.name} the shape "
                    f"{tuple(media[field.name].shape)}, and the first row has {field.shape}; rows of one "
                    "batch must have one shape. To decode rows in each epoch, write cache: {decoded: false}"
                )
        self.store.write(place, stored_values(media, self.roles, preprocessed=True))

    def read_stored(self, index: int) -> dict[str, torch.Tensor]:
        """Return the stored media of a row as views of the memory map, without a copy."""
        values = self.store.view(int(self.places[index]))
        if self.preprocessed:
            return dict(zip(self.roles, values, strict=True))
        flat, shapes = values
        sizes = [tuple(size for size in shape if size >= 0) for shape in shapes.tolist()]
        parts = flat.split([int(np.prod(size)) for size in sizes])
        return {role: part.view(size) for role, part, size in zip(self.roles, parts, sizes, strict=True)}


def fields_of(roles: Sequence[str], media: Media | None) -> list[Field]:
    """List the fields that the store has for each row.

    Args:
        roles: the roles that have media.
        media: the media of one row, where all rows have the same shapes; None: the shapes differ by row.
    """
    import torch

    if media is not None:
        return [Field(role, tuple(media[role].shape), torch.uint8) for role in roles]
    flat = Field("media", (0,), torch.uint8, length_axis=0)
    return [flat, Field("shapes", (len(roles), _MAX_AXES), torch.int32)]


def stored_values(media: Media, roles: Sequence[str], *, preprocessed: bool) -> list[torch.Tensor]:
    """Return the values of one row for the fields that `fields_of` lists."""
    import torch

    if preprocessed:
        return [media[role] for role in roles]
    shapes = [[*media[role].shape] + [-1] * (_MAX_AXES - media[role].dim()) for role in roles]
    return [
        torch.cat([media[role].flatten() for role in roles]),
        torch.tensor(shapes, dtype=torch.int32),
    ]
