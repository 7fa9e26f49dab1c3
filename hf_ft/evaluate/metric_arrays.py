"""Values that metrics store for each row: arrays that grow batch by batch and are merged over processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hf_ft.errors import DataError, TrainError


class Column:
    """One small value for each row: batches are added, one array [N, ...] is read.

    Args:
        dtype: of the values; `object` for values that are not numbers.
        shape: of one row's value.
    """

    def __init__(self, dtype: type, shape: tuple[int, ...] = ()):
        self.dtype, self.shape = dtype, shape
        self.chunks: list[np.ndarray] = []
        self.not_finite = 0

    def add(self, values: Any) -> None:
        """Add the values of a batch.

        Raises:
            DataError: its rows have another shape.
        """
        chunk: np.ndarray = np.asarray(values, dtype=self.dtype)
        if chunk.shape[1:] != self.shape:
            raise DataError(f"a row of results has shape {chunk.shape[1:]}; expected {self.shape}")
        if self.dtype is not object:
            self.not_finite += int((~np.isfinite(chunk)).reshape(len(chunk), -1).any(axis=1).sum())
        self.chunks.append(chunk)

    def array(self) -> np.ndarray:
        """Return the values of all rows, [N, ...].

        Raises:
            DataError: there are no rows.
        """
        if not self.chunks:
            raise DataError("there are no rows to measure: update() was never called with a row")
        if len(self.chunks) > 1:
            self.chunks = [np.concatenate(self.chunks)]
        return self.chunks[0]

    def merge(self, parts: Sequence[Column], rows: np.ndarray) -> None:
        """Take over the values of the columns of all processes, sorted by row.

        Args:
            parts: the columns, this one among them; they are emptied.
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
        # Each chunk is freed as soon as it is copied, so that memory never holds two copies of all rows.
        while chunks:
            chunk = chunks.pop(0)
            merged[places[start : start + len(chunk)]] = chunk
            start += len(chunk)
        self.chunks = [merged]


class Scores(Column):
    """Scores of K classes or labels, float32 [N, K], with their ranks.

    Args:
        classes: K.
    """

    def __init__(self, classes: int):
        super().__init__(np.float32, (classes,))
        self._ranks: list[np.ndarray] = []

    def add(self, values: Any) -> None:
        """Add the scores of a batch."""
        self._ranks = []
        super().add(values)

    def ranks(self) -> list[np.ndarray]:
        """Return the ranks of the scores, int32 [N] for each of the K; computed once for all resamples."""
        if not self._ranks:
            found = (np.unique(column, return_inverse=True)[1] for column in self.array().T)
            self._ranks = [ranks.astype(np.int32) for ranks in found]
        return self._ranks

    def selection_counts(self, rows: np.ndarray | None) -> np.ndarray:
        """Count how often each row occurs in a selection, int [N].

        Args:
            rows: selected positions, repeats allowed; None: every row once.
        """
        count = len(self.array())
        return np.bincount(np.arange(count) if rows is None else rows, minlength=count)


class BatchSums:
    """Sums over all rows, for values that are never measured on a selection of rows: one summand per batch.

    The batches of an evaluation are the same for any number of processes. Their summands are added in the
    order of the batches, so that the sums are equal to the last bit.
    """

    def __init__(self) -> None:
        self.summands: list[np.ndarray] = []
        # Number of rows of each batch.
        self.sizes: list[int] = []

    def add(self, summand: np.ndarray, size: int) -> None:
        """Add the sum over a batch of `size` rows."""
        self.summands.append(summand)
        self.sizes.append(size)

    def total(self) -> np.ndarray:
        """Return the sum over all rows."""
        total: np.ndarray = np.sum(self.summands, axis=0)
        return total

    def merge(self, parts: Sequence[BatchSums], rows: np.ndarray) -> None:
        """Take over the summands of all processes, sorted by the first row of each batch.

        Args:
            parts: the sums of all processes, these among them.
            rows: the row of each value, part after part, int [N].
        """
        sizes = [size for part in parts for size in part.sizes]
        summands = [summand for part in parts for summand in part.summands]
        first = rows[np.cumsum([0, *sizes])[:-1]] if sizes else rows
        order = np.argsort(first)
        self.summands = [summands[batch] for batch in order]
        self.sizes = [sizes[batch] for batch in order]


class RowMetrics:
    """Base class of metrics that store a few numbers of each row; it brings `merge`.

    A subclass passes its columns to `__init__`, fills them in `update`, and computes from their arrays in
    `compute` and `value`: the methods of `hf_ft.task.Metrics`.

    Args:
        columns: name -> column or batch sums.
    """

    def __init__(self, **columns: Column | BatchSums):
        self.columns: dict[str, Any] = columns

    def merge(self, rows: np.ndarray, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Take over the values of all processes, sorted by row.

        Every process then holds the same arrays, which do not depend on the number of processes. A single
        process that has seen its rows in order copies nothing.

        Args:
            rows: the row of each result given to `update` here, in that order, int [n].
            gather: returns the joined lists of all processes, as `accelerate.utils.gather_object` does.
        """
        parts = gather([(rows, self.columns)])
        everywhere = np.concatenate([seen for seen, _ in parts])
        for name, column in self.columns.items():
            column.merge([columns[name] for _, columns in parts], everywhere)


def same_length(results: Sequence[Any], references: Sequence[Any]) -> None:
    """Check that there is one reference for each result.

    Raises:
        DataError: the numbers differ.
    """
    if len(results) != len(references):
        raise DataError(f"{len(results)} results came with {len(references)} references; expected one each")


def check_finite(column: Column, what: str = "results") -> None:
    """Check that no result is NaN or infinite.

    Args:
        column: of the results.
        what: what the rows are called in the message.

    Raises:
        TrainError: some are; the message says how many rows.
    """
    if column.not_finite:
        raise TrainError(
            f"{column.not_finite} of {len(column.array())} {what} are not finite (NaN or infinite): the "
            f"model has diverged, or its weights are damaged; try a smaller train.learning_rate"
        )
