"""Rows whose media are decoded once, kept in files, and read from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.errors import DataError
from hf_ft.storage.row_store import Field, RowStore
from hf_ft.task import Ready

if TYPE_CHECKING:
    import torch

    from hf_ft.data.table import Table
    from hf_ft.task import Row, Task


# A row's media, one uint8 tensor for each role.
Media = Mapping[str, "torch.Tensor"]
# Axes that decoded media have at most: frames of a video have four.
_MOST_AXES = 4


class DecodedRows:
    """The rows of a split, like a Table, with `Task.media` in the place of what is encoded in files.

    A row is decoded and kept the first time it is asked for, by whichever process that is: a run that reads
    frozen activations and never encodes a row decodes none.

    Args:
        task: decodes.
        rows: the raw rows.
        store: of all rows of the split.
        ready: whether the media are kept ready for the model, and not only decoded.
        places: where in the store each row is, int [N]; None: all of them, in order.
    """

    def __init__(
        self, task: Task, rows: Table, store: RowStore, *, ready: bool, places: np.ndarray | None = None
    ):
        self.task, self.rows, self.store, self.ready = task, rows, store, ready
        self.roles = task.media_roles
        self.ids = rows.ids
        self.places = np.arange(len(rows)) if places is None else places
        # What else a row holds, read without the files that its media are encoded in.
        self.others = rows.without(*self.roles)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Hash of the raw rows."""
        return self.rows.fingerprint

    def __getitem__(self, index: int) -> Row:
        (media,) = self._decoded([index])
        kept = {role: Ready(one) if self.ready else one.numpy() for role, one in media.items()}
        return {**self.others[index], **kept}

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def column(self, name: str, indices: Sequence[int] | None = None) -> list[Any]:
        """Give values of a role or column, media as they are in the source; of all rows, or of some."""
        return self.rows.column(name, indices)

    def select(self, indices: Sequence[int]) -> DecodedRows:
        """Give the rows at these positions, in this order."""
        places = self.places[list(indices)]
        return DecodedRows(self.task, self.rows.select(indices), self.store, ready=self.ready, places=places)

    def stacked(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Give the media of many rows that are `ready`, uint8 [B, ...] for each role, in one copy."""
        missing = [int(index) for index in indices if self.places[index] not in self.store]
        self._decoded(list(dict.fromkeys(missing)))
        return self.store.read([int(place) for place in self.places[indices]])

    def _decoded(self, indices: Sequence[int]) -> list[Media]:
        """Give the media of rows, those that are kept without a copy; keep the others."""
        missing = [index for index in indices if self.places[index] not in self.store]
        made: dict[int, Media] = {}
        if missing:
            found = self.task.media([self.rows[index] for index in missing], ready=self.ready)
            made = dict(zip(missing, found or [], strict=True))
            for index, media in made.items():
                self._keep(index, media)
        return [made[index] if index in made else self.kept(index) for index in indices]

    def _keep(self, index: int, media: Media) -> None:
        place = int(self.places[index])
        if not self.ready:
            # A few formats say in their first bytes another size than they have: these rows are not kept.
            if sum(one.numel() for one in media.values()) == self.store.lengths[place]:
                self.store.write(place, stored_values(media, self.roles, ready=False))
            return
        for field in self.store.fields:
            if tuple(media[field.name].shape) != field.shape:
                raise DataError(
                    f"row {self.ids[index]}: the processor makes {tuple(media[field.name].shape)} of its "
                    f"{field.name}, and {field.shape} of another row; rows of one batch must be of one "
                    "shape; write cache: {decoded: false}"
                )
        self.store.write(place, stored_values(media, self.roles, ready=True))

    def kept(self, index: int) -> dict[str, torch.Tensor]:
        """Give the media of a row that are kept, not copied."""
        values = self.store.view(int(self.places[index]))
        if self.ready:
            return dict(zip(self.roles, values, strict=True))
        flat, shapes = values
        sizes = [tuple(size for size in shape if size >= 0) for shape in shapes.tolist()]
        parts = flat.split([int(np.prod(size)) for size in sizes])
        return {role: part.view(size) for role, part, size in zip(self.roles, parts, sizes, strict=True)}


def fields_of(roles: Sequence[str], media: Media | None) -> list[Field]:
    """List what is kept of a row.

    Args:
        roles: the roles that have media.
        media: of any row, where those of all rows have one shape; None: each row has shapes of its own.
    """
    import torch

    if media is not None:
        return [Field(role, tuple(media[role].shape), torch.uint8) for role in roles]
    flat = Field("media", (0,), torch.uint8, length_axis=0)
    return [flat, Field("shapes", (len(roles), _MOST_AXES), torch.int32)]


def stored_values(media: Media, roles: Sequence[str], *, ready: bool) -> list[torch.Tensor]:
    """Give the values of `fields_of` for one row."""
    import torch

    if ready:
        return [media[role] for role in roles]
    shapes = [[*media[role].shape] + [-1] * (_MOST_AXES - media[role].dim()) for role in roles]
    return [
        torch.cat([media[role].flatten() for role in roles]),
        torch.tensor(shapes, dtype=torch.int32),
    ]
