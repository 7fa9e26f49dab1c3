"""The target of forecasting: the next `horizon` steps of one or several target columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from hf_ft.data.scaler import Scaler
from hf_ft.evaluate.forecast_metrics import FORECASTING_DIRECTIONS
from hf_ft.inputs.series.windows import Windows
from hf_ft.recipe.schema import PositiveInt, Section
from hf_ft.targets.base_target import Target
from hf_ft.targets.numbers import check_units, without_unit_metrics
from hf_ft.targets.pointwise_loss import PointwiseLoss, row_losses
from hf_ft.task import Batch, Evaluation, Figure, Item, Metrics, Preview, Row

if TYPE_CHECKING:
    import torch

# Length of the history in a preview, as a multiple of the horizon.
_HISTORY = 3


class ForecastOptions(Section):
    """Keys inside `task:` of forecasting."""

    season: PositiveInt | None = None
    """Steps in a season, for the seasonal naive forecast and MASE; null: a day; of daily steps, a week."""
    units: dict[str, str] = Field(default={})
    """Column of the target -> its unit, for tables and figures."""
    trees: bool = True
    """Whether to fit gradient-boosted trees on the same lags as a baseline (scikit-learn)."""


class Forecast(Target):
    """The steps after a window, [horizon, T]: the loss is standardised, the metrics are in original units."""

    problem, main_metric = "forecast", "rmse"
    greater_is_better = FORECASTING_DIRECTIONS
    headline_metrics = ("mae", "rmse", "mse_scaled", "mase")
    Options, Loss = ForecastOptions, PointwiseLoss

    scaler: Scaler
    # Mean absolute error of the seasonal naive forecast over the training rows, float [T]; None where there
    # is no such forecast.
    naive: np.ndarray | None
    step: int
    season: int

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._trees: Any = None

    def fit(self, train: Windows) -> None:
        """Learn the scale of the targets, and the error of the seasonal naive forecast."""
        from hf_ft.inputs.series.forecast_baselines import default_season, naive_error

        series = train.series
        names = series.channels.target
        check_units(self.options.units, names)
        # Fit all columns and select the targets: the scale then equals that of the input bit for bit.
        self.scaler = Scaler.fit(series.values[series.split == 0], series.channels.values).first(len(names))
        self.step, self.season = series.step, self.options.season or default_season(series.step)
        self.naive = naive_error(series, self.season)
        self._choose_metrics()

    def state(self) -> dict[str, Any]:
        """Return scales, the time between rows, and the season."""
        naive = None if self.naive is None else self.naive.tolist()
        scales = {"target_scaler": self.scaler.to_json(), "naive": naive}
        return {**scales, "step": self.step, "season": self.season}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""
        self.scaler = Scaler.from_json(state["target_scaler"])
        self.naive = None if state["naive"] is None else np.asarray(state["naive"])
        self.step, self.season = state["step"], state["season"]
        self._choose_metrics()

    def _choose_metrics(self) -> None:
        """Make the standardised error the main metric where the units differ."""
        if len(set(self._units)) > 1:
            self.main_metric = "mse_scaled"
            self.greater_is_better = without_unit_metrics(FORECASTING_DIRECTIONS)

    @property
    def _units(self) -> list[str]:
        return [self.options.units.get(name, "") for name in self.scaler.names]

    def notes(self, rows: Mapping[str, Windows]) -> list[str]:
        """Say how many steps a season has."""
        return [f"a season is {self.season} steps (task.season)"]

    @property
    def config(self) -> dict[str, Any]:
        """The number of steps to forecast."""
        return {"prediction_length": self.options.horizon}

    def encode_row(self, row: Row, item: Item) -> Item:
        """Scale the steps to forecast, float32 [horizon, T]."""
        return {self.key: self.scaler.scale_windows(row["target"][None])[0]}

    def encode_batch(self, rows: Windows, indices: np.ndarray) -> Batch:
        """Scale the steps to forecast of many windows, float32 [B, horizon, T]."""
        import torch

        return {self.key: torch.from_numpy(self.scaler.scale_windows(rows.targets(indices)))}

    def loss(self, model: Any, answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Compute the mean loss over the scaled steps and targets of each row, float [B]."""
        return row_losses(self._of_targets(answer), batch[self.key], self.loss_options)

    def predict(self, model: Any, answer: torch.Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Return `value`, the forecast [horizon, T] in original units, and `start`, its first time."""
        values = self.scaler.restore(self._of_targets(answer).double().cpu().numpy())
        return [{"value": v, "start": s} for v, s in zip(values, batch["start"].tolist(), strict=True)]

    def _of_targets(self, answer: torch.Tensor) -> torch.Tensor:
        """Select the targets, which come first: a model forecasts every channel that it reads."""
        return answer[..., : len(self.scaler.names)]

    # Evaluation

    def references(self, rows: Windows, indices: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return the true values [horizon, T], the last value before them [T], and the hours [horizon]."""
        chosen = np.arange(len(rows)) if indices is None else np.asarray(indices, dtype=np.int64)
        last = rows.last(chosen)[:, : len(self.scaler.names)]
        starts = rows.starts[chosen] + rows.shape.context
        hours = rows.series.hours[starts[:, None] + np.arange(rows.shape.horizon)]
        parts = zip(rows.targets(chosen), last, hours, strict=True)
        return [{"value": value, "last": one, "hour": hour} for value, one, hour in parts]

    def groups(self, rows: Windows) -> list[tuple[int, int]] | None:
        """Group windows into blocks of one season, or one horizon where that is longer, because they overlap.

        None where the split has only one block.
        """
        block = max(self.season, rows.shape.horizon) * self.step
        starts = rows.target_times()[:, 0]
        found = list(zip(rows.series_of().tolist(), (starts // block).tolist(), strict=True))
        return found if len(set(found)) > 1 else None

    def metrics(self, extra: Sequence[str] = ()) -> Metrics:
        """Make the metrics: errors in original units and standardised, by target, step ahead and hour."""
        from hf_ft.evaluate.forecast_metrics import ForecastMetrics

        names, std = self.scaler.names, self.scaler.std
        return ForecastMetrics(names, std, self._units, self.naive, extra)

    def baselines(self, train: Windows, rows: Windows) -> dict[str, list[Any]]:
        """Forecast the last value, the value one season ago, and with boosted trees on the same lags."""
        from hf_ft.inputs.series.forecast_baselines import Trees, forecast_baselines

        if self.options.trees and self._trees is None:
            self._trees = Trees(train, self.season, seed=0)
        trees = self._trees if self.options.trees else None
        return forecast_baselines(rows, season=self.season, trees=trees)

    def decode(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return the time of the first step (UTC), and the forecast as `decode_reference` gives it."""
        start = np.datetime64(result["start"], "ns").astype("datetime64[s]")
        return {"start": str(start), "forecast": self.decode_reference(result)}

    def decode_reference(self, reference: Mapping[str, Any]) -> Any:
        """Return a number, or a list over the steps; for several targets, a dict of these by target name."""
        columns = reference["value"].T.tolist()
        found = [column[0] if len(column) == 1 else column for column in columns]
        return found[0] if len(found) == 1 else dict(zip(self.scaler.names, found, strict=True))

    def describe(self, result: Mapping[str, Any]) -> str:
        """Write the first steps of the first target."""
        column = result["value"][:, 0]
        return ", ".join(f"{value:.4g}" for value in column[:4]) + (", ..." if len(column) > 4 else "")

    def difference(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
        """Return the largest absolute difference between two forecasts, in standard deviations."""
        return float((abs(a["value"] - b["value"]) / self.scaler.std).max())

    def preview(self, row: Row, result: Mapping[str, Any], reference: Mapping[str, Any]) -> Preview:
        """Show the first target: the end of its history, the truth, and the forecast."""
        truth, forecast = reference["value"][:, 0], result["value"][:, 0]
        start = str(np.datetime64(int(row["start"]), "ns").astype("datetime64[m]")).replace("T", " ")
        unit = f" {self._units[0]}" if self._units[0] else ""
        caption = f"from {start}, off by {np.abs(truth - forecast).mean():.4g}{unit} a step"
        history = row["history"][-_HISTORY * len(truth) :, 0]
        curves = {"history": history, "truth": truth, "forecast": forecast}
        return Preview(curves={name: one.tolist() for name, one in curves.items()}, caption=caption)

    def figures(self, evaluation: Evaluation, rows: Any) -> list[Figure]:
        """Draw forecasts beside the truth and the last value, errors by step and hour, and the baselines."""
        from hf_ft.evaluate.forecast_figures import forecast_figures

        metric = "mae_scaled" if "mae" not in evaluation.metrics else "mae"
        return forecast_figures(evaluation, self.scaler.names, metric)
