"""Metrics from counts and arrays alone, fast enough for the bootstrap; equal to scikit-learn's by test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def roc_area(ranks: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic (Hanley and McNeil 1982).

    That is the share of (positive, negative) pairs that the scores put in the right order, ties counting one
    half.

    Args:
        ranks: rank of each row's score, equal scores sharing one, int [N].
        positive: whether the row is of the class, bool [N].
        weight: how often the row counts, [N].
    """
    above = np.bincount(ranks, weights=weight * positive)
    below = np.bincount(ranks, weights=weight * ~positive)
    return float((above * (np.cumsum(below) - below / 2)).sum() / (above.sum() * below.sum()))


def average_precision(ranks: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Average precision: the sum of precisions, each times the recall that its score adds.

    Args:
        ranks: rank of each row's score, equal scores sharing one, int [N].
        positive: whether the row has the label, bool [N].
        weight: how often the row counts, [N].
    """
    found = np.cumsum(np.bincount(ranks, weights=weight * positive)[::-1])
    given = np.cumsum(np.bincount(ranks, weights=weight)[::-1])
    return float((np.diff(found, prepend=0.0) * ratio(found, given)).sum() / found[-1])


# Classification from a confusion matrix, int [K, K], rows the truth


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide element by element; 0 where the whole is 0."""
    quotient: np.ndarray = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return quotient


def _precision_recall_f1(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hits, truth, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return ratio(hits, predicted), ratio(hits, truth), ratio(2 * hits, truth + predicted)


def per_class(confusion: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Tabulate label, support, precision, recall and f1 of each class.

    Args:
        confusion: counts, int [K, K]; rows are the truth.
        labels: the K class names.
    """
    columns = zip(labels, confusion.sum(axis=1), *_precision_recall_f1(confusion), strict=True)
    return [
        {"label": label, "support": int(support), "precision": float(p), "recall": float(r), "f1": float(f)}
        for label, support, p, r, f in columns
    ]


def _macro(which: int) -> Callable[[np.ndarray], float]:
    def mean(confusion: np.ndarray) -> float:
        seen = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
        return float(_precision_recall_f1(confusion)[which][seen].mean())

    return mean


def _balanced_accuracy(confusion: np.ndarray) -> float:
    return float(_precision_recall_f1(confusion)[1][confusion.sum(axis=1) > 0].mean())


def _weighted_f1(confusion: np.ndarray) -> float:
    return float(np.average(_precision_recall_f1(confusion)[2], weights=confusion.sum(axis=1)))


def _mcc(confusion: np.ndarray) -> float:
    truth, predicted = confusion.sum(axis=1).astype(float), confusion.sum(axis=0).astype(float)
    total = truth.sum()
    spread = np.sqrt(total**2 - (truth**2).sum()) * np.sqrt(total**2 - (predicted**2).sum())
    return float((np.trace(confusion) * total - truth @ predicted) / spread) if spread > 0 else 0.0


FROM_CONFUSION: dict[str, Callable[[np.ndarray], float]] = {
    "accuracy": lambda confusion: float(np.trace(confusion) / confusion.sum()),
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro(2),
    "macro_precision": _macro(0),
    "macro_recall": _macro(1),
    "weighted_f1": _weighted_f1,
    "mcc": _mcc,
}


# Regression from predictions and truth, float [N, T]; NaN where a target leaves the value undefined


def _mape(predicted: np.ndarray, truth: np.ndarray) -> float:
    counted = truth != 0
    if not counted.any(axis=0).all():
        return float("nan")
    relative = np.abs(predicted - truth) / np.where(counted, np.abs(truth), 1)
    return float(np.average(relative, axis=0, weights=counted).mean())


def _r2(predicted: np.ndarray, truth: np.ndarray) -> float:
    return _explained(((truth - predicted) ** 2).mean(axis=0), truth)


def _explained_variance(predicted: np.ndarray, truth: np.ndarray) -> float:
    return _explained((truth - predicted).var(axis=0), truth)


def _explained(remaining: np.ndarray, truth: np.ndarray) -> float:
    if (truth.min(axis=0) == truth.max(axis=0)).any():
        return float("nan")
    return float((1 - remaining / truth.var(axis=0)).mean())


def _pearson(predicted: np.ndarray, truth: np.ndarray) -> float:
    if any((values.min(axis=0) == values.max(axis=0)).any() for values in (predicted, truth)):
        return float("nan")
    a, b = predicted - predicted.mean(axis=0), truth - truth.mean(axis=0)
    return float(((a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))).mean())


def _spearman(predicted: np.ndarray, truth: np.ndarray) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(predicted, axis=0), rankdata(truth, axis=0))


FROM_VALUES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mae": lambda predicted, truth: float(np.abs(predicted - truth).mean()),
    "rmse": lambda predicted, truth: float(np.sqrt(((predicted - truth) ** 2).mean(axis=0)).mean()),
    "mape": _mape,
    "r2": _r2,
    "explained_variance": _explained_variance,
    "pearson": _pearson,
    "spearman": _spearman,
}
