"""Rows encoded on the fly, with randomness that belongs to (seed, epoch, row)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.task import ENGINE_KEYS

if TYPE_CHECKING:
    from hf_ft.task import Batch, Item, Row, Task


class EncodedRows:
    """A map-style data set for `torch.utils.data.DataLoader` whose indices are (epoch, row, real).

    What is random about a row is drawn from a generator seeded by (seed, epoch, row). The epoch travels with
    the index, so a resumed run, any number of workers and any number of processes see the same pixels
    (tf#39215); nothing is ever cached from a random transform (ds#3297).

    Args:
        task: encodes, mixes and collates.
        rows: the rows of one split: `len`, `[index] -> Row`, `ids`.
        split: name of the split, for messages.
        seed: the run's seed.
        train: whether rows are augmented and mixed.
        views: how many random versions there are of each row, seen in turn; None: another one each epoch.
    """

    def __init__(
        self, task: Task, rows: Any, *, split: str, seed: int, train: bool, views: int | None = None
    ):
        self.task = task
        self.rows = rows
        self.split = split
        self.seed = seed
        self.train = train
        self.views = views if self.chance else None

    @property
    def chance(self) -> bool:
        """Whether rows are changed at random."""
        return self.train and (self.task.random or self.task.mixes)

    @property
    def ids(self) -> list[str]:
        """Ids of the raw rows, in order."""
        return list(self.rows.ids)

    @cached_property
    def lengths(self) -> list[int] | None:
        """Length of each row as the task counts it, or None where all rows are of one length."""
        return self.task.lengths(self.rows)

    def plain(self) -> EncodedRows:
        """Give the same rows without random augmentation."""
        return EncodedRows(self.task, self.rows, split=self.split, seed=self.seed, train=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: tuple[int, int, bool]) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[tuple[int, int, bool]]) -> list[Item]:
        """Encode the rows of one batch in one call.

        Args:
            indices: (epoch, row, real); `real` is False where a row only fills up a batch.

        Returns:
            B items, each with the engine's keys `row` and `real`.
        """
        rows = [self.rows[row] for _, row, _ in indices]
        rngs = [self._rng(epoch, row) for epoch, row, _ in indices] if self.chance else None
        items = self.task.encode(rows, rngs)
        if rngs is not None and self.task.mixes:
            items = self._mix(items, indices, rngs)
        return [
            {**item, "row": row, "real": bool(real)}
            for item, (_, row, real) in zip(items, indices, strict=True)
        ]

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack B items by the task's own collation and add `row` int64 [B] and `real` bool [B]."""
        import torch

        plain = [{key: value for key, value in item.items() if key not in ENGINE_KEYS} for item in items]
        batch = self.task.collate(plain)
        batch["row"] = torch.tensor([item["row"] for item in items], dtype=torch.int64)
        batch["real"] = torch.tensor([item["real"] for item in items], dtype=torch.bool)
        return batch

    def _rng(self, epoch: int, row: int, *stream: int) -> np.random.Generator:
        """Give the generator of one row in one epoch or view, or another stream of it."""
        view = epoch % self.views if self.views else epoch
        return np.random.default_rng((self.seed, view, row, *stream))

    def _mix(
        self,
        items: Sequence[Item],
        indices: Sequence[tuple[int, int, bool]],
        rngs: Sequence[np.random.Generator],
    ) -> list[Item]:
        """Mix every item with a second row, drawn by the first one's generator after its own augmentation."""
        partners = [int(rng.integers(len(self.rows))) for rng in rngs]
        others: list[Row] = [self.rows[partner] for partner in partners]
        # Seeded by the row it is mixed into, so that a partner drawn twice is augmented in two ways.
        streams = [self._rng(epoch, row, 1) for epoch, row, _ in indices]
        encoded = self.task.encode(others, streams)
        return [
            self.task.mix(item, other, rng) for item, other, rng in zip(items, encoded, rngs, strict=True)
        ]
