"""Baseline forecasts: the last value, the value one season ago, and boosted trees on the same lags."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_ft.inputs.series.series_table import Series
from hf_ft.inputs.series.windows import Windows

# How many seasons the seasonal naive forecast looks back for a value: where weekends are missing, a Monday
# has no value one day ago.
MOST_SEASONS = 7
# Bounds for the cost of the trees: they are fitted on at most TREE_PAIRS (window, step) pairs, see all lags
# of histories of up to TREE_LAGS steps, and are evaluated on at most TREE_FORECASTS values.
TREE_PAIRS = 20_000
TREE_LAGS = 48
TREE_FORECASTS = 400_000
_DAY = 86_400_000_000_000


def default_season(step: int) -> int:
    """Return the number of steps in a season: a day of shorter steps, a week of days, a year of longer steps.

    Args:
        step: time between two rows, in nanoseconds.
    """
    if step < _DAY:
        return max(1, round(_DAY / step))
    if step < 7 * _DAY:
        return max(1, round(7 * _DAY / step))
    return max(1, round(365.2425 * _DAY / step))


def last_value(windows: Windows) -> np.ndarray:
    """Forecast the last known value for every step, float [N, H, T]."""
    targets = len(windows.series.channels.target)
    return np.repeat(windows.last()[:, None, :targets], windows.shape.horizon, axis=1)


def seasonal_naive(windows: Windows, season: int) -> tuple[np.ndarray, np.ndarray]:
    """Forecast the value one season ago, or up to seven seasons ago where it is missing or not yet known.

    Args:
        windows: N windows.
        season: steps in a season.

    Returns:
        Forecasts, float [N, H, T]; and whether a window has a forecast for every step, bool [N].
    """
    series, times = windows.series, windows.target_times()
    present = series.times[windows.starts + windows.shape.context - 1][:, None]
    targets = series.values[:, : len(series.channels.target)]
    found = np.full((*times.shape, targets.shape[1]), np.nan)
    for back in range(1, MOST_SEASONS + 1 + windows.shape.horizon // season):
        moment = times - back * season * series.step
        place = series.find(windows.series_of()[:, None], moment)
        value = np.where((place >= 0)[..., None], targets[place], np.nan)
        # Use only values that are known at the time of the forecast.
        value[moment > present] = np.nan
        found = np.where(np.isnan(found), value, found)
    complete: Any = ~np.isnan(found).any(axis=(1, 2))
    return found, complete


def naive_error(series: Series, season: int) -> np.ndarray | None:
    """Compute the mean absolute error of the value one season ago over the training rows.

    Args:
        series: the rows of all splits.
        season: steps in a season.

    Returns:
        The error of each target, float [T]; None where a target has no such pair of values or an error of 0.
    """
    rows = np.flatnonzero(series.split == 0)
    before = series.find(series.series[rows], series.times[rows] - season * series.step)
    known = before >= 0
    targets = series.values[:, : len(series.channels.target)]
    difference = np.abs(targets[rows[known]] - targets[before[known]])
    if not len(difference) or np.isnan(difference).all(axis=0).any():
        return None
    error: np.ndarray = np.nanmean(difference, axis=0)
    return error if (error > 0).all() else None


class Trees:
    """Gradient-boosted trees on the same lags: one ensemble for each target; the step ahead is a feature.

    Lags and forecasts are differences from the last value of the history, because trees cannot extrapolate to
    a level that they have not seen.

    Args:
        train: the training windows; a seeded sample of them is used.
        season: steps in a season; used to choose lags of a long history.
        seed: seed of the sample.
    """

    def __init__(self, train: Windows, season: int, seed: int):
        from sklearn.ensemble import HistGradientBoostingRegressor

        self.lags = choose_lags(train.shape.context, season)
        self.targets = len(train.series.channels.target)
        # Use the lags of the other channels while the features are few; otherwise only their last values.
        self.all_channels = len(self.lags) * train.series.values.shape[1] <= 2 * TREE_LAGS
        rng = np.random.default_rng(seed)
        pairs = len(train) * train.shape.horizon
        chosen = np.sort(rng.choice(pairs, min(pairs, TREE_PAIRS), replace=False))
        sampled = f", fitted on {len(chosen):,} of {pairs:,} steps" if len(chosen) < pairs else ""
        self.name = f"boosted trees on the same lags{sampled}"
        windows, steps = np.divmod(chosen, train.shape.horizon)
        unique, inverse = np.unique(windows, return_inverse=True)
        truth = train.targets(unique)[inverse, steps]
        self.models = []
        for target in range(self.targets):
            features, last = self._features(train, unique, inverse, steps, target)
            model = HistGradientBoostingRegressor(random_state=seed)
            self.models.append(model.fit(features, truth[:, target] - last))

    def _features(
        self, windows: Windows, indices: np.ndarray, repeat: np.ndarray, steps: np.ndarray, target: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the features [pairs, F] of one target, and its last value [pairs].

        Args:
            windows: the windows of one split.
            indices: the windows that are needed.
            repeat: position in `indices` of each pair's window, int [pairs].
            steps: step ahead of each pair, from 0, int [pairs].
            target: index of the target.
        """
        history = windows.histories(indices)
        last = history[:, -1]
        others = [channel for channel in range(history.shape[2]) if channel != target]
        lagged = history[:, -self.lags, :] - last[:, None]
        parts = [last[:, [target]], lagged[:, :, target], last[:, others]]
        parts += [lagged[:, :, others].reshape(len(history), -1)] if self.all_channels else []
        fixed = np.hstack(parts)[repeat]
        ahead = windows.aheads(indices)[repeat, windows.shape.context + steps]
        return np.hstack([fixed, ahead, steps[:, None]]), last[repeat, target]

    def forecast(self, windows: Windows, indices: np.ndarray) -> np.ndarray:
        """Forecast these windows, float [len(indices), H, T]."""
        horizon = windows.shape.horizon
        repeat, steps = np.divmod(np.arange(len(indices) * horizon), horizon)
        found = np.empty((len(indices), horizon, self.targets))
        for target, model in enumerate(self.models):
            features, last = self._features(windows, indices, repeat, steps, target)
            found[:, :, target] = (model.predict(features) + last).reshape(len(indices), horizon)
        return found


