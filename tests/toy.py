"""A task that does nothing, for tests that need only its name, roles and options."""

from __future__ import annotations

from datetime import time
from typing import ClassVar, Literal

from pydantic import field_validator

from hf_ft.recipe.schema import Fraction, Section
from hf_ft.task import Role, Task


class ToyOptions(Section):
    size: int = 8
    """Side of the toy, in pixels."""


class ToyAugment(Section):
    policy: Literal["none", "light"] = "none"
    """How the toy is augmented."""
    mixup: Fraction | None = None
    """Strength of mixing two toys."""


class ToyLoss(Section):
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """balanced, or a weight for each class."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""


class ToyTask(Task):
    """A task with options."""

    name = "toy"
    summary = "a toy, for tests"
    roles: ClassVar = {"image": Role("the picture"), "label": Role("its class", target=True)}
    main_metric = "accuracy"
    greater_is_better: ClassVar = {"accuracy": True}
    class_role = "label"
    Options = ToyOptions
    Augment = ToyAugment
    Loss = ToyLoss


class PlainTask(Task):
    """A task without options of its own."""

    name = "plain"
    summary = "a task without options"
    roles: ClassVar = {"value": Role("the value")}
    main_metric = "mae"
    greater_is_better: ClassVar = {"mae": False}


class HeadsOptions(Section):
    heads: list[str]
    """Names of the heads."""
    until: time | None = None
    """A pydantic type that no task of hf_ft uses."""

    @field_validator("heads")
    @classmethod
    def _named_once(cls, heads: list[str]) -> list[str]:
        if len(set(heads)) < len(heads):
            raise ValueError(f"found {', '.join(heads)}; name each head once")
        return heads


class HeadsTask(ToyTask):
    """A task whose metrics are named by its options."""

    name = "heads"
    Options = HeadsOptions

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.greater_is_better = {f"{head}/accuracy": True for head in self.options.heads}
        self.main_metric = f"{self.options.heads[0]}/accuracy"
