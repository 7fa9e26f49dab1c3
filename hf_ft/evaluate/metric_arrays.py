"""What a metric keeps of each row, in arrays that grow batch by batch and that processes merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hf_ft.errors import DataError, TrainError


class Column:
    """One small value of each row: batches of one dtype and shape come in, one array [N, ...] is read.

    Args:
        dtype: of the values; `object` for what is no number.
        shape: of one row's value.
    """

    def __init__(self, dtype: type, shape: tuple[int, ...] = ()):
        self.dtype, self.shape = dtype, shape
        self.chunks: list[np.ndarray] = []
        self.not_finite = 0

    def add(self, values: Any) -> None:
        """Take in a batch; DataError where its rows have another shape."""
        chunk: np.ndarray = np.asarray(values, dtype=self.dtype)
        if chunk.shape[1:] != self.shape:
            raise DataError(f"a row of results has shape {chunk.shape[1:]}; expected {self.shape}")
        if self.dtype is not object:
            self.not_finite += int((~np.isfinite(chunk)).reshape(len(chunk), -1).any(axis=1).sum())
        self.chunks.append(chunk)

    def array(self) -> np.ndarray:
        """Return all rows; DataError where there are none."""
        if not self.chunks:
            raise DataError("there are no rows to measure: update() was never called with any")
        if len(self.chunks) > 1:
            self.chunks = [np.concatenate(self.chunks)]
        return self.chunks[0]

    def merge(self, parts: Sequence[Column], rows: np.ndarray) -> None:
        """Become the columns of all processes in one, in the order of the rows.

        Args:
            parts: the columns, this one among them; their chunks are taken out of them.
            rows: the row of each value, part after part, int [N]; no row twice.
        """
        self.not_finite = sum(part.not_finite for part in parts)
        chunks = [chunk for part in parts for chunk in part.chunks]
        for part in parts:
            part.chunks = []
        if not chunks or (np.diff(rows) > 0).all():
            self.chunks = chunks
            return
        places = np.argsort(np.argsort(rows))
        merged: np.ndarray = np.empty((len(rows), *self.shape), dtype=self.dtype)
        start = 0
        # A chunk is given up as soon as it is copied: two copies of all rows are never held.
        while chunks:
            chunk = chunks.pop(0)
            merged[places[start : start + len(chunk)]] = chunk
            start += len(chunk)
        self.chunks = [merged]


class Scores(Column):
    """Scores of K classes or labels, float32 [N, K], with what depends on their order alone.

    Args:
        classes: K.
    """

    def __init__(self, classes: int):
        super().__init__(np.float32, (classes,))
        self._ranks: list[np.ndarray] = []

    def add(self, values: Any) -> None:
        """Take in a batch."""
        self._ranks = []
        super().add(values)

    def ranks(self) -> list[np.ndarray]:
        """Return the rank of each row's score, int32 [N], for each of the K: found once, for resampling."""
        if not self._ranks:
            found = (np.unique(column, return_inverse=True)[1] for column in self.array().T)
            self._ranks = [ranks.astype(np.int32) for ranks in found]
        return self._ranks

    def drawn(self, rows: np.ndarray | None) -> np.ndarray:
        """Return how often each row is among those selected [N]; None: every row once."""
        count = len(self.array())
        return np.bincount(np.arange(count) if rows is None else rows, minlength=count)


class BatchSums:
    """Sums over all rows that no selection of rows is asked for: one summand of each batch is kept.

    The batches of an evaluation are the same for any number of processes, so that their sums, added in the
    order of the batches, are the same to the bit.
    """

    def __init__(self) -> None:
        self.summands: list[np.ndarray] = []
        # Rows of each batch.
        self.sizes: list[int] = []

    def add(self, summand: np.ndarray, size: int) -> None:
        """Take in the sum over a batch of `size` rows."""
        self.summands.append(summand)
        self.sizes.append(size)

    def total(self) -> np.ndarray:
        """Return the sum over all rows."""
        total: np.ndarray = np.sum(self.summands, axis=0)
        return total

    def merge(self, parts: Sequence[BatchSums], rows: np.ndarray) -> None:
        """Become the batches of all processes, in the order of their first rows.

        Args:
            parts: this one among them.
            rows: the row of each value, part after part, int [N].
        """
        sizes = [size for part in parts for size in part.sizes]
        summands = [summand for part in parts for summand in part.summands]
        first = rows[np.cumsum([0, *sizes])[:-1]] if sizes else rows
        order = np.argsort(first)
        self.summands = [summands[batch] for batch in order]
        self.sizes = [sizes[batch] for batch in order]


class RowMetrics:
    """Base of metrics that keep a few numbers of each row, and so can be merged and measured on any rows.

    A subclass names its columns here, fills them in `update`, and computes from their arrays: the methods of
    `hf_ft.task.Metrics`.

    Args:
        columns: what is kept, by name.
    """

    def __init__(self, **columns: Column | BatchSums):
        self.columns: dict[str, Any] = columns

    def merge(self, rows: np.ndarray, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Take in what all processes have seen, in the order of the rows.

        Every process then holds the same arrays, which do not depend on the number of processes. A process
        that is alone and has seen its rows in order copies nothing.

        Args:
            rows: the row of each result given to `update` here, in that order, int [n].
            gather: gives the lists of all processes joined, as `accelerate.utils.gather_object` does.
        """
        parts = gather([(rows, self.columns)])
        everywhere = np.concatenate([seen for seen, _ in parts])
        for name, column in self.columns.items():
            column.merge([columns[name] for _, columns in parts], everywhere)


def same_length(results: Sequence[Any], references: Sequence[Any]) -> None:
    """Refuse results without a reference each."""
    if len(results) != len(references):
        raise DataError(f"{len(results)} results came with {len(references)} references; expected one each")


def check_finite(column: Column, what: str = "results") -> None:
    """Refuse results that are NaN or infinite, and say how many.

    Raises:
        TrainError: names how many rows there are of them.
    """
    if column.not_finite:
        raise TrainError(
            f"{column.not_finite} of {len(column.array())} {what} are not finite (NaN or infinite): the "
            f"model has diverged, or its weights are broken; try a smaller train.learning_rate"
        )
