"""A data set that encodes rows when they are read, with random numbers seeded by (seed, epoch, row)."""

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

    Random augmentation of a row uses a generator seeded by (seed, epoch, row). The epoch is part of the
    index, so a resumed run sees the same pixels, with any number of workers and processes (tf#39215). The
    result of a random transform is never cached under a key that does not name its seed (ds#3297).

    Args:
        task: encodes, mixes and collates the rows.
        rows: the rows of one split: `len`, `[index] -> Row`, `ids`.
        split: name of the split, for messages.
        seed: the run's seed.
        train: whether rows are augmented and mixed.
        views: number of random versions of each row, used in turn; None: a new version in each epoch.
    """

    # Whether worker processes of the data loader may encode the rows.
    takes_workers = True

    def __init__(
        self, task: Task, rows: Any, *, split: str, seed: int, train: bool, views: int | None = None
    ):
        self.task = task
        self.rows = rows
        self.split = split
        self.seed = seed
        self.train = train
        self.views = views if self.is_random else None

    @property
    def is_random(self) -> bool:
        """Whether rows are augmented or mixed at random."""
        return self.train and (self.task.is_random or self.task.mixes)

    @property
    def ids(self) -> list[str]:
        """Ids of the raw rows, in order."""
        return list(self.rows.ids)

    @cached_property
    def lengths(self) -> list[int] | None:
        """Length of each row in the task's unit (tokens, steps), or None if all rows have the same length."""
        return self.task.lengths(self.rows)

    def plain(self) -> EncodedRows:
        """Return the same rows without random augmentation."""
        return EncodedRows(self.task, self.rows, split=self.split, seed=self.seed, train=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: tuple[int, int, bool]) -> Item:
        return self.items([index])[0]

    def __getitems__(self, indices: Sequence[tuple[int, int, bool]]) -> Any:
        """Encode the rows of one batch in one call.

        Args:
            indices: (epoch, row, real); `real` is False if the row only fills up a batch.

        Returns:
            The argument of `collate`: a list of items, or a batch if the task encodes whole batches.
        """
        if not self.supports_batch_encode:
            return self.items(indices)
        batch = self.task.encode_batch(self.rows, np.array([row for _, row, _ in indices]))
        return _add_engine_keys(batch or {}, [(row, real) for _, row, real in indices])

    @cached_property
    def supports_batch_encode(self) -> bool:
        """Whether the task encodes whole batches of these rows (`Task.encode_batch`); tried on two rows.

        Raises:
            DataError: `encode_batch` gives other tensors than `encode` and `collate` of the same rows.
        """
        if self.is_random or not self.task.supports_batch_encode:
            return False
        probe = sorted({0, len(self) - 1})
        # `lengths` comes first: a text task then caches its tokens, from which `encode_batch` gathers.
        lengths = self.lengths
        whole = self.task.encode_batch(self.rows, np.array(probe))
        if whole is None:
            return False
        items = self.task.encode([self.rows[row] for row in probe], None)
        single = self.task.collate(items)
        wrong = sorted(key for key in {*whole, *single} if not _equal(whole.get(key), single.get(key)))
        if (key := self.task.length_key) is not None and lengths is not None:
            differ = [len(items[place][key]) != lengths[row] for place, row in enumerate(probe)]
            wrong += ["lengths"] * any(differ)
        if wrong:
            name = type(self.task).__name__
            raise DataError(
                f"{name}.encode_batch: {listing(wrong)} of the {self.split} rows {probe} differs from the "
                "result of encode and collate; make both equal bit for bit, or set supports_batch_encode "
                "to False"
            )
        return True

    def items(self, indices: Sequence[tuple[int, int, bool]]) -> list[Item]:
        """Encode rows one by one.

        Args:
            indices: (epoch, row, real).

        Returns:
            B items, each with the additional keys `row` and `real`.
        """
        rows = [self.rows[row] for _, row, _ in indices]
        rngs = [self._rng(epoch, row) for epoch, row, _ in indices] if self.is_random else None
        items = self.task.encode(rows, rngs)
        if rngs is not None and self.task.mixes:
            items = self._mix(items, indices, rngs)
        return [
            {**item, ROW: row, REAL: bool(real)} for item, (_, row, real) in zip(items, indices, strict=True)
        ]

    def collate(self, items: Sequence[Item] | Batch) -> Batch:
        """Collate B items with `Task.collate`, and add `row` int64 [B] and `real` bool [B]."""
        if isinstance(items, dict):
            return items
        plain = [{key: value for key, value in item.items() if key not in ENGINE_KEYS} for item in items]
        return _add_engine_keys(self.task.collate(plain), [(item[ROW], item[REAL]) for item in items])

    def _rng(self, epoch: int, row: int, *stream: int) -> np.random.Generator:
        """Return the random generator of a row in an epoch or view; `stream` selects an independent one."""
        view = epoch % self.views if self.views else epoch
        return np.random.default_rng((self.seed, view, row, *stream))

    def _mix(
        self,
        items: Sequence[Item],
        indices: Sequence[tuple[int, int, bool]],
        rngs: Sequence[np.random.Generator],
    ) -> list[Item]:
        """Mix every item with other rows, which are drawn by the item's generator after its augmentation."""
        count = self.task.mixed_with
        drawn = [int(rng.integers(len(self.rows))) for rng in rngs for _ in range(count)]
        others: list[Row] = [self.rows[row] for row in drawn]
        # The generators of the other rows are seeded by the row they are mixed into, so a row that is drawn
        # twice is augmented in two ways.
        streams = [self._rng(epoch, row, 1 + number) for epoch, row, _ in indices for number in range(count)]
        encoded = self.task.encode(others, streams)
        return [
            self.task.mix(item, encoded[place * count : (place + 1) * count], rng)
            for place, (item, rng) in enumerate(zip(items, rngs, strict=True))
        ]


def _add_engine_keys(batch: Batch, rows: Sequence[tuple[int, bool]]) -> Batch:
    """Add the keys `row` and `real` to a batch."""
    import torch

    batch[ROW] = torch.tensor([row for row, _ in rows], dtype=torch.int64)
    batch[REAL] = torch.tensor([real for _, real in rows], dtype=torch.bool)
    return batch


def _equal(one: Any, other: Any) -> bool:
    import torch

    tensors = torch.is_tensor(one) and torch.is_tensor(other)
    return tensors and one.dtype == other.dtype and torch.equal(one, other)
