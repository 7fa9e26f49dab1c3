"""The base class of all targets: a target defines what the model learns, independent of the input.

The argument `answer` of its methods is the model's output for each row: the tensor under
`ComposedTask.outputs`, for most models logits or numbers [B, K].
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hf_ft.recipe.schema import Empty, Section
from hf_ft.row_encoder import inherited_together

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.task import Batch, Evaluation, Figure, Item, Loaded, Metrics, Preview, Row, SimpleFeatures


class Target:
    """Base class of all targets. `hf_ft.task.Task` documents the methods of the same names in detail.

    Args:
        options: the recipe's section `task`, which includes the keys of `Options`.
        loss: the recipe's section `loss`, which includes the keys of `Loss`.
        role: the role whose values the model learns.
        key: the key of the encoded values, in items and batches.
    """

    # The name of this target in `task.problem`, where a task has several targets.
    problem: ClassVar[str]
    # The keys that this target adds to the sections `task:` and `loss:` of the recipe.
    Options: ClassVar[type[Section]] = Empty
    Loss: ClassVar[type[Section]] = Empty
    # The same as in Task.
    main_metric: str
    greater_is_better: Mapping[str, bool]
    headline_metrics: tuple[str, ...] = ()
    # Whether the values of the role are classes: then splits are stratified by them, and the audit counts
    # them.
    has_classes: ClassVar[bool] = False
    # Further keys that the target adds to a batch and that the model does not get.
    side_keys: ClassVar[tuple[str, ...]] = ()
    # Roles of the target that hold media, such as a mask; the same as in Task.
    media_roles: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: Any, loss: Any, role: str = "label", key: str = "labels"):
        self.options, self.loss_options = options, loss
        self.role, self.key = role, key
        # fingerprint of rows -> the values of the role, for `encode_batch`.
        self._values: dict[str, list[Any]] = {}

    # Data

    def inspect(self, value: Any) -> str | None:
        """Say why the value of one row cannot be used; None where it can. Called before `fit`."""
        return None

    def fit(self, train: Any) -> None:
        """Learn classes or scales from the training rows whose values passed `inspect`."""
        raise NotImplementedError

    def check(self, split: str, rows: Any) -> None:
        """Refuse rows that passed `inspect` but do not fit what `fit` learned.

        Raises:
            DataError: names the rows, such as those of a class that train does not have.
        """

    def state(self) -> dict[str, Any]:
        """Return what `fit` learned, as JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""

    def labels(self) -> list[str] | None:
        """Class names in id order, or None."""
        return None

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """List decisions about these rows."""
        return []

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the model's configuration that the target decides."""
        raise NotImplementedError

    def prepare(self, loaded: Loaded) -> list[str]:
        """Initialise a new head; return a note for each parameter that was set."""
        return []

    # Model

    def encode(self, value: Any) -> Any:
        """Encode the value of one row in the form that the loss needs."""
        raise NotImplementedError

    def moving(self, row: Row) -> dict[str, Any]:
        """Return the parts of the target that augmentation moves with the input: name -> tv_tensor.

        The input augments them and puts them under the key MOVING of the item, where `encode_row` reads them.
        """
        return {}

    def encode_row(self, row: Row, item: Item) -> Item:
        """Return the entries that the target adds to an item, which already holds the inputs of the row."""
        return {self.key: self.encode(row[self.role])}

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Encode the targets of many rows at once, equal to `collate` of `encode_row`; None: row by row."""
        if rows.fingerprint not in self._values:
            self._values[rows.fingerprint] = rows.column(self.role)
        values = self._values[rows.fingerprint]
        return self.collate([{self.key: self.encode(values[index])} for index in indices])

    @property
    def supports_batch_encode(self) -> bool:
        """Whether `encode_batch` matches `encode_row` and `collate`; here it calls only `encode`."""
        return inherited_together(type(self), "encode_batch", "encode_row")

    def media(self, rows: Sequence[Row], *, preprocessed: bool) -> list[dict[str, torch.Tensor]] | None:
        """Decode the media of rows to uint8 tensors for `cache.decoded`, one for each of `media_roles`."""
        return [{} for _ in rows]

    def media_numbers(self, row: Row) -> int:
        """Count the uint8 values of all decoded media of a row, without decoding them."""
        return 0

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack the encoded values of B items: integers as int64, all others as float32."""
        import numpy as np
        import torch

        values = [item[self.key] for item in items]
        if torch.is_tensor(values[0]):
            return {self.key: torch.stack(values)}
        dtype = np.int64 if isinstance(values[0], int) else np.float32
        return {self.key: torch.from_numpy(np.asarray(values, dtype=dtype))}

    def mix(self, values: Sequence[Any], shares: Sequence[float]) -> Any:
        """Mix the encoded values of several items by the share of each."""
        raise NotImplementedError

    def loss(self, model: Any, answer: Any, batch: Batch) -> torch.Tensor:
        """Compute the loss of each row, float [B], summed over its tokens or boxes."""
        raise NotImplementedError

    def count(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each row in the mean loss, float [B]; 1 by default."""
        import torch

        return torch.ones(len(batch[self.key]), device=batch[self.key].device)

    def predict(self, model: Any, answer: Any, batch: Batch) -> list[Any]:
        """Reduce the answer to one small CPU result for each row."""
        raise NotImplementedError

    # Evaluation

    def references(self, rows: Any, indices: Sequence[int] | None = None) -> list[Any]:
        """Return the references of these rows, in order; `indices` None: of all rows."""
        raise NotImplementedError

    def has_loss(self, split: str) -> bool:
        """Tell whether rows of a split have a loss."""
        return True

    def summarize(self, results: Sequence[Any], references: Sequence[Any]) -> list[Any]:
        """Reduce large results to small ones with the help of the references."""
        return list(results)

    def groups(self, rows: Any) -> Sequence[Hashable] | None:
        """Return the group of each row where rows of a group are not independent, else None."""
        return None

    def metrics(self, extra: Sequence[str] = ()) -> Metrics:
        """Make the object that computes the metrics of one evaluation.

        Args:
            extra: `evaluate.extra`, names of further metrics.
        """
        raise NotImplementedError

    def baselines(self, train: Any, rows: Any) -> dict[str, list[Any]]:
        """Answer rows without the model: name in words -> one result for each row, the trivial one first."""
        return {}

    @property
    def fits_classical(self) -> bool:
        """Whether `fit_classical` gives a model."""
        return type(self).fit_classical is not Target.fit_classical

    def fit_classical(
        self, features: SimpleFeatures, references: Sequence[Any]
    ) -> Callable[[Any], list[Any]] | None:
        """Fit a classical model on training rows; return a function that answers rows, or None for no model.

        Args:
            features: features of the training rows.
            references: references of the same rows.
        """
        return None

    def calibrate(self, validation: Evaluation) -> list[str]:
        """Choose thresholds and the like on the validation rows; list what was chosen."""
        return []

    def decode(self, result: Any) -> dict[str, Any]:
        """Turn a result into readable values."""
        raise NotImplementedError

    def decode_reference(self, reference: Any) -> Any:
        """Turn a reference into a readable value."""
        return reference

    def describe(self, result: Any) -> str:
        """Write a result as one short line."""
        raise NotImplementedError

    def difference(self, a: Any, b: Any) -> float:
        """Return the largest absolute difference between the logits of two results."""
        return float(abs(a["logits"] - b["logits"]).max())

    def preview(self, row: Row, result: Any, reference: Any) -> Preview | None:
        """Show a row with the answer and the truth drawn into it, or None where they cannot be drawn."""
        return None

    def figures(self, evaluation: Evaluation, rows: Any) -> list[Figure]:
        """Draw the figures of an evaluation."""
        return []
