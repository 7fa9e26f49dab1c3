"""Time-series regression: predict one number, or several, from a whole series."""

from __future__ import annotations

from typing import ClassVar

from hf_ft.inputs.series.whole_series import SeriesInput
from hf_ft.targets.numbers import Number
from hf_ft.task import Role
from hf_ft.tasks._composed import ComposedTask


class TimeSeriesRegression(ComposedTask):
    """Predict numbers from a whole series of fixed length and all of its channels."""

    name = "time-series-regression"
    summary = "a whole series in, one number or several out (PatchTST, PatchTSMixer)"
    auto_class = "hf_ft.inputs.series.series_models:AutoModelForTimeSeriesRegression"
    outputs = ("regression_outputs",)
    input_class, target_classes = SeriesInput, (Number,)
    roles: ClassVar = {
        **SeriesInput.roles,
        "target": Role("the number to predict, or several", target=True, several=True, usual=("label", "y")),
    }
