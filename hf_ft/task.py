"""The contract between a task and the engine.

A task is one file in `hf_ft/tasks/`, named after its Hub pipeline tag. The engine (freezing, losses,
evaluation, intervals, checkpoints, verification, report, prediction) uses a task only through the class
`Task`. Therefore everything that the engine offers works for every task, and a task of your own
(`my_package.my_module:MyTask`) is used exactly like a built-in one.

The methods that check and encode rows are documented in the base class `RowEncoder`, which an input shares.
The values that the methods take and return (rows, items, batches, results, references) are defined in
`hf_ft.task_types`; this module exports them too, so that a task needs one import.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hf_ft.recipe.schema import Empty, Section
from hf_ft.row_encoder import RowEncoder
from hf_ft.task_types import (
    ACTIVATIONS,
    ENGINE_KEYS,
    MOVING,
    REAL,
    ROW,
    Batch,
    Evaluation,
    Figure,
    Inspection,
    Item,
    Loaded,
    Metrics,
    Preprocessed,
    Preview,
    ResultTable,
    Role,
    Row,
    Rows,
    SimpleFeatures,
    Trait,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.recipe.schema import ModelSection

__all__ = [
    "ACTIVATIONS",
    "ENGINE_KEYS",
    "MOVING",
    "REAL",
    "ROW",
    "Batch",
    "Evaluation",
    "Figure",
    "Inspection",
    "Item",
    "Loaded",
    "Metrics",
    "Preprocessed",
    "Preview",
    "ResultTable",
    "Role",
    "Row",
    "Rows",
    "SimpleFeatures",
    "Task",
    "Trait",
]


class Task(RowEncoder):
    """Base class of all tasks. A subclass sets the class attributes and implements the methods.

    Args:
        options: the task's own keys inside `task:`.
        augment: the recipe's section `augment`.
        loss: the recipe's section `loss`.
        extra_metrics: `evaluate.extra`, names of further metrics.
    """

    # The Hub's pipeline tag where it has one, equal to the file's name with dashes.
    name: ClassVar[str]
    # One line for `hf-ft tasks` and `hf-ft init`.
    summary: ClassVar[str]
    # The class that builds the model: a class of transformers (`AutoModelForImageClassification`), or
    # `package.module:Class`.
    auto_class: ClassVar[str]
    # The metric that picks the best checkpoint by default, and the direction of every metric of the task.
    # Both may depend on the options, and `fit` may change them.
    main_metric: str
    greater_is_better: Mapping[str, bool]
    # Metrics shown beside the main one.
    headline_metrics: tuple[str, ...] = ()
    # An example of an input to the Predictor, for the lines of code in the report and the model card.
    example_input: Any = "input"
    # The Hub's pipeline tag of these models; None where the Hub has none.
    pipeline_tag: ClassVar[str | None] = None
    # Options of transformers' pipeline with which it gives the answers of the Predictor, which the gate
    # checks; None where there are no such options.
    pipeline_options: Mapping[str, Any] | None = None
    # Batch keys that the loss needs and the model does not get.
    targets: tuple[str, ...] = ("labels",)
    # The role whose classes stratify the splits and are counted by the audit; None: there are no classes.
    class_role: str | None = None
    # The task's own recipe keys: inside `task:`, and the sections `augment:` and `loss:`.
    Options: ClassVar[type[Section]] = Empty
    Augment: ClassVar[type[Section]] = Empty
    Loss: ClassVar[type[Section]] = Empty

    def __init__(
        self,
        options: Section | None = None,
        augment: Section | None = None,
        loss: Section | None = None,
        extra_metrics: Sequence[str] = (),
    ):
        self.options: Any = options or self.Options()
        self.augment: Any = augment or self.Augment()
        self.loss_options: Any = loss or self.Loss()
        # Names of further metrics that the recipe asks for; `metrics` loads them.
        self.extra_metrics = tuple(extra_metrics)

    def parts(self) -> list[Any]:
        """Return the objects that the task consists of; their source code is part of every cache key."""
        return []

    # Data

    def fit(self, train: Any) -> None:
        """Learn labels, scalers and thresholds from the training rows that the audit found usable."""

    def labels(self) -> list[str] | None:
        """Class names in id order, or None. The gate compares them in config, data and metric."""
        return None

    def pipeline_options_for(self, traits: Iterable[str]) -> Mapping[str, Any] | None:
        """Return `pipeline_options`; None where the pipeline reads inputs with these traits differently."""
        alike = all(self.traits[name].as_pipeline for name in traits)
        return self.pipeline_options if self.pipeline_tag is not None and alike else None

    # Model

    def load(self, section: ModelSection) -> Loaded:
        """Load or build the model and its processor, with a head that fits what `fit` learned.

        Sets `self.processor`.
        """
        raise NotImplementedError

    def mix(self, item: Item, others: Sequence[Item], rng: np.random.Generator) -> Item:
        """Mix an encoded training item with others: mixup, cutmix, mosaic. Called only where `mixes` is true.

        Args:
            item: the item of the row itself.
            others: `mixed_with` items of rows drawn at random, each augmented separately.
            rng: the generator of the row, after it augmented the row and drew the others.
        """
        raise NotImplementedError

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack B items into a batch of tensors."""
        raise NotImplementedError

    def forward(self, model: Any, batch: Batch) -> Any:
        """Call the model on a batch without its targets, so that the model computes no loss of its own."""
        withheld = {*self.targets, *self.side_keys, *ENGINE_KEYS}
        return model(**{key: value for key, value in batch.items() if key not in withheld})

    def loss(self, model: Any, outputs: Any, batch: Batch) -> torch.Tensor:
        """Compute the loss of each row, float [B]: weighted, and *summed* over its tokens or boxes."""
        raise NotImplementedError

    def count(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each row in the mean loss, float [B]: 1, a class weight, its tokens or boxes.

        The engine's loss is sum(loss) / sum(count) over the whole global batch, whatever the number of
        processes and accumulation steps. The count must not depend on the model.
        """
        import torch

        return torch.ones_like(batch[REAL], dtype=torch.float32)

    def predict(self, model: Any, outputs: Any, batch: Batch) -> list[Any]:
        """Reduce outputs to one small CPU result per row; generation calls `model.generate` here."""
        raise NotImplementedError

    # Evaluation

    def calibrate(self, validation: Evaluation) -> list[str]:
        """Choose thresholds and the like on the validation rows; called once, after training.

        Returns:
            What was chosen, one line each; empty where nothing was chosen. A line means that the validation
            metrics must be computed again.
        """
        return []

    def has_loss(self, split: str) -> bool:
        """Tell whether rows of a split have a loss; identities that are not in train have none."""
        return True

    def references(self, rows: Any, indices: Sequence[int] | None = None) -> list[Any]:
        """Return the references of rows, in order.

        The engine asks for them batch by batch and does not store them, so a mask is decoded here. Reading
        the class of a row must not decode its image.

        Args:
            rows: the rows of a split.
            indices: positions of the rows, int [B]; None: all rows.
        """
        raise NotImplementedError

    def summarize(self, results: Sequence[Any], references: Sequence[Any]) -> list[Any]:
        """Reduce large results to small ones with the help of the references: a mask to confusion counts.

        An evaluation stores only these, so `metrics`, `difference`, `decode` and `figures` get them. A
        prediction has no reference; there `decode` gets the result of `predict`.

        Args:
            results: B results of `predict`.
            references: B references of the same rows.
        """
        return list(results)

    def groups(self, rows: Any) -> Sequence[Hashable] | None:
        """Return the group of each row if rows of a group are not independent, such as overlapping windows.

        The bootstrap then draws whole groups; drawing rows would make the interval too narrow. None: the rows
        are independent.
        """
        return None

    def metrics(self) -> Metrics:
        """Make the object that computes the metrics of one evaluation."""
        raise NotImplementedError

    def baselines(self, train: Any, rows: Any) -> dict[str, list[Any]]:
        """Answer rows without the model, with baselines that are fitted on the training rows.

        Returns:
            Name in words ("the mean of train") -> one result for each row, as `predict` returns it, or None
            where this baseline has no answer. The trivial answer comes first.
        """
        return {}

    @property
    def fits_classical(self) -> bool:
        """Whether `fit_classical` gives a model."""
        return type(self).fit_classical is not Task.fit_classical

    def fit_classical(
        self, features: SimpleFeatures, rows: Any
    ) -> tuple[str, Callable[[Any], list[Any]]] | None:
        """Fit a classical model as a baseline of the run.

        Args:
            features: features of training rows.
            rows: the same rows, raw.

        Returns:
            The name of the model in words, and a function that answers rows with results; None where the task
            has no such model.
        """
        return None

    def decode(self, result: Any) -> dict[str, Any]:
        """Turn a result into readable values: label and score, boxes, text, a number in its unit."""
        raise NotImplementedError

    def describe(self, result: Any) -> str:
        """Write a result as one short line, for the list of worst rows."""
        return ", ".join(
            f"{value:.3g}" if isinstance(value, float) else str(value)
            for value in self.decode(result).values()
        )

    def preview(self, row: Row, result: Any, reference: Any) -> Preview | None:
        """Show a row in the report, with the answer and the truth drawn into it where possible; or None."""
        return None

    def decode_reference(self, reference: Any) -> Any:
        """Turn a reference into a readable value: a class name, a number."""
        return reference

    def difference(self, a: Any, b: Any) -> float:
        """Return the largest absolute difference between two summarized results; the gate allows 1e-4."""
        raise NotImplementedError

    def figures(self, evaluation: Evaluation, rows: Any) -> list[Figure]:
        """Draw the figures of an evaluation.

        Args:
            evaluation: the evaluation of one split.
            rows: the raw rows of this split, in the same order.
        """
        return []

    # Prediction

    def read_inputs(self, inputs: Any) -> list[Row]:
        """Turn the Predictor's inputs (paths, images, texts, arrays, rows) into rows with ids."""
        raise NotImplementedError
