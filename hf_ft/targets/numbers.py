"""A target that is one number; the counterpart of `_classes.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.errors import DataError
from hf_ft.evaluate.metrics import REGRESSION_DIRECTIONS
from hf_ft.task import Evaluation, Figure, Metrics
from hf_ft.text_utils import listing

if TYPE_CHECKING:
    import torch


class Number:
    """One number: squared error, learned on the standardised scale, measured in original units.

    Args:
        name: what the number is called.
        standardise: learn (y - mean) / deviation of the training rows, in place of y itself.
    """

    problem, main_metric, greater_is_better = "regression", "rmse", REGRESSION_DIRECTIONS
    class_role: str | None = None
    headline_metrics: tuple[str, ...] = ("mae", "r2", "pearson", "spearman")
    baseline_name = "always the mean of train"

    def __init__(self, name: str, standardise: bool = True):
        self.name, self.standardise = name, standardise
        self.mean, self.deviation = 0.0, 1.0

    def fit(self, values: Sequence[Any], ids: Sequence[str]) -> None:
        """Learn the mean and the deviation of the training numbers."""
        self.check("train", values, ids)
        numbers = np.asarray(values, dtype=np.float64)
        if numbers.std() == 0:
            raise DataError(f"train: every row has the number {numbers[0]:g}; there is nothing to learn")
        if self.standardise:
            self.mean, self.deviation = float(numbers.mean()), float(numbers.std())

    def check(self, split: str, values: Sequence[Any], ids: Sequence[str]) -> None:
        """Refuse what is not a finite number."""
        wrong = [
            f"{row}: {value!r}"
            for row, value in zip(ids, values, strict=True)
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value)
        ]
        if wrong:
            raise DataError(
                f"{split}: {len(wrong)} rows have no finite number as their label: {listing(wrong, 3)}. Mend "
                "or remove them, or write task.problem: single-label if these are classes"
            )

    def state(self) -> dict[str, Any]:
        """The scale."""
        return {"target": self.name, "mean": self.mean, "deviation": self.deviation}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.name, self.mean, self.deviation = state["target"], state["mean"], state["deviation"]

    def labels(self) -> list[str] | None:
        """A number has no classes."""
        return None

    @property
    def config(self) -> dict[str, Any]:
        """What the model's configuration must say."""
        return {"num_labels": 1, "problem_type": "regression"}

    def encode(self, value: Any) -> float:
        """The number on the scale that is learned."""
        return (float(value) - self.mean) / self.deviation

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
        """Squared error of each row [B], on the scale that is learned."""
        return (logits[:, 0] - labels) ** 2

    def count(self, labels: torch.Tensor) -> torch.Tensor:
        """Every row counts once [B]."""
        return labels.new_ones(len(labels))

    def predict(self, logits: torch.Tensor) -> list[dict[str, Any]]:
        """The number in its own units [1], and the model's output [1]."""
        values = logits.double().numpy() * self.deviation + self.mean
        return [
            {"value": value, "logits": logit} for value, logit in zip(values, logits.numpy(), strict=True)
        ]

    def references(self, values: Sequence[Any]) -> list[Any]:
        """The numbers, each as [1]."""
        return [[float(value)] for value in values]

    def metrics(self, extra: Sequence[str]) -> Metrics:
        """MAE, RMSE, R2, correlations, in the number's own units."""
        from hf_ft.evaluate.metrics import RegressionMetrics

        return RegressionMetrics([self.name], extra=extra)

    def baseline(self, train: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Always the mean of the training rows."""
        from hf_ft.evaluate.baselines import mean_baseline
        from hf_ft.evaluate.metrics import RegressionMetrics

        return mean_baseline(np.asarray(train), np.asarray(references), RegressionMetrics([self.name]))

    def calibrate(self, validation: Evaluation) -> list[str]:
        """A number needs no threshold."""
        return []

    def decode(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The number."""
        return {"value": float(result["value"][0])}

    def decode_reference(self, reference: Any) -> Any:
        """The number."""
        return float(reference[0])

    def describe(self, result: Mapping[str, Any]) -> str:
        """The number, short."""
        return f"{float(result['value'][0]):.4g}"

    def figures(self, evaluation: Evaluation) -> list[Figure]:
        """Predictions against the truth."""
        from hf_ft.evaluate.figures import scatter_figure

        predicted = np.asarray([result["value"][0] for result in evaluation.results])
        return [scatter_figure(predicted, np.asarray(evaluation.references)[:, 0], self.name)]
