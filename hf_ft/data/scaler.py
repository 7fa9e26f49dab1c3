"""Standardisation of columns with the mean and deviation of the training rows, saved in task.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_ft.errors import DataError


@dataclass(frozen=True)
class Scaler:
    """Mean and population standard deviation of each column.

    Args:
        names: names of the C columns.
        mean: float64 [C].
        std: float64 [C]; 1 for a constant column.
    """

    names: list[str]
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, names: Sequence[str]) -> Scaler:
        """Compute mean and deviation of rows, ignoring missing values.

        Args:
            values: float [N, C], NaN where a value is missing.
            names: names of the C columns.

        Raises:
            DataError: a column has no value in these rows, or values so large or small that they cannot be
                squared.
        """
        empty = [name for name, column in zip(names, values.T, strict=True) if np.isnan(column).all()]
        if empty:
            raise DataError(f"column {empty[0]!r}: no training row has a value, so it cannot be scaled")
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        # The deviation of equal values may differ from 0 by rounding.
        constant = low == high
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            mean, std = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        wrong = ~np.isfinite(mean + std) | (~constant & (std == 0))
        if wrong.any():
            index = int(wrong.argmax())
            raise DataError(
                f"column {names[index]!r}: the training rows run from {low[index]:g} to {high[index]:g}; "
                "double precision cannot hold their squares, so they cannot be scaled: choose another unit"
            )
        return cls(list(names), mean, np.where(constant, 1.0, std))

    @classmethod
    def none(cls, names: Sequence[str]) -> Scaler:
        """Return a scaler that does not change values (mean 0, deviation 1)."""
        return cls(list(names), np.zeros(len(names)), np.ones(len(names)))

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Scale values [..., C] from original units to mean 0 and deviation 1."""
        scaled: np.ndarray = (values - self.mean) / self.std
        return scaled

    def scale_windows(self, values: np.ndarray) -> np.ndarray:
        """Scale windows [B, steps, C] as `scale` does, and return float32."""
        # Windows are flattened to [B, steps * C] for a long inner loop, and scaled a few at a time so that
        # they stay in the cache of the CPU: three times as fast as scaling the whole batch at once.
        flat = values.reshape(len(values), -1)
        mean, std = np.tile(self.mean, values.shape[1]), np.tile(self.std, values.shape[1])
        scaled = np.empty(flat.shape, np.float32)
        step = max(1, 32768 // max(1, flat.shape[1]))
        for first in range(0, len(flat), step):
            part = flat[first : first + step] - mean
            part /= std
            scaled[first : first + step] = part
        return scaled.reshape(values.shape)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Scale values [..., C] back to original units."""
        original: np.ndarray = values * self.std + self.mean
        return original

    def first(self, count: int) -> Scaler:
        """Return the scaler of the first `count` columns."""
        return Scaler(self.names[:count], self.mean[:count], self.std[:count])

    def joined(self, other: Scaler) -> Scaler:
        """Return the scaler of these columns followed by those of another scaler."""
        mean, std = np.concatenate([self.mean, other.mean]), np.concatenate([self.std, other.std])
        return Scaler([*self.names, *other.names], mean, std)

    def to_json(self) -> dict[str, Any]:
        """Return the scaler as JSON values; floats keep every digit."""
        return {"names": self.names, "mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Scaler:
        """Build a scaler from the result of `to_json`."""
        return cls(list(value["names"]), np.asarray(value["mean"]), np.asarray(value["std"]))
