"""Metrics of forecasts, in original units and in the standard protocol's; by step ahead and hour of day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ft.errors import DataError, RecipeError, TrainError

FORECASTING_DIRECTIONS = {
    "loss": False,
    "mae": False,
    "rmse": False,
    "mape": False,
    "r2": True,
    "explained_variance": True,
    "mase": False,
    "mse_scaled": False,
    "mae_scaled": False,
}


class ForecastMetrics:
    """Metrics over N windows of H steps and T targets.

    A result is `{"value": float [H, T]}`; a reference is `{"value", "last": [T], "hour": [H]}`. Every metric
    is taken of all windows and steps of one target, in its original unit, and then averaged over the targets:
    RMSE is the square root of the mean over windows and steps, as scikit-learn has it, not a mean of the
    windows' own roots. `mse_scaled` and `mae_scaled` are of values standardised with the training rows: the
    figures of published benchmarks (Zhou et al. 2021). MAPE leaves out references that are 0. Where targets
    have different units, `mae` and `rmse` have no meaningful mean and exist per target only.

    Args:
        targets: the T names.
        std: standard deviation of each target over the training rows, float [T].
        units: the T units ("" for none).
        naive: mean absolute error of the seasonal naive forecast over the training rows, float [T], for MASE
            (Hyndman and Koehler 2006); None: no MASE.
        extra: must be empty; metrics of the Hub do not know horizons.

    Raises:
        RecipeError: extra metrics are named.
    """

    def __init__(
        self,
        targets: Sequence[str],
        std: np.ndarray,
        units: Sequence[str] | None = None,
        naive: np.ndarray | None = None,
        extra: Sequence[str] = (),
    ):
        if extra:
            raise RecipeError(
                f"evaluate.extra: {extra[0]!r} cannot be used, forecasts have metrics of their own only"
            )
        self.targets, self.std, self.naive = list(targets), np.asarray(std), naive
        self.units = list(units or [""] * len(self.targets))
        self._predicted: list[np.ndarray] = []
        self._references: list[dict[str, np.ndarray]] = []
        self._sums: dict[str, np.ndarray] = {}

    def update(self, results: Sequence[Any], references: Sequence[Any]) -> None:
        """Take in B results and their B references."""
        if len(results) != len(references):
            raise DataError(
                f"{len(results)} results came with {len(references)} references; expected one each"
            )
        self._predicted += [result["value"] for result in results]
        self._references += references
        self._sums = {}

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Predictions and truth, float64 [N, H, T].

        Raises:
            DataError: there are no rows.
            TrainError: a prediction is not finite.
        """
        if not self._predicted:
            raise DataError("there are no rows to measure: update() was never called with any")
        predicted = np.stack(self._predicted).astype(np.float64)
        truth = np.stack([reference["value"] for reference in self._references])
        wrong = int((~np.isfinite(predicted)).any(axis=(1, 2)).sum())
        if wrong:
            raise TrainError(
                f"{wrong} of {len(predicted)} forecasts are not finite: the model has diverged, or its "
                "weights are broken; try a smaller train.learning_rate"
            )
        return predicted, truth

    def compute(self) -> dict[str, Any]:
        """Give every metric over all rows seen.

        Returns:
            The scalars of FORECASTING_DIRECTIONS but for `loss`, each where it is defined; the tables
            `per_target`, `per_horizon` (step, mae, rmse and the last value's mae) and `per_hour`; `notes` on
            what was left out.
        """
        sums = self._window_sums()
        values = {name: _metric(name, sums, self) for name in self._names()}
        metrics: dict[str, Any] = {name: float(value.mean()) for name, value in values.items()}
        undefined = [name for name, value in metrics.items() if np.isnan(value)]
        notes = [f"{name} is left out: it is undefined for a target" for name in undefined]
        metrics = {name: value for name, value in metrics.items() if name not in undefined}
        zeros = int((sums["counted"].sum(axis=0) < sums["windows"].sum() * self._steps).sum())
        if zeros and "mape" in metrics:
            notes.append(
                f"mape leaves out references that are 0, which {zeros} of {len(self.targets)} targets have"
            )
        if len(set(self.units)) > 1:
            notes.append("mae and rmse are given per target only: the units of the targets differ")
            metrics = {name: value for name, value in metrics.items() if name not in ("mae", "rmse")}
        metrics["per_target"] = [
            {
                "target": target,
                "unit": self.units[index],
                **{name: float(v[index]) for name, v in values.items() if name not in undefined},
            }
            for index, target in enumerate(self.targets)
        ]
        return {**metrics, **self._tables(), "notes": notes}

    def value(self, name: str, rows: np.ndarray | None = None) -> float:
        """Give one metric over the rows seen, or over a selection of them (indices, repeats allowed).

        Raises:
            RecipeError: there is no such metric.
        """
        if name not in self._names():
            raise RecipeError(
                f"evaluate.metric: there is no metric {name!r}; found: {', '.join(self._names())}"
            )
        sums = self._window_sums()
        chosen = sums if rows is None else {key: array[rows] for key, array in sums.items()}
        return float(_metric(name, chosen, self).mean())

    def _names(self) -> list[str]:
        without = {"loss"} | (set() if self.naive is not None else {"mase"})
        return [name for name in FORECASTING_DIRECTIONS if name not in without]

    @property
    def _steps(self) -> int:
        return int(self._predicted[0].shape[0])

    def _window_sums(self) -> dict[str, np.ndarray]:
        """Sums over the steps of each window, float [N, T], from which every metric follows."""
        if not self._sums:
            predicted, truth = self.arrays()
            error = predicted - truth
            counted = truth != 0
            relative = np.abs(error) / np.where(counted, np.abs(truth), 1)
            # Around the mean, so that the variance of a large level does not vanish in rounding.
            centred = truth - truth.mean(axis=(0, 1))
            self._sums = {
                "absolute": np.abs(error).sum(axis=1),
                "squared": (error**2).sum(axis=1),
                "error": error.sum(axis=1),
                "relative": np.where(counted, relative, 0).sum(axis=1),
                "counted": counted.sum(axis=1).astype(np.float64),
                "truth": centred.sum(axis=1),
                "truth_squared": (centred**2).sum(axis=1),
                "windows": np.ones((len(error), 1)),
            }
        return self._sums

    def _tables(self) -> dict[str, list[dict[str, Any]]]:
        """Errors by step ahead and by hour of day; standardised where there are several targets."""
        predicted, truth = self.arrays()
        unit = self.std if len(self.targets) > 1 else np.ones(1)
        last = np.stack([reference["last"] for reference in self._references])[:, None]
        error, naive = np.abs(predicted - truth) / unit, np.abs(last - truth) / unit
        hour = np.stack([reference["hour"] for reference in self._references])
        scaled = {"scaled": len(self.targets) > 1}
        per_horizon = [
            {
                "step": step + 1,
                "mae": float(error[:, step].mean()),
                "rmse": float(np.sqrt((error[:, step] ** 2).mean(axis=0)).mean()),
                "last_value_mae": float(naive[:, step].mean()),
                **scaled,
            }
            for step in range(error.shape[1])
        ]
        per_hour = [
            {
                "hour": int(one),
                "mae": float(error[hour == one].mean()),
                "last_value_mae": float(naive[hour == one].mean()),
                **scaled,
            }
            for one in np.unique(hour)
        ]
        return {"per_horizon": per_horizon, "per_hour": per_hour}


def _metric(name: str, sums: dict[str, np.ndarray], about: ForecastMetrics) -> Any:
    """One metric of each target [T] from sums over windows; NaN where it is undefined."""
    total = {key: array.sum(axis=0) for key, array in sums.items()}
    count = total["windows"] * about._steps
    if name in ("mae", "mae_scaled", "mase"):
        by = {"mae": 1.0, "mae_scaled": about.std, "mase": about.naive}[name]
        return total["absolute"] / count / by
    if name == "rmse":
        return np.sqrt(total["squared"] / count)
    if name == "mse_scaled":
        return total["squared"] / count / about.std**2
    undefined = np.full(len(about.targets), np.nan)
    if name == "mape":
        result: np.ndarray = np.divide(
            total["relative"], total["counted"], out=undefined, where=total["counted"] > 0
        )
        return result
    variance = total["truth_squared"] / count - (total["truth"] / count) ** 2
    rest = total["squared"] / count
    if name == "explained_variance":
        rest = rest - (total["error"] / count) ** 2
    return 1 - np.divide(rest, variance, out=undefined, where=variance > 0)
