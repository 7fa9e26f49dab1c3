"""What a trivial answer would score on the same rows: the figure a result has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ft.errors import DataError
from hf_ft.evaluate.metrics import ClassificationMetrics, RegressionMetrics
from hf_ft.evaluate.multilabel import MultilabelMetrics, indicator
from hf_ft.task import Metrics


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
    return _always(result, references, ClassificationMetrics(labels))


def prior_baseline(
    train_labels: Sequence[Sequence[int]], references: Sequence[Sequence[int]], labels: Sequence[str]
) -> dict[str, float]:
    """Score the answer that is always the most frequent label of train, and all labels of over half its rows.

    Its scores are the labels' frequencies among the training rows, the same for every row.

    Args:
        train_labels: label ids of each training row.
        references: label ids of each row to score on.
        labels: label names, in id order.

    Returns:
        metric -> value.

    Raises:
        DataError: there are no training rows.
    """
    if not len(train_labels):
        raise DataError("the frequencies of the labels need training rows, and there are none")
    prior = np.mean([indicator(ids, len(labels)) for ids in train_labels], axis=0)
    # A label is given where its score reaches this: the frequent ones always, the others never.
    metrics = MultilabelMetrics(labels, np.where(prior >= min(0.5, prior.max()), 0.0, 2.0).tolist())
    return _always({"scores": prior}, references, metrics)


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
    return _always(result, list(references), metrics)


def _always(result: Any, references: Sequence[Any], metrics: Metrics) -> dict[str, float]:
    """Score one answer that is given to every row."""
    metrics.update([result] * len(references), references)
    return {name: value for name, value in metrics.compute().items() if isinstance(value, float)}
