from __future__ import annotations

import re

import pytest
from toy import PlainTask, ToyTask

from hf_ft.recipe.messages import all_key_paths, section_model
from hf_ft.recipe.read import SECTIONS, load_recipe
from hf_ft.recipe.starter import starter
from hf_ft.recipe.task_schema import json_schema, recipe_model
from hf_ft.registry import get_task, list_tasks

TASKS = [
    ("toy:ToyTask", ToyTask),
    ("toy:PlainTask", PlainTask),
    *((name, get_task(name)) for name in list_tasks()),
]


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_a_starter_is_a_valid_recipe_of_defaults_with_rows_held_back(tmp_path, name, task):
    path = tmp_path / "mine.yaml"
    path.write_text(starter(task, name), encoding="utf-8")
    found = load_recipe(path)
    plain = load_recipe(
        {
            "task": name,
            "name": "mine",
            "data": {"source": "path/to/data", "split": {"test": 0.2}},
            "model": {"name": "path/or/hub-id"},
        }
    )
    assert found == plain
    # Every section of the schema is there, except those in which this task has no key.
    empty = [key for key in SECTIONS if key != "task" and not type(getattr(found, key)).model_fields]
    written = [key for key in SECTIONS if re.search(rf"^{key}:", path.read_text(), re.MULTILINE)]
    assert written == [key for key in SECTIONS if key not in empty]


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_removing_the_comment_signs_leaves_a_valid_recipe(tmp_path, name, task):
    """Every commented key is a key of the schema with its default."""
    keys = {place.rpartition(".")[2] for place in all_key_paths(recipe_model(task))}
    lines = []
    for line in starter(task, name).splitlines():
        key = re.fullmatch(r"( *)# ((?: {2})*)(\w+):( \S.*)?", line)
        if key and key[3] in keys and key[3] not in ("n", "patterns", "name", "output_dir"):
            lines.append(f"{key[1]}{key[2]}{key[3]}:{key[4] or ''}")
        elif not line.lstrip().startswith("#"):
            lines.append(line)
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    recipe = load_recipe(path)
    assert "by" in recipe.data.split.model_fields_set
    assert recipe == load_recipe(
        {
            "task": name,
            "name": "mine",
            "data": {"source": "path/to/data", "split": {"test": 0.2}},
            "model": {"name": "path/or/hub-id"},
        }
    )


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_every_field_is_explained(name, task):
    """init and schema print the docstring of a field, so every field needs one."""
    model = recipe_model(task)
    passed_on = {f"train.{key}" for key in model.model_fields["train"].default.passed_on}
    for place in all_key_paths(model):
        path = tuple(place.split("."))
        owner = section_model(model, path[:-1])
        explained = owner.model_fields[path[-1]].description or section_model(model, path) is not owner
        assert explained or place in passed_on, place


def test_the_json_schema_names_every_key():
    schema = json_schema(ToyTask)
    assert schema["required"] == ["task", "data", "model"]
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) >= {
        "task",
        "data",
        "model",
        "freeze",
        "augment",
        "loss",
        "train",
        "evaluate",
    }
    train = schema["$defs"]["TrainSection"]["properties"]
    assert {"learning_rate", "optim", "global_batch_size"} <= set(train)
    assert "seed" not in train and "hub_token" not in train
    assert "exponential" in train["lr_scheduler_type"]["enum"]
    assert schema["$defs"]["ToyAugment"]["properties"]["policy"]["enum"] == ["none", "light"]
    assert "r" in schema["$defs"]["Freeze_lora"]["properties"]
    assert schema["properties"]["task"]["anyOf"][1] == {"type": "string"}
    assert schema["$defs"]["DataSection"]["properties"]["source"]["description"].startswith("Hub id")


def test_the_json_schema_without_a_task_leaves_its_sections_open():
    assert "type" not in json_schema()["properties"]["augment"]
