"""Load models of time series: auto classes, and the settings of the configuration that the data decide."""

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
# model type -> (the setting that mixes the channels, its value for mixed channels).
MIXING = {"patchtst": ("channel_attention", True), "patchtsmixer": ("mode", "mix_channel")}
LONGEST_PATCH = 16


class AutoModelForForecasting(_BaseAutoModelClass):
    """Auto class of forecasting models (`past_values` to `prediction_outputs`); transformers has none."""

    _model_mapping: Any = _LazyAutoMapping(CONFIG_MAPPING_NAMES, FORECASTERS)


class AutoModelForTimeSeriesRegression(_BaseAutoModelClass):
    """Auto class of regression models for time series; transformers has only the mapping."""

    _model_mapping: Any = MODEL_FOR_TIME_SERIES_REGRESSION_MAPPING


class AutoModelForTimeSeriesClassification(_BaseAutoModelClass):
    """Auto class of classification models for time series; transformers has only the mapping."""

    _model_mapping: Any = MODEL_FOR_TIME_SERIES_CLASSIFICATION_MAPPING


def load_series_model(
    auto_class: str,
    section: ModelSection,
    *,
    context: int,
    channels: int,
    outputs: Mapping[str, Any],
    mix_channels: bool,
    disable_scaling: bool,
) -> Loaded:
    """Load PatchTST or PatchTSMixer from a checkpoint, or build it from its configuration.

    Args:
        auto_class: one of the classes above, as `module:Class`.
        section: the recipe's section `model`.
        context: steps of history.
        channels: number of input channels.
        outputs: further settings that the task decides (`prediction_length`, `num_targets`).
        mix_channels: whether the model must mix the channels, so that covariates reach the targets.
        disable_scaling: whether the model's own scaling of each window, which removes its level, is off
            unless the recipe sets `model.config.scaling`.

    Returns:
        The model, with a note for every setting that is chosen here.

    Raises:
        ModelError: the model has another type, the checkpoint has another context length, or the model does
            not mix its channels.
    """
    found = load_config(find_model(section), section, {})
    if found.model_type not in MIXING:
        raise ModelError(
            f"model.name: {section.name!r} is a model of the type {found.model_type!r}; expected "
            f"{' or '.join(MIXING)}"
        )
    if not section.from_scratch and found.context_length != context:
        raise ModelError(
            f"model.name: {section.name!r} was pretrained on {found.context_length} steps and cannot read "
            f"{context}; set task.context_length: {found.context_length}"
        )
    mixing, notes = _mixing(section, found) if mix_channels else ({}, [])
    defaults, others = _defaults(section, context, disable_scaling=disable_scaling)
    decided = {
        "context_length": context,
        "num_input_channels": channels,
        "loss": "mse",
        **outputs,
        **defaults,
        **mixing,
    }
    loaded = load_model(auto_class, section, decided)
    loaded.notes += [*others, *notes]
    return loaded


def _defaults(
    section: ModelSection, context: int, *, disable_scaling: bool
) -> tuple[dict[str, Any], list[str]]:
    """Choose settings that the recipe leaves open, and say so."""
    defaults: dict[str, Any] = {}
    notes = []
    if section.from_scratch and not {"patch_length", "patch_stride"} & set(section.config):
        patch = max(1, min(LONGEST_PATCH, context // 4))
        defaults |= {"patch_length": patch, "patch_stride": max(1, patch // 2)}
        notes.append(
            f"patches of {patch} steps, one every {defaults['patch_stride']} (model.config.patch_length, "
            "_stride)"
        )
    if disable_scaling and "scaling" not in section.config:
        defaults["scaling"] = None
        notes.append(
            "scaling: null, because the model's own scaling would remove the level of each window "
            "(model.config.scaling)"
        )
    return defaults, notes


def _mixing(section: ModelSection, found: Any) -> tuple[dict[str, Any], list[str]]:
    """Make the model mix its channels, and say so.

    Args:
        section: the recipe's section `model`.
        found: the configuration of the checkpoint.

    Raises:
        ModelError: the recipe or the checkpoint keeps the channels apart.
    """
    key, value = MIXING[found.model_type]
    if section.config.get(key, value) != value:
        raise ModelError(
            f"model.config.{key}: with {section.config[key]!r} the channels are not mixed, so the covariates "
            f"would not reach the targets; write {value!r}, or leave the key out"
        )
    if not section.from_scratch and getattr(found, key) != value:
        raise ModelError(
            f"model.name: {section.name!r} does not mix its channels ({key}: {getattr(found, key)}), so the "
            "covariates would not reach the targets; leave the covariates out, or use another checkpoint"
        )
    if not section.from_scratch or key in section.config:
        return {}, []
    return {key: value}, [f"{key}: {value}, so that the covariates reach the targets"]
