"""The contract between a task and the engine.

A task is one file in `hf_ft/tasks/`, named after its Hub pipeline tag. The engine (freezing, losses,
evaluation, intervals, checkpoints, verification, report, prediction) uses a task only through the class
`Task`. Therefore everything that the engine offers works for every task, and a task of your own
(`my_package.my_module:MyTask`) is used exactly like a built-in one.

The values that the methods take and return (rows, items, batches, results, references) are defined in
`hf_ft.task_types`; this module exports them too, so that a task needs one import.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hf_ft.recipe.schema import Empty, Section
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
    "inherited_together",
]


class Task:
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
    # role name -> Role, inputs first.
    roles: ClassVar[Mapping[str, Role]]
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
    # Name -> Trait: what can be unusual about an input. The audit counts rows with a trait, and the gate
    # tests such rows first.
    traits: Mapping[str, Trait] = {}
    # Batch keys that the loss needs and the model does not get.
    targets: tuple[str, ...] = ("labels",)
    # Further batch keys that the model does not get: values that `finish` or `predict` needs.
    side_keys: tuple[str, ...] = ()
    # The key of an item whose first dimension is the row's length (tokens, steps); None: all rows have the
    # same length.
    length_key: str | None = None
    # The roles whose media (an image, and its mask) the method `media` decodes; `encode` accepts them both
    # raw and decoded.
    media_roles: tuple[str, ...] = ()
    # Whether several threads may call `encode` at once; a tokenizer is not thread-safe.
    encodes_in_threads: bool = False
    # The role whose classes stratify the splits and are counted by the audit; None: there are no classes.
    class_role: str | None = None
    # Turns raw inputs into tensors; set by `load` and `load_processor`.
    processor: Any = None
    # Whether `encode` may split the processor's work into steps, where a test showed that the result is the
    # same. The gate sets it to False in its fresh process, so that it checks against the processor's own
    # call.
    shortcuts: bool = True
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

    def times(self, rows: Any) -> np.ndarray | None:
        """Return the time of each row where the splits are cut by time, else None."""
        return None

    def examples(self, splits: dict[str, Any]) -> dict[str, Any]:
        """Turn the tables of the splits into sequences of examples, such as windows of a time series.

        Each sequence has `len`, `[index] -> Row`, and `ids`. By default each table row is one example.
        """
        return dict(splits)

    def inspect(self, row: Row) -> Inspection:
        """Check one row for the audit; decode its media. Must not raise on bad data.

        Called before `fit`. The result is stored for later runs, so it may depend only on the row and on the
        recipe's options.
        """
        raise NotImplementedError

    def fit(self, train: Any) -> None:
        """Learn labels, scalers and thresholds from the training rows that the audit found usable."""

    def check(self, split: str, rows: Any) -> Mapping[int, str]:
        """Find rows that do not fit what `fit` learned; called for every split, train first.

        Returns:
            Position -> why the row cannot be used, for rows that `data.on_bad: skip` may leave out.

        Raises:
            DataError: the whole split does not fit, for instance because it has a class that train lacks.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """Return what `fit` learned, as JSON: it is saved as task.json beside the model, for prediction."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""

    def labels(self) -> list[str] | None:
        """Class names in id order, or None. The gate compares them in config, data and metric."""
        return None

    def pipeline_options_for(self, traits: Iterable[str]) -> Mapping[str, Any] | None:
        """Return `pipeline_options`; None where the pipeline reads inputs with these traits differently."""
        alike = all(self.traits[name].as_pipeline for name in traits)
        return self.pipeline_options if self.pipeline_tag is not None and alike else None

    def pipeline_input(self, row: Row) -> Any:
        """Return the raw input of a row in the form that transformers' pipeline reads."""
        raise NotImplementedError

    # Model

    def load(self, section: ModelSection) -> Loaded:
        """Load or build the model and its processor, with a head that fits what `fit` learned.

        Sets `self.processor`.
        """
        raise NotImplementedError

    def load_processor(self, folder: str) -> None:
        """Set `self.processor` from a saved model folder; by default a task has no processor."""

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Turn rows into items: the model's inputs and, where a row has the target role, the target.

        Args:
            rows: raw rows.
            rngs: one generator for each row, seeded by (seed, epoch, row), for random augmentation; None: no
                randomness.
        """
        raise NotImplementedError

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Encode and collate many rows at once, without a Python object for each row.

        Must equal `collate(encode(...))` of the same rows bit for bit; the engine compares two rows before
        the first batch. The engine does not call it for random augmentation, for prediction, or where
        `supports_batch_encode` is false.

        Args:
            rows: the rows of a split, as `examples` returned them.
            indices: positions of the rows, int [B].

        Returns:
            The batch, tensors only; None where these rows must be encoded one by one.
        """
        return None

    @property
    def supports_batch_encode(self) -> bool:
        """Whether `encode_batch` matches `encode` and `collate`; it may still return None for some rows."""
        return inherited_together(type(self), "encode_batch", "encode", "collate")

    def media(self, rows: Sequence[Row], *, preprocessed: bool) -> list[dict[str, torch.Tensor]] | None:
        """Decode the media of rows to uint8 tensors for the cache of decoded rows (`cache.decoded`).

        `encode` must give the same item, bit for bit, when a row holds the decoded media under its
        `media_roles` in place of the raw values: as numpy arrays, or wrapped in `Preprocessed`.

        Args:
            rows: raw rows.
            preprocessed: whether to apply the processor's geometry too, which gives all rows one shape.

        Returns:
            For each row, one tensor for each of `media_roles`; None where `preprocessed` is not possible.
        """
        raise NotImplementedError

    def media_numbers(self, row: Row) -> int:
        """Count the uint8 values of all decoded media of a row, without decoding them."""
        raise NotImplementedError

    def mix(self, item: Item, others: Sequence[Item], rng: np.random.Generator) -> Item:
        """Mix an encoded training item with others: mixup, cutmix, mosaic. Called only where `mixes` is true.

        Args:
            item: the item of the row itself.
            others: `mixed_with` items of rows drawn at random, each augmented separately.
            rng: the generator of the row, after it augmented the row and drew the others.
        """
        raise NotImplementedError

    def lengths(self, rows: Any) -> list[int] | None:
        """Return the length of each row (tokens, steps), or None where all rows have the same length.

        Training puts rows of similar length into one batch; evaluation goes from the longest to the shortest.
        """
        return None

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """List decisions about the data, and data that the model will not see; called after `load`.

        Args:
            rows: split -> raw rows.
        """
        return []

    @property
    def is_random(self) -> bool:
        """Whether `encode` augments training rows at random and therefore needs generators."""
        return False

    @property
    def mixes(self) -> bool:
        """Whether training items are mixed with randomly drawn ones."""
        return False

    @property
    def mixed_with(self) -> int:
        """How many other rows are drawn for each mixed row: mixup needs one, a mosaic three."""
        return 1

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack B items into a batch of tensors."""
        raise NotImplementedError

    def finish(self, batch: Batch) -> Batch:
        """Finish a batch on the device, for instance normalise pixels that were transferred as uint8.

        The engine may call it twice for one batch; the second call must change nothing.
        """
        return batch

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

    def input_note(self) -> str | None:
        """Say what inputs must contain beyond their columns; printed before prediction. None: nothing."""
        return None

    def read_inputs(self, inputs: Any) -> list[Row]:
        """Turn the Predictor's inputs (paths, images, texts, arrays, rows) into rows with ids."""
        raise NotImplementedError


def inherited_together(kind: type, method: str, *others: str) -> bool:
    """Tell whether no class overrides one of `others` below the class that defines `method`.

    A class that overrides `encode` and inherits `encode_batch` would encode a row in two different ways, and
    a comparison of two rows may not show the difference.
    """

    def depth(name: str) -> int:
        return next(number for number, cls in enumerate(kind.__mro__) if name in vars(cls))

    return depth(method) <= min(depth(name) for name in others)
