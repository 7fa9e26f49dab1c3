"""Text classification: predict one label, several labels, or a number from a text or a pair of texts."""

from __future__ import annotations

from typing import ClassVar, Literal

from hf_ft.inputs.text import TextInput, TextOptions
from hf_ft.targets.classes import MultiLabel, SingleLabel, Thresholds
from hf_ft.targets.numbers import Number, NumberOptions
from hf_ft.task import Role
from hf_ft.tasks._composed import ComposedTask

_LABEL_COLUMNS = "labels class category target score topic intent sentiment"


class Options(TextOptions, Thresholds, NumberOptions):
    """Keys inside `task:` of text-classification."""

    problem: Literal["single-label", "multi-label", "regression"] | None = None
    """null: multi-label if labels are lists, regression if they have decimal places, else single-label."""


class TextClassification(ComposedTask):
    """Predict one label, several labels, or a number from a text or a pair of texts."""

    name = "text-classification"
    summary = "a text or a pair of texts in; one label, several labels, or a number out (BERT, RoBERTa, ...)"
    pipeline_tag = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    input_class, target_classes = TextInput, (SingleLabel, MultiLabel, Number)
    roles: ClassVar = {
        **TextInput.roles,
        "label": Role(
            "the label, the list of labels, or the number", target=True, usual=tuple(_LABEL_COLUMNS.split())
        ),
    }
    Options = Options
