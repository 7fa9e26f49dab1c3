"""Tasks whose model says one thing about each row, in logits [B, K]: a class, several labels, or a number.

What is said, `self.target`, has the target's side of the contract (`_classes.py`, `_number.py`); the task is
left with what it is said about: pictures, texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_ft.task import Batch, Evaluation, Figure, Metrics, Task

if TYPE_CHECKING:
    import torch

    from hf_ft.targets.classes import SingleLabel
    from hf_ft.targets.numbers import Number


class TargetTask(Task):
    """A task with the role `label`, batches with the key `labels`, and a model that gives `logits`."""

    target: SingleLabel | Number

    def labels(self) -> list[str] | None:
        """Class names in id order; None for a number."""
        return self.target.labels()

    def loss(self, model: Any, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy, mean binary cross-entropy, or squared error of each row [B]."""
        return self.target.loss(outputs.logits.float(), batch["labels"], model.training)

    def count(self, batch: Batch) -> torch.Tensor:
        """What each row weighs in the mean [B]."""
        return self.target.count(batch["labels"])

    def predict(self, model: Any, outputs: Any, batch: Batch) -> list[Any]:
        """Scores and logits [K] of each row."""
        return self.target.predict(outputs.logits.float().cpu())

    # Evaluation

    def references(self, rows: Any, indices: Sequence[int] | None = None) -> list[Any]:
        """Class ids, lists of label ids, or numbers."""
        return self.target.references(rows.column("label", indices))

    def metrics(self) -> Metrics:
        """The metrics of this kind of answer."""
        return self.target.metrics(self.extra_metrics)

    def baseline(self, train: Any, rows: Any) -> dict[str, float]:
        """The most frequent class or label, or the mean, of the training rows."""
        return self.target.baseline(self.references(train), self.references(rows))

    def calibrate(self, validation: Evaluation) -> list[str]:
        """Several labels with `thresholds: tuned`: choose the threshold of each."""
        return self.target.calibrate(validation)

    def decode(self, result: Any) -> dict[str, Any]:
        """Label and score, labels, or value; and the scores of all classes."""
        return self.target.decode(result)

    def describe(self, result: Any) -> str:
        """The answer in a few words."""
        return self.target.describe(result)

    def decode_reference(self, reference: Any) -> Any:
        """The truth by name, or as a number."""
        return self.target.decode_reference(reference)

    def difference(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
        """Largest difference between two rows of logits."""
        return float(abs(a["logits"] - b["logits"]).max())

    def figures(self, evaluation: Evaluation) -> list[Figure]:
        """What is worth seeing of this kind of answer."""
        return self.target.figures(evaluation)