def choose_lags(context: int, season: int) -> np.ndarray:
    """Choose the lags for the trees, from 1: all lags of a short history, else recent and seasonal lags."""
    if context <= TREE_LAGS:
        return np.arange(1, context + 1)
    recent = np.arange(1, TREE_LAGS // 2 + 1)
    seasonal = np.arange(season, context + 1, season)[: TREE_LAGS // 2]
    return np.union1d(recent, seasonal)


def forecast_baselines(
    windows: Windows, *, season: int, trees: Trees | None
) -> dict[str, list[dict[str, Any] | None]]:
    """Forecast the windows of a split with every baseline.

    Args:
        windows: N windows.
        season: steps in a season.
        trees: trees that were fitted on the training windows, or None.

    Returns:
        Name in words -> N results, None for a window for which the baseline has no forecast.
    """
    found = {"the last value": _results(last_value(windows), np.arange(len(windows)), len(windows))}
    seasonal, known = seasonal_naive(windows, season)
    if known.any():
        picked = np.flatnonzero(known)
        found["the value a season ago"] = _results(seasonal[picked], picked, len(windows))
    if trees is not None:
        size = max(1, TREE_FORECASTS // (windows.shape.horizon * trees.targets))
        picked = np.unique(np.linspace(0, len(windows) - 1, min(size, len(windows))).round().astype(np.int64))
        found[trees.name] = _results(trees.forecast(windows, picked), picked, len(windows))
    return found


def _results(forecasts: np.ndarray, picked: np.ndarray, count: int) -> list[dict[str, Any] | None]:
    """Turn the forecasts [P, H, T] of the picked windows into `count` results, None for the other windows."""
    results: list[dict[str, Any] | None] = [None] * count
    for index, forecast in zip(picked.tolist(), forecasts, strict=True):
        results[index] = {"value": forecast}
    return results
