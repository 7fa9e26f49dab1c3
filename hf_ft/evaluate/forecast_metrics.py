"""Metrics of forecasts, in original and in standardised units, by step ahead and by hour of day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ft.errors import RecipeError
from hf_ft.evaluate.metric_arrays import BatchSums, Column, RowMetrics, check_finite, same_length

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

# Values stored of each window: sums over its steps, and the mean and the squared deviations of its truth.
_SUMS = ("absolute", "squared", "error", "relative", "counted", "truth_mean", "truth_spread")


class ForecastMetrics(RowMetrics):
    """Metrics over N windows of H steps and T targets.

    A few sums [T] of each window are stored, and neither the forecast nor the truth.

    A result is `{"value": float [H, T]}`; a reference is `{"value", "last": [T], "hour": [H]}`. Every metric
    is computed over all windows and steps of one target, in its original unit, and then averaged over the
    targets. RMSE is the square root of the mean over windows and steps, as in scikit-learn, and not the mean
    of one root per window. `mse_scaled` and `mae_scaled` are of values standardised with the training rows,
    as in published benchmarks (Zhou et al. 2021, "Informer"). MAPE leaves out references that are 0. Where
    the targets have different units, a mean of `mae` or `rmse` has no meaning: they exist per target only.

    Args:
        targets: the T names.
        std: standard deviation of each target over the training rows, float [T].
        units: the T units ("" for none).
        naive: mean absolute error of the seasonal naive forecast over the training rows, float [T], for MASE
            (Hyndman and Koehler 2006); None: no MASE.
        extra: must be empty; metrics of the Hub have no steps ahead.

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
                f"evaluate.extra: {extra[0]!r} cannot be measured on forecasts; remove it and use one of "
                f"{', '.join(FORECASTING_DIRECTIONS)}"
            )
        self.targets, self.std, self.naive = list(targets), np.asarray(std), naive
        self.units = list(units or [""] * len(self.targets))
        sums: dict[str, Any] = {name: Column(np.float64, (len(self.targets),)) for name in _SUMS}
        super().__init__(**sums, by_step=BatchSums(), by_hour=BatchSums())

    def update(self, results: Sequence[Any], references: Sequence[Any]) -> None:
        """Take in B results and their B references."""
        same_length(results, references)
        if not len(results):
            return
        predicted = np.stack([result["value"] for result in results]).astype(np.float64)
        columns = zip(*((one["value"], one["last"], one["hour"]) for one in references), strict=True)
        truth, last, hour = (np.stack(column) for column in columns)
        error, counted, mean = predicted - truth, truth != 0, truth.mean(axis=1)
        relative = np.abs(error) / np.where(counted, np.abs(truth), 1)
        sums = {
            "absolute": np.abs(error).sum(axis=1),
            "squared": (error**2).sum(axis=1),
            "error": error.sum(axis=1),
            "relative": np.where(counted, relative, 0).sum(axis=1),
            "counted": counted.sum(axis=1),
            # Around the mean, so that rounding does not lose a small variance at a large level.
            "truth_mean": mean,
            "truth_spread": ((truth - mean[:, None]) ** 2).sum(axis=1),
        }
        for name, values in sums.items():
            self.columns[name].add(values)
        own, naive = np.abs(error), np.abs(last[:, None] - truth)
        by_step = np.stack([own.sum(axis=0), (error**2).sum(axis=0), naive.sum(axis=0)])
        by_hour = np.zeros((3, 24, len(self.targets)))
        for place, values in enumerate((np.ones_like(own), own, naive)):
            np.add.at(by_hour[place], hour, values)
        self.columns["by_step"].add(by_step, len(results))
        self.columns["by_hour"].add(by_hour, len(results))

    def compute(self) -> dict[str, Any]:
        """Return every metric over all rows seen.

        Returns:
            The scalars of FORECASTING_DIRECTIONS without `loss`, each where it is defined; the tables
            `per_target`, `per_horizon` (step, mae, rmse and the mae of the last value) and `per_hour`;
            `notes` on what was left out.

        Raises:
            DataError: there are no rows.
            TrainError: a forecast is not finite.
        """
        sums = self._arrays(None)
        values = {name: self._metric(name, sums) for name in self._names()}
        metrics: dict[str, Any] = {name: float(value.mean()) for name, value in values.items()}
        undefined = [name for name, value in metrics.items() if np.isnan(value)]
        notes = [f"{name} is left out: it is undefined for a target" for name in undefined]
        metrics = {name: value for name, value in metrics.items() if name not in undefined}
        zeros = int((sums["counted"].sum(axis=0) < len(sums["counted"]) * self._steps).sum())
        if zeros and "mape" in metrics:
            notes.append(
                f"mape leaves out references that are 0, which {zeros} of {len(self.targets)} targets have"
            )
        if len(set(self.units)) > 1:
            notes.append("mae and rmse are given per target only: the units of the targets differ")
            metrics = {name: value for name, value in metrics.items() if name not in ("mae", "rmse")}
        defined = {name: value for name, value in values.items() if name not in undefined}
        tables = {"per_target": "by target", "per_horizon": "by step ahead", "per_hour": "by hour of day"}
        return {
            **metrics,
            "per_target": self._per_target(defined),
            "per_horizon": self._per_horizon(),
            "per_hour": self._per_hour(),
            "tables": tables,
            "notes": notes,
        }

    def value(self, name: str, rows: np.ndarray | None = None) -> float:
        """Return one metric over the rows seen, or over a selection of them (indices, repeats allowed).

        Raises:
            RecipeError: there is no such metric.
            TrainError: a forecast is not finite.
        """
        if name not in self._names():
            raise RecipeError(
                f"evaluate.metric: there is no metric {name!r}; found: {', '.join(self._names())}"
            )
        return float(self._metric(name, self._arrays(rows)).mean())

    def _names(self) -> list[str]:
        without = {"loss"} | (set() if self.naive is not None else {"mase"})
        return [name for name in FORECASTING_DIRECTIONS if name not in without]

    @property
    def _steps(self) -> int:
        return int(self.columns["by_step"].summands[0].shape[1])

    def _arrays(self, rows: np.ndarray | None) -> dict[str, np.ndarray]:
        """Return the stored sums of the windows, float64 [N, T], by name."""
        arrays = {name: self.columns[name].array() for name in _SUMS}
        check_finite(self.columns["absolute"], "forecasts")
        return arrays if rows is None else {name: array[rows] for name, array in arrays.items()}

    def _metric(self, name: str, sums: dict[str, np.ndarray]) -> Any:
        """Compute one metric of each target [T] from the sums of windows; NaN where it is undefined."""
        total = {key: array.sum(axis=0) for key, array in sums.items()}
        count = len(sums["absolute"]) * self._steps
        if name in ("mae", "mae_scaled", "mase"):
            by = {"mae": 1.0, "mae_scaled": self.std, "mase": self.naive}[name]
            return total["absolute"] / count / by
        if name == "rmse":
            return np.sqrt(total["squared"] / count)
        if name == "mse_scaled":
            return total["squared"] / count / self.std**2
        undefined = np.full(len(self.targets), np.nan)
        if name == "mape":
            counted = total["counted"]
            return np.divide(total["relative"], counted, out=undefined, where=counted > 0)
        # The variance within the windows plus that between them (Chan, Golub and LeVeque 1983).
        variance = total["truth_spread"] / count + sums["truth_mean"].var(axis=0)
        rest = total["squared"] / count
        if name == "explained_variance":
            rest = rest - (total["error"] / count) ** 2
        # The variance of a constant truth is not 0 but that of its rounding errors.
        level = np.abs(sums["truth_mean"]).max(axis=0)
        return 1 - np.divide(rest, variance, out=undefined, where=variance > (1e-13 * level) ** 2)

    def _per_target(self, values: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        return [
            {
                "target": target,
                "unit": self.units[index],
                **{name: float(value[index]) for name, value in values.items()},
            }
            for index, target in enumerate(self.targets)
        ]

    def _per_horizon(self) -> list[dict[str, Any]]:
        """Return the errors by step ahead; standardised where there are several targets."""
        windows = len(self.columns["absolute"].array())
        own, squared, naive = self.columns["by_step"].total() / windows
        own, rmse, naive = (values / self._unit for values in (own, np.sqrt(squared), naive))
        return [
            {
                "step": step + 1,
                "mae": float(own[step].mean()),
                "rmse": float(rmse[step].mean()),
                "last_value_mae": float(naive[step].mean()),
                "scaled": len(self.targets) > 1,
            }
            for step in range(self._steps)
        ]

    def _per_hour(self) -> list[dict[str, Any]]:
        """Return the errors by hour of day; standardised where there are several targets."""
        count, own, naive = self.columns["by_hour"].total()
        return [
            {
                "hour": int(hour),
                "mae": float((own[hour] / count[hour] / self._unit).mean()),
                "last_value_mae": float((naive[hour] / count[hour] / self._unit).mean()),
                "scaled": len(self.targets) > 1,
            }
            for hour in np.flatnonzero(count[:, 0])
        ]

    @property
    def _unit(self) -> np.ndarray:
        return self.std if len(self.targets) > 1 else np.ones(1)
