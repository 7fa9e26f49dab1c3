"""Models of time series: which class belongs to which configuration, and what the data decide of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import (
    MODEL_FOR_TIME_SERIES_CLASSIFICATION_MAPPING,
    MODEL_FOR_TIME_SERIES_REGRESSION_MAPPING,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from hf_ft.errors import ModelError
from hf_ft.model.load import find_model, load_config, load_model
from hf_ft.task import Loaded

if TYPE_CHECKING:
    from hf_ft.recipe.schema import ModelSection

FORECASTERS = OrderedDict(patchtst="PatchTSTForPrediction", patchtsmixer="PatchTSMixerForPrediction")
# The setting that lets channels see each other, and its value when they do.
MIXING = {"patchtst": ("channel_attention", True), "patchtsmixer": ("mode", "mix_channel")}
LONGEST_PATCH = 16


class AutoModelForForecasting(_BaseAutoModelClass):
    """Models from `past_values` to `prediction_outputs`; transformers has no auto class for these."""

    _model_mapping: Any = _LazyAutoMapping(CONFIG_MAPPING_NAMES, FORECASTERS)


class AutoModelForTimeSeriesRegression(_BaseAutoModelClass):
    """Regression models of time series; transformers has the mapping, but no auto class for it."""

    _model_mapping: Any = MODEL_FOR_TIME_SERIES_REGRESSION_MAPPING


class AutoModelForTimeSeriesClassification(_BaseAutoModelClass):
    """Classifiers of time series; transformers has the mapping, but no auto class for it."""

    _model_mapping: Any = MODEL_FOR_TIME_SERIES_CLASSIFICATION_MAPPING


def load_series_model(
    auto_class: str,
    section: ModelSection,
    *,
    context: int,
    channels: int,
    outputs: Mapping[str, Any],
    mixed: bool,
    level_kept: bool,
) -> Loaded:
    """Load PatchTST or PatchTSMixer from a checkpoint, or build it from its configuration.

    Args:
        auto_class: one of the classes above, as `module:Class`.
        section: the recipe's `model`.
        context: steps of history.
        channels: channels of the input.
        outputs: what else the task decides of the configuration (`prediction_length`, `num_targets`).
        mixed: whether the channels must see each other.
        level_kept: whether the model's own scaling of each window, which takes its level away, is off by
            default.

    Returns:
        The model, with a note for every setting that neither the recipe nor the checkpoint made.

    Raises:
        ModelError: it is another kind of model, its context is another one, or its channels cannot see each
            other.
    """
    found = load_config(find_model(section), section, {})
    if found.model_type not in MIXING:
        raise ModelError(
            f"model.name: {section.name!r} is of the type {found.model_type!r}; time series take "
            f"{' or '.join(MIXING)}"
        )
    if not section.from_scratch and found.context_length != context:
        raise ModelError(
            f"model.name: {section.name!r} was pretrained on {found.context_length} steps and cannot read "
            f"{context}; set task.context_length: {found.context_length}"
        )
    defaults: dict[str, Any] = {}
    notes = []
    if section.from_scratch and not {"patch_length", "patch_stride"} & set(section.config):
        patch = max(1, min(LONGEST_PATCH, context // 4))
        defaults |= {"patch_length": patch, "patch_stride": max(1, patch // 2)}
        notes.append(
            f"patches of {patch} steps, one every {defaults['patch_stride']} (model.config.patch_length, "
            "_stride)"
        )
    if level_kept and "scaling" not in section.config:
        defaults["scaling"] = None
        notes.append(
            "scaling: null, as the model's own would take the level of each window away "
            "(model.config.scaling)"
        )
    key, value = MIXING[found.model_type]
    if mixed and section.config.get(key, value) != value:
        raise ModelError(
            f"model.config.{key}: {section.config[key]!r} keeps the channels apart, so the covariates would "
            f"never reach the targets; write {value!r}, or leave the key out"
        )
    if mixed and key not in section.config and section.from_scratch:
        defaults[key] = value
        notes.append(f"{key}: {value}, so that the covariates reach the targets")
    if mixed and not section.from_scratch and getattr(found, key) != value:
        raise ModelError(
            f"model.name: {section.name!r} keeps its channels apart ({key}: {getattr(found, key)}), so the "
            "covariates would never reach the targets; leave them out, or take another checkpoint"
        )
    decided = {
        "context_length": context,
        "num_input_channels": channels,
        "loss": "mse",
        **outputs,
        **defaults,
    }
    loaded = load_model(auto_class, section, decided)
    loaded.notes += notes
    return loaded
