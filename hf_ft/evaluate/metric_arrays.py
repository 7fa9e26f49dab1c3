"""What a metric has seen of the rows, as arrays that grow batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ft.errors import DataError, TrainError


class Column:
    """Rows of one dtype and shape that arrive in batches and are read as one array [N, ...]."""

    def __init__(self, dtype: type, shape: tuple[int, ...]):
        self.dtype, self.shape = dtype, shape
        self.chunks: list[np.ndarray] = []
        self.not_finite = 0

    def add(self, values: Any) -> None:
        """Take in a batch; DataError where its rows have another shape."""
        chunk: np.ndarray = np.asarray(values, dtype=self.dtype)
        if chunk.shape[1:] != self.shape:
            raise DataError(f"a row of results has shape {chunk.shape[1:]}; expected {self.shape}")
        self.not_finite += int((~np.isfinite(chunk)).reshape(len(chunk), -1).any(axis=1).sum())
        self.chunks.append(chunk)

    def array(self) -> np.ndarray:
        """Give all rows; DataError where there are none."""
        if not self.chunks:
            raise DataError("there are no rows to measure: update() was never called with any")
        if len(self.chunks) > 1:
            self.chunks = [np.concatenate(self.chunks)]
        return self.chunks[0]


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
        """Give the rank of each row's score, int [N], for each of the K: found once, for resampling."""
        if not self._ranks:
            self._ranks = [np.unique(column, return_inverse=True)[1] for column in self.array().T]
        return self._ranks

    def drawn(self, rows: np.ndarray | None) -> np.ndarray:
        """Give how often each row is among those selected [N]; None: every row once."""
        count = len(self.array())
        return np.bincount(np.arange(count) if rows is None else rows, minlength=count)


def same_length(results: Sequence[Any], references: Sequence[Any]) -> None:
    """Refuse results without a reference each."""
    if len(results) != len(references):
        raise DataError(f"{len(results)} results came with {len(references)} references; expected one each")


def check_finite(column: Column) -> None:
    """Refuse results that are NaN or infinite, and say how many."""
    if column.not_finite:
        raise TrainError(
            f"{column.not_finite} of {len(column.array())} results are not finite (NaN or infinite): the "
            f"model has diverged, or its weights are broken; try a smaller train.learning_rate"
        )
