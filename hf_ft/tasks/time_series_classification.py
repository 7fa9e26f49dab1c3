"""Time-series classification: a whole series in, one class out."""

from __future__ import annotations

from typing import ClassVar

from hf_ft.inputs.series.whole_series import SeriesInput
from hf_ft.targets.classes import SingleLabel
from hf_ft.task import Role
from hf_ft.tasks._composed import ComposedTask


class TimeSeriesClassification(ComposedTask):
    """The class of a whole series of fixed length, from all of its channels."""

    name = "time-series-classification"
    summary = "a whole series in, one class out (PatchTST, PatchTSMixer)"
    auto_class = "hf_ft.inputs.series.series_models:AutoModelForTimeSeriesClassification"
    # What PatchTST and PatchTSMixer call their logits.
    outputs = ("prediction_logits", "prediction_outputs")
    input_class, target_classes = SeriesInput, (SingleLabel,)
    roles: ClassVar = {
        **SeriesInput.roles,
        "label": Role("the class of the series", target=True, usual=("class", "category", "target", "y")),
    }
