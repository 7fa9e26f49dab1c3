"""The sections of a recipe: one pydantic model each, a comment per field, unknown keys refused.

The sections `augment` and `loss`, and the options inside `task`, belong to the task; `recipe_model` puts the task's
own models in their places. Nothing here imports torch or transformers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

Fraction = Annotated[float, Field(gt=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section of a recipe: immutable, strictly typed, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SplitSection(Section):
    """How the rows are divided into train, validation and test."""

    # A fraction or a count drawn from train; or the name of a split or file group of the source; null: none.
    validation: Fraction | PositiveInt | str | None = 0.1
    # As above. The final figure is measured on test; without one, on validation, and the report says so.
    test: Fraction | PositiveInt | str | None = None
    # Keep rows with the same value of this column in one split (a patient, a track); `time` splits by time.
    by: str | None = None
    # Keep the class proportions in every drawn split, where the task has classes.
    stratify: bool = True


class DataSection(Section):
    """Where the rows come from and which column plays which role."""

    # Hub id, folder, file, glob or https address, `sample:NAME`, `py:module:function`; or {split: any of these}.
    source: str | dict[str, str]
    # A configuration of the Hub data set (or of a folder whose README.md declares several).
    config: str | None = None
    # Branch, tag or commit of a Hub data set.
    revision: str | None = None
    # role -> column name(s) of the source, where the names differ from the roles of the task.
    columns: dict[str, str | list[str]] = Field(default_factory=dict)
    # Column whose values name the rows in every message and in predictions.parquet.
    id: str | None = None
    split: SplitSection = SplitSection()
    # A seeded sample of the training rows: a count, or a fraction.
    limit: Fraction | PositiveInt | None = None
    # What to do with rows that cannot be read: stop, or leave out (at most 1 % of them).
    on_bad: Literal["error", "skip"] = "error"
    # `shuffle` visits every row once an epoch; `balanced` draws classes equally often, with replacement.
    sampler: Literal["shuffle", "balanced"] = "shuffle"


class ModelSection(Section):
    """The pretrained model to start from."""

    # Hub id, local folder, or `sample:NAME`.
    name: str
    # Branch, tag or commit on the Hub.
    revision: str | None = None
    # Build from the configuration alone, with random weights.
    from_scratch: bool = False
    # Overrides of the model's configuration (`hidden_dropout_prob: 0.2`).
    config: dict[str, Any] = Field(default_factory=dict)
    # Overrides of the saved processor; what is written here is saved with the model.
    processor: dict[str, Any] = Field(default_factory=dict)


class EvaluateSection(Section):
    """What is measured, and what decides which checkpoint is best."""

    # The metric that picks the best checkpoint and heads the report; default: the task's main metric.
    metric: str | None = None
    # Needed only for a metric whose direction the task does not know.
    mode: Literal["min", "max"] | None = None
    # Further metrics: names on the Hub or paths of `evaluate` modules.
    extra: list[str] = Field(default_factory=list)
    # Uncertainty of the main metric: percentile bootstrap over the rows, seeded.
    intervals: Literal["bootstrap", "none"] = "bootstrap"
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    confidence: Fraction = 0.95


class Empty(Section):
    """A section that a task does not offer: any key in it is refused."""


class Recipe(Section):
    """A whole recipe, validated. `recipe_model` narrows task, augment and loss to the task's own models."""

    # Written by the user; `task` is the name alone or {name: ..., <options of the task>}.
    task: Any
    name: str
    output_dir: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 17
    data: DataSection
    model: ModelSection
    freeze: Any
    augment: Any
    loss: Any
    train: Any
    evaluate: EvaluateSection = EvaluateSection()
