"""What a trivial answer would score on the same rows: the figure a result has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ft.errors import DataError
from hf_ft.evaluate.metrics import ClassificationMetrics, RegressionMetrics


def majority_baseline(
    train_classes: Sequence[int], references: Sequence[int], labels: Sequence[str]
) -> dict[str, float]:
    """Score the answer that is always the most frequent class of the training rows.

    Its scores are the class frequencies of the training rows, the same for every row.

    Args:
        train_classes: class ids of the training rows.
        references: class ids of the rows to score on.
        labels: class names, in id order.

    Returns:
        metric -> value.

    Raises:
        DataError: there are no training rows.
    """
    if not len(train_classes):
        raise DataError("the majority class needs training rows, and there are none")
    counts = np.bincount(np.asarray(train_classes), minlength=len(labels))
    result = {"class": int(counts.argmax()), "scores": counts / counts.sum()}
    metrics = ClassificationMetrics(labels)
    metrics.update([result] * len(references), references)
    return _scalars(metrics.compute())


def mean_baseline(
    train_values: np.ndarray, references: np.ndarray, metrics: RegressionMetrics
) -> dict[str, float]:
    """Score the answer that is always the mean of the training targets.

    Args:
        train_values: targets of the training rows, float [M, T], in original units.
        references: targets of the rows to score on, float [N, T].
        metrics: a fresh accumulator, with the units and scale of the task.

    Returns:
        metric -> value.

    Raises:
        DataError: there are no training rows.
    """
    if not len(train_values):
        raise DataError("the mean needs training rows, and there are none")
    result = {"value": np.asarray(train_values, dtype=np.float64).mean(axis=0)}
    metrics.update([result] * len(references), list(references))
    return _scalars(metrics.compute())


def _scalars(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float)}
