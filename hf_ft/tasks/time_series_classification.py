"""Time-series classification: predict the class of a whole series."""

from __future__ import annotations

from typing import ClassVar

from hf_ft.inputs.series.whole_series import SeriesInput
from hf_ft.targets.classes import SingleLabel
from hf_ft.task import Role
from hf_ft.tasks._composed import ComposedTask


class TimeSeriesClassification(ComposedTask):
    """Predict the class of a whole series of fixed length from all of its channels."""

    name = "time-series-classification"
    summary = "a whole series in, one class out (PatchTST, PatchTSMixer)"
    auto_class = "hf_ft.inputs.series.series_models:AutoModelForTimeSeriesClassification"
    # The names of the logits in PatchTST and PatchTSMixer.
    outputs = ("prediction_logits", "prediction_outputs")
    input_class, target_classes = SeriesInput, (SingleLabel,)
    roles: ClassVar = {
        **SeriesInput.roles,
        "label": Role("the class of the series", target=True, usual=("class", "category", "target", "y")),
    }
