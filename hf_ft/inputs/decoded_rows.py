"""Rows whose media are decoded once, kept in files, and read from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.errors import DataError
from hf_ft.storage.row_store import Field, RowStore
from hf_ft.task import Ready

if TYPE_CHECKING:
    import torch

    from hf_ft.data.table import Table
    from hf_ft.task import Row, Task


class DecodedRows:
    """The rows of a split, like a Table, with `Task.media` in the place of what is encoded in a file.

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
        self.role = str(task.media_role)
        self.ids = rows.ids
        self.places = np.arange(len(rows)) if places is None else places
        # What else a row holds, read without the file that its media are encoded in.
        self.others = rows.without(self.role)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        (media,) = self._decoded([index])
        return {**self.others[index], self.role: Ready(media) if self.ready else media.numpy()}

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def column(self, name: str, indices: Sequence[int] | None = None) -> list[Any]:
        """Give values of a role or column, media as they are in the source; of all rows, or of some."""
        return self.rows.column(name, indices)

    def select(self, indices: Sequence[int]) -> DecodedRows:
        """Give the rows at these positions, in this order."""
        places = self.places[list(indices)]
        return DecodedRows(self.task, self.rows.select(indices), self.store, ready=self.ready, places=places)

    def stacked(self, indices: np.ndarray) -> torch.Tensor:
        """Give the media of many rows that are `ready`, uint8 [B, ...], in one copy."""
        missing = [int(index) for index in indices if self.places[index] not in self.store]
        self._decoded(list(dict.fromkeys(missing)))
        return self.store.read([int(place) for place in self.places[indices]])["media"]

    def _decoded(self, indices: Sequence[int]) -> list[torch.Tensor]:
        """Give the media of rows, those that are kept without a copy; keep the others."""
        missing = [index for index in indices if self.places[index] not in self.store]
        made: dict[int, torch.Tensor] = {}
        if missing:
            found = self.task.media([self.rows[index] for index in missing], ready=self.ready)
            made = dict(zip(missing, found or [], strict=True))
            for index, media in made.items():
                self._keep(index, media)
        return [made[index] if index in made else self.kept(index) for index in indices]

    def _keep(self, index: int, media: torch.Tensor) -> None:
        place = int(self.places[index])
        if not self.ready:
            # A few formats say in their first bytes another size than they have: these rows are not kept.
            if media.numel() == self.store.lengths[place]:
                self.store.write(place, stored_values(media, ready=False))
            return
        expected = self.store.fields[0].shape
        if tuple(media.shape) != expected:
            raise DataError(
                f"row {self.ids[index]}: the processor makes {tuple(media.shape)} of it, and {expected} of "
                "another row; rows of one batch must be of one shape; write cache: {decoded: false}"
            )
        self.store.write(place, [media])

    def kept(self, index: int) -> torch.Tensor:
        """Give the media of a row that is kept, not copied."""
        media, *shape = self.store.view(int(self.places[index]))
        return media.view(shape[0].tolist()) if shape else media


def fields_of(shape: Sequence[int] | None) -> list[Field]:
    """List what is kept of a row: its media, all of one shape; or, each of its own, with that shape."""
    import torch

    if shape is not None:
        return [Field("media", tuple(shape), torch.uint8)]
    return [Field("media", (0,), torch.uint8, length_axis=0), Field("shape", (3,), torch.int32)]


def stored_values(media: torch.Tensor, *, ready: bool) -> list[torch.Tensor]:
    """Give the values of `fields_of` for one row: its media; with their shape where shapes differ."""
    import torch

    return [media] if ready else [media.flatten(), torch.tensor(media.shape, dtype=torch.int32)]
