"""Build the schema of one recipe: the static sections with the keys of its task and freezing strategy."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, Union

from pydantic import create_model, field_validator
from pydantic.fields import FieldInfo

from hf_ft.recipe.library_arguments import (
    installed_trackers,
    method_arguments,
    missing_package,
    schedules,
    trackers,
    training_arguments,
    usable_methods,
)
from hf_ft.recipe.reserved_keys import REMOVED, RESERVED, SECRETS
from hf_ft.recipe.schema import FreezeSection, PositiveInt, Recipe, Section, TrainSection, problem
from hf_ft.text_utils import hint

if TYPE_CHECKING:
    from hf_ft.task import Task

STRATEGIES = ("full", "head", "last", "patterns")


def recipe_model(task_class: type[Task] | None, strategy: str | None = "full") -> type[Recipe]:
    """Build the recipe's schema for one task and one freezing strategy.

    Args:
        task_class: the task; its Options, Augment and Loss define three sections. None where the task is not
            known: these sections are then not checked.
        strategy: `freeze.strategy`; None where it is not known: the section is then not checked.

    Returns:
        A subclass of Recipe. Equal arguments give the same class, so recipes can be compared.
    """
    task: Any = task_class
    return cached_recipe_model(task, strategy)


@functools.cache
def cached_recipe_model(task_class: Any, strategy: str | None) -> type[Recipe]:
    """Build the class that `recipe_model` gives."""
    fields: dict[str, Any] = {"train": (train_section(), train_section()())}
    if strategy is None:
        fields["freeze"] = (Any, None)
    else:
        section = freeze_section(strategy)
        fields["freeze"] = (section, ... if strategy in ("last", "patterns") else section())
    if task_class is None:
        fields |= {"task": (Any, ...), "augment": (Any, None), "loss": (Any, None)}
    else:
        fields |= {
            "task": (task_section(task_class), ...),
            "augment": (task_class.Augment, FieldInfo(default_factory=task_class.Augment)),
            "loss": (task_class.Loss, FieldInfo(default_factory=task_class.Loss)),
        }
    return create_model("Recipe", __base__=Recipe, **fields)


def task_section(task_class: type[Task]) -> type[Section]:
    """Build the section `task`: the task's own options, and its name."""
    name = FieldInfo(annotation=str, description=f"The task: {task_class.summary}")
    return create_model("TaskSection", __base__=task_class.Options, name=(str, name))


@functools.cache
def freeze_section(strategy: str) -> type[FreezeSection]:
    """Build the section `freeze` of one strategy; a PEFT method adds the keys of its configuration."""
    inherited = FreezeSection.model_fields
    description = inherited["strategy"].description
    fields: dict[str, Any] = {
        "strategy": (Literal[strategy], FieldInfo(default=strategy, description=description))
    }
    if strategy == "last":
        fields["n"] = (PositiveInt, FieldInfo(description=inherited["n"].description))
    if strategy == "patterns":
        fields["patterns"] = (
            inherited["patterns"].annotation,
            FieldInfo(description=inherited["patterns"].description),
        )
    options = {} if strategy in STRATEGIES else passed_fields(method_arguments(strategy))
    section = create_model(f"Freeze_{strategy}", __base__=FreezeSection, **fields, **options)
    section.passed_on = frozenset(options)
    return section


@functools.cache
def train_section() -> type[TrainSection]:
    """Build the section `train`, with every name of TrainingArguments that a recipe may set."""
    own, refused = TrainSection.model_fields, {*RESERVED, *REMOVED, *SECRETS}
    arguments = {k: v for k, v in training_arguments().items() if k not in own and k not in refused}
    schedule = own["lr_scheduler_type"]
    fields: dict[str, Any] = passed_fields(arguments)
    fields["lr_scheduler_type"] = (
        Literal[schedules()],
        FieldInfo(default=schedule.default, description=schedule.description),
    )
    validators: dict[str, Any] = {
        "check_exponential": field_validator("lr_scheduler_kwargs")(check_exponential),
        "check_trackers": field_validator("report_to")(check_trackers),
    }
    section = create_model("TrainSection", __base__=TrainSection, __validators__=validators, **fields)
    section.passed_on = frozenset(arguments)
    return section


def passed_fields(arguments: Any) -> dict[str, Any]:
    """Build the fields of keys that are passed on to a library; an unset key keeps the library's default."""
    return {
        name: (argument.type, FieldInfo(default=None, description=argument.help))
        for name, argument in arguments.items()
    }


def check_exponential(cls: type, value: Any, info: Any) -> Any:
    """Check the option of the schedule `exponential`: the share of the learning rate at the end."""
    if info.data.get("lr_scheduler_type") != "exponential" or value is None:
        return value
    final = value.get("final") if isinstance(value, dict) else None
    if (
        not isinstance(value, dict)
        or set(value) != {"final"}
        or not isinstance(final, float)
        or not 0 < final < 1
    ):
        raise problem(
            "the schedule exponential needs {final: a number above 0 and below 1}, for instance {final: 0.01}"
        )
    return value


def check_trackers(cls: type, value: Any) -> Any:
    """Refuse a tracker that the Trainer does not know, and one whose package is not installed."""
    known = trackers()
    for name in value if isinstance(value, list) else [value]:
        if name in ("none", "all", None):
            continue
        if name not in known:
            raise problem(
                f"found {name!r}; expected none, all or one of {', '.join(known)}{hint(name, known)}"
            )
        package = missing_package(name)
        if package is not None:
            raise problem(
                f"{name} needs the package {package}, which is not installed: pip install {package}. "
                f"Installed trackers: {', '.join(installed_trackers()) or 'none'}"
            )
    return value


def json_schema(task: type[Task] | None = None) -> dict[str, Any]:
    """Return the JSON schema of a recipe, for editors that complete and check YAML.

    Args:
        task: the task that defines `task`, `augment` and `loss`; None: they are not checked.
    """
    strategies = Union[tuple(freeze_section(name) for name in (*STRATEGIES, *usable_methods()))]  # type: ignore[valid-type]  # noqa: UP007
    base = recipe_model(task)
    shorthand: dict[str, Any] = {
        "freeze": strategies | str,
        "name": str | None,
        "output_dir": str | None,
    }
    if task is not None:
        shorthand |= {"task": task_section(task) | str, "augment": task.Augment | str}
    fields: dict[str, Any] = {
        name: (kind, FieldInfo(default=None, description=base.model_fields[name].description))
        for name, kind in shorthand.items()
    }
    schema = create_model("Recipe", __base__=base, **fields).model_json_schema()
    schema["required"] = ["task", "data", "model"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "hf_ft recipe"}
