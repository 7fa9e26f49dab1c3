"""Find the class of a task by the name that a recipe uses, and create the task of a recipe."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from hf_ft.errors import RecipeError
from hf_ft.task import Task

if TYPE_CHECKING:
    from hf_ft.recipe.schema import Recipe


def list_tasks() -> list[str]:
    """List the names of the built-in tasks: one for each file in `hf_ft/tasks/`."""
    files = (Path(__file__).parent / "tasks").glob("[a-z]*.py")
    return sorted(file.stem.replace("_", "-") for file in files)


def get_task(name: str) -> type[Task]:
    """Find a task class by its name.

    Args:
        name: a built-in task such as `image-classification`, or `package.module:Class` for your own task.

    Raises:
        RecipeError: no task has this name (the message gives the nearest name), or the class cannot be
            imported or is not a subclass of Task.
    """
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise RecipeError(
                f"task: cannot import {name!r} ({error}); expected package.module:Class"
            ) from error
        if not (isinstance(found, type) and issubclass(found, Task)):
            raise RecipeError(f"task: {name!r} is {found!r}, not a subclass of hf_ft.Task")
        return found
    known = list_tasks()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise RecipeError(f"task: there is no task {name!r}{hint} Known tasks: {', '.join(known)}")
    module = importlib.import_module(f"hf_ft.tasks.{name.replace('-', '_')}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__
    )


def new_task(recipe: Recipe) -> Task:
    """Create the task of a recipe, with the options in the recipe."""
    task_class = get_task(recipe.task.name)
    return task_class(recipe.task, recipe.augment, recipe.loss, recipe.evaluate.extra)
