"""Rows encoded on the fly, with randomness that belongs to (seed, epoch, row)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.errors import DataError
from hf_ft.task import ENGINE_KEYS, REAL, ROW
from hf_ft.text_utils import listing

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

    # Whether the loader's worker processes may encode them.
    takes_workers = True

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
        return self.train and (self.task.is_random or self.task.mixes)

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
        return self.items([index])[0]

    def __getitems__(self, indices: Sequence[tuple[int, int, bool]]) -> Any:
        """Encode the rows of one batch in one call.

        Args:
            indices: (epoch, row, real); `real` is False where a row only fills up a batch.

        Returns:
            What `collate` takes: items, or the batch itself where the task gathers it whole.
        """
        if not self.supports_batch_encode:
            return self.items(indices)
        batch = self.task.encode_batch(self.rows, np.array([row for _, row, _ in indices]))
        return _marked(batch or {}, [(row, real) for _, row, real in indices])

    @cached_property
    def supports_batch_encode(self) -> bool:
        """Whether the task gathers whole batches of these rows.

        Raises:
            DataError: what it gathers is not what it makes of the same rows one by one.
        """
        if self.chance or not self.task.supports_batch_encode:
            return False
        few = sorted({0, len(self) - 1})
        # Asked for first: a task that counts tokens keeps them, and gathers what is kept.
        lengths = self.lengths
        whole = self.task.encode_batch(self.rows, np.array(few))
        if whole is None:
            return False
        items = self.task.encode([self.rows[row] for row in few], None)
        single = self.task.collate(items)
        wrong = sorted(key for key in {*whole, *single} if not _equal(whole.get(key), single.get(key)))
        if (key := self.task.length_key) is not None and lengths is not None:
            differ = [len(items[place][key]) != lengths[row] for place, row in enumerate(few)]
            wrong += ["lengths"] * any(differ)
        if wrong:
            name = type(self.task).__name__
            raise DataError(
                f"{name}.encode_batch: {listing(wrong)} of the {self.split} rows {few} is not what encode "
                "and collate give"
            )
        return True

    def items(self, indices: Sequence[tuple[int, int, bool]]) -> list[Item]:
        """Encode rows one by one.

        Args:
            indices: (epoch, row, real).

        Returns:
            B items, each with the engine's keys `row` and `real`.
        """
        rows = [self.rows[row] for _, row, _ in indices]
        rngs = [self._rng(epoch, row) for epoch, row, _ in indices] if self.chance else None
        items = self.task.encode(rows, rngs)
        if rngs is not None and self.task.mixes:
            items = self._mix(items, indices, rngs)
        return [
            {**item, ROW: row, REAL: bool(real)} for item, (_, row, real) in zip(items, indices, strict=True)
        ]

    def collate(self, items: Sequence[Item] | Batch) -> Batch:
        """Stack B items by the task's own collation and add `row` int64 [B] and `real` bool [B]."""
        if isinstance(items, dict):
            return items
        plain = [{key: value for key, value in item.items() if key not in ENGINE_KEYS} for item in items]
        return _marked(self.task.collate(plain), [(item[ROW], item[REAL]) for item in items])

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
        """Mix every item with other rows, drawn by its own generator after its own augmentation."""
        count = self.task.mixed_with
        drawn = [int(rng.integers(len(self.rows))) for rng in rngs for _ in range(count)]
        others: list[Row] = [self.rows[row] for row in drawn]
        # Seeded by the row that it is mixed into, so that a row drawn twice is augmented in two ways.
        streams = [self._rng(epoch, row, 1 + number) for epoch, row, _ in indices for number in range(count)]
        encoded = self.task.encode(others, streams)
        return [
            self.task.mix(item, encoded[place * count : (place + 1) * count], rng)
            for place, (item, rng) in enumerate(zip(items, rngs, strict=True))
        ]


def _marked(batch: Batch, rows: Sequence[tuple[int, bool]]) -> Batch:
    """Add the engine's keys to a batch."""
    import torch

    batch[ROW] = torch.tensor([row for row, _ in rows], dtype=torch.int64)
    batch[REAL] = torch.tensor([real for _, real in rows], dtype=torch.bool)
    return batch


def _equal(one: Any, other: Any) -> bool:
    import torch

    tensors = torch.is_tensor(one) and torch.is_tensor(other)
    return tensors and one.dtype == other.dtype and torch.equal(one, other)
