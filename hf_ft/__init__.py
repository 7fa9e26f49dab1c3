"""hf_ft: one recipe, one command, a fine-tuned Hugging Face model that is proved to work.

The public names below are imported when they are first used, so that `import hf_ft` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hf_ft.errors import (
        DataError,
        HfFtError,
        ModelError,
        PublishError,
        RecipeError,
        TrainError,
        VerifyError,
    )
    from hf_ft.finished_run import Run
    from hf_ft.inputs.base_input import Input
    from hf_ft.model.freeze import freeze
    from hf_ft.model.predictor import Predictor
    from hf_ft.recipe.read import load_recipe
    from hf_ft.recipe.schema import Recipe
    from hf_ft.registry import get_task, list_tasks
    from hf_ft.run import check, finetune, finetune_seeds
    from hf_ft.seeds import SeedRuns
    from hf_ft.targets.base_target import Target
    from hf_ft.task import Task
    from hf_ft.tasks._composed import ComposedTask
    from hf_ft.verification.verifier import verify

__all__ = [
    "ComposedTask",
    "DataError",
    "HfFtError",
    "Input",
    "ModelError",
    "Predictor",
    "PublishError",
    "Recipe",
    "RecipeError",
    "Run",
    "SeedRuns",
    "Target",
    "Task",
    "TrainError",
    "VerifyError",
    "check",
    "finetune",
    "finetune_seeds",
    "freeze",
    "get_task",
    "list_tasks",
    "load_recipe",
    "verify",
]

# Module -> the public names that it defines.
_MODULES = {
    "hf_ft.registry": ("get_task", "list_tasks"),
    "hf_ft.errors": (
        "DataError", "HfFtError", "ModelError", "PublishError", "RecipeError", "TrainError", "VerifyError",
    ),
    "hf_ft.inputs.base_input": ("Input",),
    "hf_ft.model.freeze": ("freeze",),
    "hf_ft.model.predictor": ("Predictor",),
    "hf_ft.recipe.read": ("load_recipe",),
    "hf_ft.recipe.schema": ("Recipe",),
    "hf_ft.finished_run": ("Run",),
    "hf_ft.run": ("check", "finetune", "finetune_seeds"),
    "hf_ft.seeds": ("SeedRuns",),
    "hf_ft.targets.base_target": ("Target",),
    "hf_ft.task": ("Task",),
    "hf_ft.tasks._composed": ("ComposedTask",),
    "hf_ft.verification.verifier": ("verify",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hf_ft' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
