"""The base of all targets: what is learned of a row, whatever the row is.

A target takes what the model says of each row, its *answer*: the tensor under `ComposedTask.outputs`, [B, K]
logits or numbers for most. It knows nothing of how the input was read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hf_ft.recipe.schema import Empty, Section
from hf_ft.task import inherited_together

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.task import Batch, Evaluation, Figure, Item, Loaded, Metrics, Preview, Row, SimpleFeatures


class Target:
    """Base class of all targets. The methods of the same name in `hf_ft.task.Task` say more of each.

    Args:
        options: the recipe's section `task`, which has the keys of `Options` among others.
        loss: the recipe's section `loss`, which has the keys of `Loss` among others.
        role: the role whose values are learned.
        key: the key of what is encoded, in items and batches.
    """

    # What `task.problem` calls it, where a task has several.
    problem: ClassVar[str]
    # The keys of the recipe that this target brings into `task:` and `loss:`.
    Options: ClassVar[type[Section]] = Empty
    Loss: ClassVar[type[Section]] = Empty
    # As in Task.
    main_metric: str
    greater_is_better: Mapping[str, bool]
    headline_metrics: tuple[str, ...] = ()
    # Whether the values of the role are classes: splits keep their proportions, and the audit counts them.
    has_classes: ClassVar[bool] = False
    # Further keys that it brings into a batch, and the model is not called with.
    side_keys: ClassVar[tuple[str, ...]] = ()
    # Roles of the target whose media can be kept decoded, as in Task: a mask.
    media_roles: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: Any, loss: Any, role: str = "label", key: str = "labels"):
        self.options, self.loss_options = options, loss
        self.role, self.key = role, key
        # Values of the role by the fingerprint of the rows, for batches that are gathered.
        self._values: dict[str, list[Any]] = {}

    # Data

    def inspect(self, value: Any) -> str | None:
        """Say what is wrong with the value of one row, or None. Called before `fit`."""
        return None

    def fit(self, train: Any) -> None:
        """Learn from training rows whose values `inspect` finds right: classes, scales."""
        raise NotImplementedError

    def check(self, split: str, rows: Any) -> None:
        """Refuse rows, right as far as `inspect` sees, that do not fit what was learned."""

    def state(self) -> dict[str, Any]:
        """What `fit` learned, as JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""

    def labels(self) -> list[str] | None:
        """Class names in id order, or None."""
        return None

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """Say what was decided about these rows."""
        return []

    @property
    def config(self) -> dict[str, Any]:
        """What the model's configuration must say."""
        raise NotImplementedError

    def prepare(self, loaded: Loaded) -> list[str]:
        """Prepare a new head, and say so, one line each."""
        return []

    # Model

    def encode(self, value: Any) -> Any:
        """Turn the value of one row into what the loss compares with."""
        raise NotImplementedError

    def moving(self, row: Row) -> dict[str, Any]:
        """Give what of the target moves with the input under augmentation, as tv_tensors by a name.

        `encode_row` finds it, moved, under MOVING of the item.
        """
        return {}

    def encode_row(self, row: Row, item: Item) -> Item:
        """Give the entries that the target adds to an item, which holds the inputs of the row already."""
        return {self.key: self.encode(row[self.role])}

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Give what `collate` of `encode_row` gives, for rows that are gathered; None where it cannot."""
        if rows.fingerprint not in self._values:
            self._values[rows.fingerprint] = rows.column(self.role)
        values = self._values[rows.fingerprint]
        return self.collate([{self.key: self.encode(values[index])} for index in indices])

    @property
    def supports_batch_encode(self) -> bool:
        """Whether `encode_batch` does what `encode_row` and `collate` do; here it asks `encode` alone."""
        return inherited_together(type(self), "encode_batch", "encode_row")

    def media(self, rows: Sequence[Row], *, ready: bool) -> list[dict[str, torch.Tensor]] | None:
        """Decode the media of rows to uint8 tensors that can be kept, one for each of `media_roles`."""
        return [{} for _ in rows]

    def media_numbers(self, row: Row) -> int:
        """Count the numbers of a row's decoded media, without decoding them."""
        return 0

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack the encoded values of B items: whole numbers as int64, all others as float32."""
        import numpy as np
        import torch

        values = [item[self.key] for item in items]
        if torch.is_tensor(values[0]):
            return {self.key: torch.stack(values)}
        dtype = np.int64 if isinstance(values[0], int) else np.float32
        return {self.key: torch.from_numpy(np.asarray(values, dtype=dtype))}

    def mix(self, values: Sequence[Any], shares: Sequence[float]) -> Any:
        """Mix the encoded values of items that were mixed, given the share of each."""
        raise NotImplementedError

    def loss(self, model: Any, answer: Any, batch: Batch) -> torch.Tensor:
        """Give the loss of each row [B], summed over what it counts."""
        raise NotImplementedError

    def count(self, batch: Batch) -> torch.Tensor:
        """Give what each row counts in the mean [B]; 1 by default."""
        import torch

        return torch.ones(len(batch[self.key]), device=batch[self.key].device)

    def predict(self, model: Any, answer: Any, batch: Batch) -> list[Any]:
        """Reduce the answer to one small CPU result a row."""
        raise NotImplementedError

    # Evaluation

    def references(self, rows: Any, indices: Sequence[int] | None = None) -> list[Any]:
        """Give what the results of these rows are compared with, in order."""
        raise NotImplementedError

    def has_loss(self, split: str) -> bool:
        """Tell whether rows of a split have a loss."""
        return True

    def summarize(self, results: Sequence[Any], references: Sequence[Any]) -> list[Any]:
        """Reduce results to the small values that an evaluation keeps, where that takes the references."""
        return list(results)

    def groups(self, rows: Any) -> Sequence[Hashable] | None:
        """Give the group of each row where rows of a group are not independent, else None."""
        return None

    def metrics(self, extra: Sequence[str] = ()) -> Metrics:
        """Give a fresh accumulator.

        Args:
            extra: further metrics that the recipe names.
        """
        raise NotImplementedError

    def baselines(self, train: Any, rows: Any) -> dict[str, list[Any]]:
        """Answer rows without the model: name in words -> a result for each row, the trivial one first."""
        return {}

    def fit_classical(
        self, features: SimpleFeatures, references: Sequence[Any]
    ) -> Callable[[Any], list[Any]] | None:
        """Fit a classical model on training rows, and give what answers rows with it; None: there is none.

        Args:
            features: of the training rows.
            references: of the same rows.
        """
        return None

    def calibrate(self, validation: Evaluation) -> list[str]:
        """Choose on the validation rows what turns scores into answers, and say so, one line each."""
        return []

    def decode(self, result: Any) -> dict[str, Any]:
        """Give what a person reads of a result."""
        raise NotImplementedError

    def decode_reference(self, reference: Any) -> Any:
        """Give a reference as a person reads it."""
        return reference

    def describe(self, result: Any) -> str:
        """Give a result as one short line."""
        raise NotImplementedError

    def difference(self, a: Any, b: Any) -> float:
        """Give the largest absolute difference between two results: here of their logits."""
        return float(abs(a["logits"] - b["logits"]).max())

    def preview(self, row: Row, result: Any, reference: Any) -> Preview | None:
        """Show a row with what was answered and what is true, where that can be drawn into it."""
        return None

    def figures(self, evaluation: Evaluation, rows: Any) -> list[Figure]:
        """Draw what is worth seeing about an evaluation."""
        return []
