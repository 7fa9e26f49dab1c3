"""The input of windows of time series: the steps of a history, and covariates that are known ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from hf_ft.data.scaler import Scaler
from hf_ft.inputs.base_input import Input
from hf_ft.inputs.series.options import WindowOptions
from hf_ft.inputs.series.series_table import Channels, read_series, table_times
from hf_ft.inputs.series.windows import Shape, Windows, cut_windows
from hf_ft.task import Batch, Inspection, Item, Role, Row
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    import numpy as np

    from hf_ft.data.table import Table
    from hf_ft.recipe.schema import ModelSection
    from hf_ft.task import Loaded


class WindowInput(Input):
    """The steps up to the present, encoded as `past_values` [context, channels].

    Values are standardised with the training rows. Covariates that are known ahead are channels shifted by
    the
    horizon: at each step of the history the model reads their values `horizon` steps later, so that it sees
    them up to the last step to forecast.
    """

    roles: ClassVar = {
        "timestamp": Role("the time of the step", usual=("date", "datetime", "time", "ds")),
        "past": Role("further columns, known up to the present", required=False, several=True),
        "known": Role("further columns, known ahead (holidays, plans)", required=False, several=True),
        "series_id": Role("which series the row belongs to", required=False, usual=("unique_id", "item_id")),
    }
    Options = WindowOptions
    side_keys = ("start",)

    channels: Channels
    scaler: Scaler
    step: int

    # Data

    def times(self, rows: Table) -> np.ndarray:
        """Return the time of each row: the splits are cut by time."""
        return table_times(rows, self.options)

    def examples(self, splits: dict[str, Table]) -> dict[str, Windows]:
        """Cut windows lazily; the history of a validation or test window may reach into the split before."""
        series = read_series(splits, self.options)
        shape = Shape(self.options.context_length, self.options.horizon, self.options.reach_back)
        strides = (self.options.stride, self.options.eval_stride)
        return cut_windows(series, shape, strides, self.options.missing)

    def notes(self, rows: Mapping[str, Windows]) -> list[str]:
        """List the time between rows, gaps, missing values, and the windows that are left out."""
        from hf_ft.inputs.series.step_checks import format_duration

        series = rows["train"].series
        steps = f"{len(series)} steps of {format_duration(self.step)} in {len(series.names)} series"
        left_out = [
            f"{split}: {part.left_out} of {part.left_out + len(part)} windows are left out, because values "
            "are missing"
            for split, part in rows.items()
            if part.left_out
        ]
        return [steps, *series.notes, *left_out]

    def inspect(self, row: Row) -> Inspection:
        """Check nothing: reading has checked the values, and duplicates mean nothing for windows."""
        return Inspection()

    def fit(self, train: Windows) -> None:
        """Learn the mean and deviation of every column from the training rows."""
        series = train.series
        own = series.split == 0
        self.channels, self.step = series.channels, series.step
        covariates = len(series.channels.known)
        known = Scaler.fit(series.ahead[own][:, :covariates], series.channels.known)
        calendar = Scaler.none(series.channels.ahead[covariates:])
        self.scaler = Scaler.fit(series.values[own], series.channels.values).joined(known).joined(calendar)

    def state(self) -> dict[str, Any]:
        """Return columns, scales and the time between rows."""
        return {"channels": asdict(self.channels), "scaler": self.scaler.to_json(), "step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""
        self.channels, self.step = Channels(**state["channels"]), state["step"]
        self.scaler = Scaler.from_json(state["scaler"])

    # Model

    def load(self, auto_class: str, section: ModelSection, config: Mapping[str, Any]) -> Loaded:
        """Load a forecasting model with a channel for every column."""
        from hf_ft.inputs.series.series_models import load_series_model

        covariates = len(self.channels.values) + len(self.channels.ahead) - len(self.channels.target)
        return load_series_model(
            auto_class,
            section,
            context=self.options.context_length,
            channels=covariates + len(self.channels.target),
            outputs=config,
            mix_channels=covariates > 0,
            # The model's own scaling of each window would remove the level of its covariates.
            disable_scaling=covariates > 0 and section.from_scratch,
        )

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Scale windows and give them as `past_values` [context, channels]."""
        import numpy as np

        past = self._scaled(*(np.stack([row[key] for row in rows]) for key in ("history", "ahead")))
        return [{"past_values": one, "start": row["start"]} for one, row in zip(past, rows, strict=True)]

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Gather windows from the series and scale them."""
        import torch

        if not isinstance(rows, Windows):
            return None
        past = self._scaled(rows.histories(indices), rows.aheads(indices))
        return {"past_values": torch.from_numpy(past), "start": torch.from_numpy(rows.moments(indices))}

    def _scaled(self, history: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        """Join and scale histories and known covariates of B windows, float32 [B, context, channels]."""
        import numpy as np

        if ahead.shape[2]:
            history = np.concatenate([history, ahead[:, self.options.horizon :]], axis=2)
        return self.scaler.scale_windows(history)

    # Prediction

    def input_note(self) -> str:
        """Say how much history the model reads, and which covariates it needs for the steps to forecast."""
        from hf_ft.inputs.series.step_checks import format_duration

        ahead, steps = self.channels.known, f"{self.options.horizon} steps of {format_duration(self.step)}"
        needed = f"; needs {listing(ahead)} for these steps" if ahead else ""
        return (
            f"forecasts the {steps} after the last row with {listing(self.channels.target)}, from the "
            f"{self.options.context_length} steps up to it{needed}"
        )

    def read_inputs(self, inputs: Any) -> list[Row]:
        """Read a table of recent rows (a file, DataFrame or list of dicts); return one window per series.

        Covariates that are known ahead must cover the `horizon` steps after the last target value. A list of
        rows with the key `history` is returned as it is.
        """
        from hf_ft.inputs.series.latest_windows import latest_windows

        given = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if given and isinstance(given[0], dict) and "history" in given[0]:
            return [{"id": str(number), **row} for number, row in enumerate(given)]
        return latest_windows(given, self.channels, self.options, self.step)

    @property
    def example(self) -> str:
        """The name of a file of recent rows."""
        return "history.csv"
