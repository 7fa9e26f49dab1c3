"""Time-series forecasting: predict the next steps of a series from its history."""

from __future__ import annotations

from typing import ClassVar

from hf_ft.inputs.series.window_input import WindowInput
from hf_ft.targets.forecast import Forecast
from hf_ft.task import Role
from hf_ft.tasks._composed import ComposedTask


class TimeSeriesForecasting(ComposedTask):
    """Predict the next steps of one or several targets from their past and from covariates."""

    name = "time-series-forecasting"
    summary = "a history in, the steps that follow out (PatchTST, PatchTSMixer)"
    pipeline_tag = "time-series-forecasting"
    auto_class = "hf_ft.inputs.series.series_models:AutoModelForForecasting"
    outputs, target_key = ("prediction_outputs",), "future_values"
    input_class, target_classes = WindowInput, (Forecast,)
    roles: ClassVar = {
        **WindowInput.roles,
        "target": Role(
            "the values to forecast: one column or several", target=True, several=True, usual=("value", "y")
        ),
    }
