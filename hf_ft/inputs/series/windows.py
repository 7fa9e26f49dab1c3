"""Windows of time series: a history and the steps that follow it, cut lazily.

A window is stored as the position of its first row. Its values are strided views of the series until a batch
is gathered, so any number of overlapping windows needs only the memory of the series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_ft.errors import DataError
from hf_ft.inputs.series.series_table import SPLITS, Series, fill


@dataclass(frozen=True)
class Shape:
    """The shape of a window.

    Args:
        context: steps of history.
        horizon: steps to forecast.
        reach_back: whether the history of a validation or test window may reach into the split before.
    """

    context: int
    horizon: int
    reach_back: bool = True

    @property
    def steps(self) -> int:
        """Number of steps of a whole window."""
        return self.context + self.horizon


class Windows:
    """The windows of one split: a sequence of rows.

    A row holds `history` [context, C] (targets and past covariates), `ahead` [context + horizon, K]
    (covariates that are known ahead) and `target` [horizon, T], all in original units; `start`, the time of
    the first step to forecast; `hour` [horizon], the hour of the day in local time; `series`, the name of the
    series; and `id`, the id of the table row of the first step to forecast.

    Args:
        series: the rows of all splits.
        starts: position of the first row of each window, int32 [windows]; int64 for very long series.
        shape: the shape of every window.
        interpolate: whether missing values of a history are filled by interpolation.
        left_out: number of windows that are left out because of missing values.
    """

    def __init__(
        self,
        series: Series,
        starts: np.ndarray,
        shape: Shape,
        *,
        interpolate: bool = False,
        left_out: int = 0,
    ):
        self.series, self.starts, self.shape = series, starts, shape
        self.interpolate, self.left_out = interpolate, left_out
        self._values = _blocks(series.values, shape.context)
        self._ahead = _blocks(series.ahead, shape.steps)
        self._targets = _blocks(series.values[:, : len(series.channels.target)], shape.horizon)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def ids(self) -> list[str]:
        """The id of each window: that of the table row of its first step to forecast."""
        return [self.series.ids[row] for row in self.starts + self.shape.context]

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = int(self.starts[index])
        present = start + self.shape.context
        history, ahead = self._values[start], self._ahead[start]
        if self.interpolate:
            history, ahead = fill(history[None])[0], fill(ahead[None])[0]
        return {
            "id": self.series.ids[present],
            "series": self.series.names[self.series.series[start]],
            "start": int(self.series.times[present]),
            "history": history,
            "ahead": ahead,
            "target": self._targets[present],
            "hour": self.series.hours[present : present + self.shape.horizon],
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def histories(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Gather histories, float64 [B, context, C]."""
        found = self._values[self._chosen(indices)]
        return fill(found) if self.interpolate else found

    def last(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Gather the values of the last step of each history, float64 [B, C]."""
        if self.interpolate:
            return self.histories(indices)[:, -1]
        result: np.ndarray = self.series.values[self._chosen(indices) + self.shape.context - 1]
        return result

    def aheads(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Gather the covariates that are known ahead, float64 [B, context + horizon, K]."""
        found = self._ahead[self._chosen(indices)]
        return fill(found) if self.interpolate else found

    def targets(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Gather the target values of the steps to forecast, float64 [B, horizon, T]."""
        result: np.ndarray = self._targets[self._chosen(indices) + self.shape.context]
        return result

    def moments(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Return the time of each first step to forecast, int64 nanoseconds [B]."""
        result: np.ndarray = self.series.times[self._chosen(indices) + self.shape.context]
        return result

    def target_times(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Return the times of the steps to forecast, int64 nanoseconds [B, horizon]."""
        steps = np.arange(self.shape.horizon)
        return self.series.times[(self._chosen(indices) + self.shape.context)[:, None] + steps]

    def series_of(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Return the number of each window's series, [B]."""
        result: np.ndarray = self.series.series[self._chosen(indices)]
        return result

    def _chosen(self, indices: np.ndarray | None) -> np.ndarray:
        return self.starts if indices is None else self.starts[indices]

    def column(self, name: str, indices: Sequence[int] | None = None) -> list[Any]:
        """Return one entry (`target`, `start`, `series` or `id`) of each row; `indices` None: of all rows."""
        if name not in ("target", "start", "series", "id"):
            raise DataError(f"windows have no column {name!r}; expected target, start, series or id")
        wanted = range(len(self)) if indices is None else indices
        if name == "target":
            return list(self.targets(np.asarray(wanted, dtype=np.int64)))
        return [self[index][name] for index in wanted]

    def select(self, indices: Sequence[int]) -> Windows:
        """Return the windows at these positions, in this order."""
        starts = self.starts[np.asarray(indices, dtype=np.int64)]
        return Windows(self.series, starts, self.shape, interpolate=self.interpolate, left_out=self.left_out)

    @property
    def fingerprint(self) -> str:
        """Hash of the values and of the positions of the windows."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.series.values, self.series.ahead, self.series.times, self.starts):
            digest.update(array.tobytes())
        digest.update(repr(self.shape).encode())
        return digest.hexdigest()


def _blocks(values: np.ndarray, steps: int) -> np.ndarray:
    """View an array [N, C] as its overlapping blocks [N - steps + 1, steps, C], without a copy."""
    if len(values) < steps:
        return np.empty((0, steps, values.shape[1]))
    if not values.shape[1]:
        return np.empty((len(values) - steps + 1, steps, 0))
    return np.lib.stride_tricks.sliding_window_view(values, steps, axis=0).transpose(0, 2, 1)


def cut_windows(series: Series, shape: Shape, strides: Sequence[int], missing: str) -> dict[str, Windows]:
    """Cut the windows of every split.

    All target steps of a window lie in its split. Its history lies in the same split or, with `reach_back`,
    in an earlier one (the order is train, validation, test), never in a later one. No window spans two series
    or a break.

    Args:
        series: the rows of all splits.
        shape: the shape of the windows.
        strides: steps from one window to the next: for train, and for validation and test.
        missing: `task.missing`; windows with missing values are left out, unless interpolation can fill them.

    Returns:
        split -> windows, for the splits that have rows.

    Raises:
        DataError: a split has no usable window.
    """
    possible = _unbroken(series, shape)
    bad = _unusable(series, shape, possible, fills=missing == "interpolate")
    found = {}
    for code in np.unique(series.split):
        split = SPLITS[code]
        starts = possible[_belongs(series, shape, possible, int(code))]
        starts = _strided(starts, strides[0] if split == "train" else strides[1])
        usable = starts[~bad[starts]]
        if not len(usable):
            raise DataError(
                f"{split}: {int((series.split == code).sum())} rows give no window of {shape.context} + "
                f"{shape.horizon} steps (task.context_length + task.horizon); give the split more rows, or "
                "shorten the windows" + (", or add the missing values" if len(starts) else "")
            )
        places = usable.astype(np.int32 if len(series) < np.iinfo(np.int32).max else np.int64)
        found[split] = Windows(
            series,
            places,
            shape,
            interpolate=missing == "interpolate",
            left_out=len(starts) - len(usable),
        )
    return found


def _unbroken(series: Series, shape: Shape) -> np.ndarray:
    """Find the positions at which a window can start without spanning a break."""
    run = np.cumsum(series.breaks)
    starts = np.arange(max(0, len(series) - shape.steps + 1))
    result: np.ndarray = starts[run[starts] == run[starts + shape.steps - 1]]
    return result


def _belongs(series: Series, shape: Shape, starts: np.ndarray, code: int) -> np.ndarray:
    """Tell which windows belong to a split, bool [starts]."""
    own = _count(series.split == code)
    present, end = starts + shape.context, starts + shape.steps
    in_split = own[end] - own[present] == shape.horizon
    allowed = _count(series.split <= code) if shape.reach_back else own
    result: np.ndarray = in_split & (allowed[present] - allowed[starts] == shape.context)
    return result


def _unusable(series: Series, shape: Shape, starts: np.ndarray, fills: bool) -> np.ndarray:
    """Tell whether a window that starts at a position has a missing value that cannot be filled, bool [N]."""
    bad = np.zeros(len(series), dtype=bool)
    present, end = starts + shape.context, starts + shape.steps
    targets = len(series.channels.target)
    for column in range(series.values.shape[1]):
        hole = _count(np.isnan(series.values[:, column]))
        inside = hole[present] - hole[starts]
        bad[starts] |= inside >= (shape.context if fills else 1)
        if column < targets:
            bad[starts] |= hole[end] > hole[present]
    for column in range(series.ahead.shape[1]):
        hole = _count(np.isnan(series.ahead[:, column]))
        bad[starts] |= hole[end] - hole[starts] >= (shape.steps if fills else 1)
    return bad


def _count(flags: np.ndarray) -> np.ndarray:
    """Count the flags that are set before each position, int64 [N + 1]."""
    return np.concatenate([[0], np.cumsum(flags)])


def _strided(starts: np.ndarray, stride: int) -> np.ndarray:
    """Select every `stride`-th window; the count starts again after each break."""
    if stride == 1 or not len(starts):
        return starts
    first = np.concatenate([[True], np.diff(starts) != 1])
    begin = starts[first][np.cumsum(first) - 1]
    result: np.ndarray = starts[(starts - begin) % stride == 0]
    return result
