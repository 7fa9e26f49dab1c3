"""Time-series forecasting: a history in, the steps that follow out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from hf_ft.errors import DataError
from hf_ft.evaluate.forecast_metrics import FORECASTING_DIRECTIONS
from hf_ft.inputs.series.scaler import Scaler
from hf_ft.inputs.series.series_table import Channels, SeriesOptions, read_series, table_times
from hf_ft.inputs.series.windows import Shape, Windows, cut_windows
from hf_ft.recipe.schema import PositiveInt
from hf_ft.targets.pointwise_loss import PointwiseLoss, row_losses
from hf_ft.task import Batch, Evaluation, Figure, Inspection, Item, Metrics, Role, Row, Task
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.data.table import Table
    from hf_ft.recipe.schema import ModelSection
    from hf_ft.task import Loaded


class Options(SeriesOptions):
    """Keys inside `task:` of time-series-forecasting."""

    context_length: Annotated[int, Field(ge=2)] = 96
    """Steps of history that the model sees."""
    horizon: PositiveInt = 24
    """Steps to forecast."""
    stride: PositiveInt = 1
    """Steps from one training window to the next."""
    eval_stride: PositiveInt = 1
    """Steps from one validation or test window to the next."""
    reach_back: bool = True
    """Whether the history of a validation or test window may lie in the split before, as it will in use."""
    season: PositiveInt | None = None
    """Steps in a season, for the seasonal naive forecast and MASE; null: a day, or a week of days."""
    units: dict[str, str] = Field(default={})
    """target -> unit."""
    trees: bool = True
    """Whether gradient-boosted trees on the same lags are fitted beside the model (scikit-learn)."""


class TimeSeriesForecasting(Task):
    """The next steps of one or several targets, from their own past, covariates, and what is known ahead.

    Values are standardised with the training rows. What is known ahead reaches the model as channels shifted
    by the horizon: at each step of the history it sees their values `horizon` steps later, up to the last
    step to forecast.
    """

    name = "time-series-forecasting"
    summary = "a history in, the steps that follow out (PatchTST, PatchTSMixer)"
    auto_class = "hf_ft.inputs.series.series_models:AutoModelForForecasting"
    roles: ClassVar = {
        "timestamp": Role("the time of the step", usual=("date", "datetime", "time", "ds")),
        "target": Role(
            "what is forecast: one column or several", target=True, several=True, usual=("value", "y")
        ),
        "past": Role("further columns, known up to the present", required=False, several=True),
        "known": Role("further columns, known ahead (holidays, plans)", required=False, several=True),
        "series_id": Role("which series the row belongs to", required=False, usual=("unique_id", "item_id")),
    }
    main_metric = "rmse"
    greater_is_better = FORECASTING_DIRECTIONS
    headline_metrics = ("mae", "rmse", "mse_scaled", "mase")
    baseline_name = "the last value"
    example_input = "history.csv"
    pipeline_tag = "time-series-forecasting"
    targets = ("future_values",)
    Options, Loss = Options, PointwiseLoss

    channels: Channels
    scaler: Scaler
    naive: np.ndarray | None
    step: int
    season: int

    # Data

    def times(self, rows: Table) -> np.ndarray:
        """Splits are cut by time."""
        return table_times(rows, self.options)

    def examples(self, splits: dict[str, Table]) -> dict[str, Windows]:
        """Cut windows, lazily; a validation or test window may have its history in the split before."""
        series = read_series(splits, self.options)
        shape = Shape(self.options.context_length, self.options.horizon, self.options.reach_back)
        strides = (self.options.stride, self.options.eval_stride)
        windows, notes = cut_windows(series, shape, strides, self.options.missing)
        self._notes = [*series.notes, *notes]
        return windows

    def notes(self, rows: Mapping[str, Windows]) -> list[str]:
        """Gaps, missing values and windows that were left out; the step and the season."""
        from hf_ft.inputs.series.step_checks import spoken

        series = rows["train"].series
        kinds = [
            f"{len(series)} steps of {spoken(self.step)} in {len(series.names)} series, a season is "
            f"{self.season} steps"
        ]
        return [*kinds, *self._notes]

    def inspect(self, row: Row) -> Inspection:
        """Windows overlap, so equal ones mean nothing; bad values were found when they were read."""
        return Inspection()

    def fit(self, train: Windows) -> None:
        """Learn every column's scale, and the seasonal naive forecast's error, from the training rows."""
        from hf_ft.inputs.series.forecast_baselines import default_season, naive_error

        series = train.series
        own = series.split == 0
        self.channels, self.step = series.channels, series.step
        calendar = len(series.channels.ahead) - len(series.channels.known)
        known = Scaler.fit(series.ahead[own][:, : len(series.channels.known)], series.channels.known)
        flags = (
            Scaler.none(series.channels.ahead[len(series.channels.known) :]) if calendar else Scaler.none([])
        )
        self.scaler = Scaler.fit(series.values[own], series.channels.values).joined(known).joined(flags)
        self.season = self.options.season or default_season(self.step)
        self.naive = naive_error(series, self.season)
        unknown = sorted(set(self.options.units) - set(self.channels.target))
        if unknown:
            raise DataError(
                f"task.units: {unknown[0]!r} is not a target; targets: {', '.join(self.channels.target)}"
            )

    def state(self) -> dict[str, Any]:
        """Columns, scales, step and season."""
        from dataclasses import asdict

        naive = None if self.naive is None else self.naive.tolist()
        scales = {"scaler": self.scaler.to_json(), "naive": naive}
        return {"channels": asdict(self.channels), **scales, "step": self.step, "season": self.season}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        import numpy as np

        self.channels = Channels(**state["channels"])
        self.scaler = Scaler.from_json(state["scaler"])
        self.naive = None if state["naive"] is None else np.asarray(state["naive"])
        self.step, self.season = state["step"], state["season"]

    # Model

    def load(self, section: ModelSection) -> Loaded:
        """Load a forecaster with a channel for every column; only those of the targets are scored."""
        from hf_ft.inputs.series.series_models import load_series_model

        covariates = len(self.channels.values) + len(self.channels.ahead) - len(self.channels.target)
        return load_series_model(
            self.auto_class,
            section,
            context=self.options.context_length,
            channels=covariates + len(self.channels.target),
            outputs={"prediction_length": self.options.horizon},
            mixed=covariates > 0,
            # A window's own scaling would take the level of an hour of the day, or of a covariate, away.
            level_kept=covariates > 0 and section.from_scratch,
        )

    def load_processor(self, folder: str) -> None:
        """There is none: task.json holds the scales."""

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Windows to `past_values` [context, channels], targets to `future_values` [horizon, T], scaled."""
        import numpy as np

        keys = ["history", "ahead", "start", *(["target"] if "target" in rows[0] else [])]
        arrays = self._scaled(**{key: np.stack([row[key] for row in rows]) for key in keys})
        return [dict(zip(arrays, values, strict=True)) for values in zip(*arrays.values(), strict=True)]

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Gather windows out of the series, scaled."""
        import torch

        if not isinstance(rows, Windows):
            return None
        parts = (rows.histories(indices), rows.aheads(indices), rows.moments(indices), rows.targets(indices))
        return {key: torch.from_numpy(array) for key, array in self._scaled(*parts).items()}

    def _scaled(
        self, history: np.ndarray, ahead: np.ndarray, start: np.ndarray, target: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Turn the parts of B windows, each [B, ...], into the arrays of a batch."""
        import numpy as np

        if ahead.shape[2]:
            history = np.concatenate([history, ahead[:, self.options.horizon :]], axis=2)
        arrays = {"past_values": self.scaler.scale_windows(history), "start": start}
        if target is not None:
            arrays["future_values"] = self._target_scaler.scale_windows(target)
        return arrays

    @property
    def _target_scaler(self) -> Scaler:
        return self.scaler.first(len(self.channels.target))

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack to `past_values` [B, context, channels], `future_values` [B, horizon, T], `start` [B]."""
        import numpy as np
        import torch

        return {key: torch.from_numpy(np.stack([item[key] for item in items])) for key in items[0]}

    def forward(self, model: Any, batch: Batch) -> torch.Tensor:
        """Give the scaled forecasts of the targets, [B, horizon, T]."""
        outputs = model(past_values=batch["past_values"]).prediction_outputs
        result: torch.Tensor = outputs[..., : len(self.channels.target)]
        return result

    def loss(self, model: Any, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean over steps and targets of each row's scaled error, [B]."""
        return row_losses(outputs.float(), batch["future_values"], self.loss_options)

    def predict(self, model: Any, outputs: torch.Tensor, batch: Batch) -> list[dict[str, Any]]:
        """`value`, the forecast [horizon, T] in original units; `start`, the moment of its first step."""
        values = self._target_scaler.restore(outputs.double().cpu().numpy())
        return [{"value": v, "start": s} for v, s in zip(values, batch["start"].tolist(), strict=True)]

    # Evaluation

    def references(self, rows: Windows, indices: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """What followed, the last value before, and the hours of the day."""
        import numpy as np

        chosen = np.arange(len(rows)) if indices is None else np.asarray(indices, dtype=np.int64)
        last = rows.last(chosen)[:, : len(self.channels.target)]
        starts = rows.starts[chosen] + rows.shape.context
        hours = rows.series.hours[starts[:, None] + np.arange(rows.shape.horizon)]
        parts = zip(rows.targets(chosen), last, hours, strict=True)
        return [{"value": value, "last": one, "hour": hour} for value, one, hour in parts]

    def groups(self, rows: Windows) -> list[tuple[int, int]] | None:
        """Blocks of a season, or of the horizon where that is longer, because windows overlap.

        None where the split has a single block.
        """
        block = max(self.season, rows.shape.horizon) * self.step
        starts = rows.target_times()[:, 0]
        found = list(zip(rows.series_of().tolist(), (starts // block).tolist(), strict=True))
        return found if len(set(found)) > 1 else None

    def metrics(self) -> Metrics:
        """Errors in original units and standardised, by target, step ahead and hour of day."""
        from hf_ft.evaluate.forecast_metrics import ForecastMetrics

        units = [self.options.units.get(target, "") for target in self.channels.target]
        std = self._target_scaler.std
        return ForecastMetrics(self.channels.target, std, units, self.naive, self.extra_metrics)

    def baseline(self, train: Windows, rows: Windows) -> dict[str, float]:
        """The last value; the value a season ago; gradient-boosted trees on the same lags."""
        from hf_ft.inputs.series.forecast_baselines import Trees, forecast_baselines

        if self.options.trees and self._trees is None:
            self._trees = Trees(train, self.season, seed=0)
        trees = self._trees if self.options.trees else None
        return forecast_baselines(rows, self.references(rows), self.metrics, season=self.season, trees=trees)

    _trees: Any = None
    _notes: list[str] = []  # noqa: RUF012

    def decode(self, result: dict[str, Any]) -> dict[str, Any]:
        """The moment of the first step (UTC) and the forecast: a number or a list, or one for each target."""
        import numpy as np

        start = np.datetime64(result["start"], "ns").astype("datetime64[s]")
        return {"start": str(start), "forecast": self.decode_reference(result)}

    def decode_reference(self, reference: dict[str, Any]) -> Any:
        """A number, a list over the steps, or a dict of these where there are several targets."""
        columns = reference["value"].T.tolist()
        found = [column[0] if len(column) == 1 else column for column in columns]
        return found[0] if len(found) == 1 else dict(zip(self.channels.target, found, strict=True))

    def describe(self, result: dict[str, Any]) -> str:
        """The first steps of the first target."""
        column = result["value"][:, 0]
        return ", ".join(f"{value:.4g}" for value in column[:4]) + (", ..." if len(column) > 4 else "")

    def difference(self, a: dict[str, Any], b: dict[str, Any]) -> float:
        """Largest difference between two forecasts, in standard deviations."""
        return float((abs(a["value"] - b["value"]) / self._target_scaler.std).max())

    def figures(self, evaluation: Evaluation) -> list[Figure]:
        """Forecasts beside the truth and the last value; errors by step and hour; the baselines."""
        from hf_ft.evaluate.forecast_figures import forecast_figures

        metric = "mae_scaled" if "mae" not in evaluation.metrics else "mae"
        return forecast_figures(evaluation, self.channels.target, metric)

    # Prediction

    def input_note(self) -> str:
        """How much history is read, and what must be known of the steps to forecast."""
        from hf_ft.inputs.series.step_checks import spoken

        ahead, steps = self.channels.known, f"{self.options.horizon} steps of {spoken(self.step)}"
        needed = f"; of these steps it needs {listing(ahead)}" if ahead else ""
        return (
            f"forecasts the {steps} after the last row with {listing(self.channels.target)}, from the "
            f"{self.options.context_length} steps up to it{needed}"
        )

    def read_inputs(self, inputs: Any) -> list[Row]:
        """A table that ends with the present (a file, a DataFrame, a list of dicts): one forecast a series.

        Columns that are known ahead must go on for `horizon` steps after the last target value. A list of
        rows that hold a `history` is taken as it is.
        """
        from hf_ft.inputs.series.latest_windows import latest_windows

        if (
            isinstance(inputs, (list, tuple))
            and inputs
            and isinstance(inputs[0], dict)
            and "history" in inputs[0]
        ):
            return [{"id": str(number), **row} for number, row in enumerate(inputs)]
        if isinstance(inputs, (str, Path)):
            inputs = [inputs]
        return latest_windows(inputs, self.channels, self.options, self.step)
