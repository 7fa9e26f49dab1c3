from __future__ import annotations

from typing import get_args

import pytest

from hf_ft.errors import RecipeError
from hf_ft.recipe import library_arguments
from hf_ft.recipe.library_arguments import (
    method_arguments,
    peft_methods,
    schedules,
    trackers,
    training_arguments,
    unusable_method,
    usable_methods,
)
from hf_ft.recipe.read import load_recipe
from hf_ft.recipe.reserved_keys import ALIASES, REMOVED, RESERVED
from hf_ft.recipe.schema import TrainSection
from hf_ft.recipe.task_schema import train_section


def test_names_are_those_of_training_arguments():
    """vllm semantic-router#3925: names change monthly; reading the installed source finds them all."""
    import dataclasses

    from transformers import TrainingArguments

    imported = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    not_writable = imported - set(training_arguments())
    assert set(training_arguments()) <= imported
    assert not_writable == {"parallelism_config"}


def test_values_of_enumerations():
    from transformers.trainer_utils import SaveStrategy, SchedulerType
    from transformers.training_args import OptimizerNames

    assert set(get_args(training_arguments()["optim"].type)) == {item.value for item in OptimizerNames}
    assert set(get_args(training_arguments()["save_strategy"].type)) == {item.value for item in SaveStrategy}
    assert set(schedules()) == {item.value for item in SchedulerType} | {"exponential"}


def test_methods_are_those_of_peft():
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    assert {name.upper() for name in peft_methods()} == {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    for name in usable_methods():
        kind = "LORA" if name == "dora" else name.upper()
        fields = set(PEFT_TYPE_TO_CONFIG_MAPPING[kind].__dataclass_fields__)
        assert set(method_arguments(name)) <= fields, name
        assert "target_modules" in fields


@pytest.mark.parametrize(
    "name", ["lora", "dora", "ia3", "vera", "oft", "boft", "loha", "lokr", "hra", "fourierft"]
)
def test_methods_with_target_modules_can_be_strategies(name):
    assert name in usable_methods()
    assert "target_modules" in method_arguments(name)


@pytest.mark.parametrize(
    "name",
    ["prompt_tuning", "p_tuning", "prefix_tuning", "adaption_prompt", "cpt", "multitask_prompt_tuning"],
)
def test_prompt_methods_cannot_be_strategies(name):
    assert "prompt" in unusable_method(name)
    assert name not in usable_methods()


def test_reserved_names_exist_and_removed_names_do_not():
    """A name that transformers drops moves from one table to the other."""
    assert set(RESERVED) <= set(training_arguments())
    assert not set(REMOVED) & set(training_arguments())
    assert not set(RESERVED) & set(train_section().model_fields)


def test_every_advice_names_keys_that_exist():
    from hf_ft.recipe.library_arguments import method_arguments
    from hf_ft.recipe.messages import all_key_paths
    from hf_ft.recipe.schema import Recipe
    from hf_ft.recipe.task_schema import freeze_section

    known = {*all_key_paths(Recipe), *(f"train.{name}" for name in train_section().model_fields)}
    known |= {f"freeze.{name}" for name in freeze_section("lora").model_fields} | {"freeze.r"}
    assert method_arguments("lora").keys() >= {"r", "lora_alpha"}
    for word, place in ALIASES.items():
        if word != "<<":
            assert place.partition(":")[0] in known, (word, place)
    for advice in (*RESERVED.values(), *REMOVED.values()):
        for word in advice.replace(",", " ").replace(";", " ").replace(":", " ").split():
            if word.startswith(("train.", "evaluate.", "data.", "model.")):
                assert word in known, advice


def test_defaults_of_hf_ft_have_the_types_of_transformers():
    """Each key of hf_ft that is passed on exists in TrainingArguments, with a valid default."""
    handed_on = set(TrainSection.model_fields) - TrainSection.own
    assert handed_on <= set(training_arguments())
    ours = get_args(TrainSection.model_fields["eval_strategy"].annotation)
    assert set(ours) == set(get_args(training_arguments()["eval_strategy"].type))


def with_trackers(value):
    recipe = {"task": "toy:ToyTask", "data": {"source": "a"}, "model": {"name": "m"}}
    return load_recipe({**recipe, "train": {"report_to": value}})


def test_trackers_are_those_of_transformers():
    from transformers.integrations import INTEGRATION_TO_CALLBACK

    assert trackers() == tuple(INTEGRATION_TO_CALLBACK)


@pytest.mark.parametrize("value", ["none", "all", ["none"], "tensorboard", ["wandb", "tensorboard"]])
def test_installed_trackers_are_taken(value, monkeypatch):
    monkeypatch.setattr(library_arguments, "is_installed", lambda module: True)
    assert with_trackers(value).train.arguments["report_to"] == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tensorbord", r"found 'tensorbord'; expected none, all or one of .*did you mean 'tensorboard'\?"),
        ("comet_ml", r"comet_ml needs .* pip install comet-ml\. Installed trackers: wandb"),
        (["wandb", "azure_ml"], "azure_ml needs the package azureml-mlflow"),
    ],
)
def test_a_tracker_that_cannot_be_used_is_no_valid_recipe(value, message, monkeypatch):
    """Such a tracker must be an error before the data are read and the model is loaded."""
    monkeypatch.setattr(library_arguments, "is_installed", lambda module: module == "wandb")
    with pytest.raises(RecipeError, match=rf"train\.report_to: {message}"):
        with_trackers(value)
