"""Fast formulas of the metrics for the bootstrap; tests compare them with scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


def roc_area(ranks: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Compute the area under the ROC curve as the Mann-Whitney statistic (Hanley and McNeil 1982).

    It is the share of (positive, negative) pairs that the scores put in the right order; a tie counts one
    half.

    Args:
        ranks: rank of each row's score, equal for equal scores, int [N].
        positive: whether the row is of the class, bool [N].
        weight: how often the row counts, [N].
    """
    above = np.bincount(ranks, weights=weight * positive)
    below = np.bincount(ranks, weights=weight * ~positive)
    return float((above * (np.cumsum(below) - below / 2)).sum() / (above.sum() * below.sum()))


def roc_area_of_all(scores: np.ndarray, positive: np.ndarray) -> float:
    """Compute `roc_area` with every row counted once, several times faster where positives are few.

    Args:
        scores: of each row, float [N].
        positive: whether the row is of the class, bool [N].
    """
    ordered, own = np.sort(scores), scores[positive]
    # Twice the number of rows below each positive row, a tie counting one half; positive rows are subtracted.
    twice = np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")
    count = len(own)
    return float((twice.sum() - count**2) / 2 / (count * (len(scores) - count)))


def average_precision(ranks: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Compute average precision: the sum of the precisions at each score times the recall that it adds.

    Args:
        ranks: rank of each row's score, equal for equal scores, int [N].
        positive: whether the row has the label, bool [N].
        weight: how often the row counts, [N].
    """
    found = np.cumsum(np.bincount(ranks, weights=weight * positive)[::-1])
    given = np.cumsum(np.bincount(ranks, weights=weight)[::-1])
    return float((np.diff(found, prepend=0.0) * ratio(found, given)).sum() / found[-1])


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide element by element; 0 where the whole is 0."""
    quotient: np.ndarray = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return quotient


# Classification: all metrics except those of rankings follow from three counts per class.


@dataclass(frozen=True)
class ClassCounts:
    """Counts of rows by class.

    Args:
        hits: rows of the class that are predicted as the class, int [K].
        support: rows whose reference is the class, int [K].
        predicted: rows that are predicted as the class, int [K].
    """

    hits: np.ndarray
    support: np.ndarray
    predicted: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, truth: np.ndarray, classes: int) -> ClassCounts:
        """Count predicted against true class ids, int [N] each."""
        hits = truth[predicted == truth]
        return cls(*(np.bincount(ids, minlength=classes) for ids in (hits, truth, predicted)))

    @property
    def precision(self) -> np.ndarray:
        """Precision of each class [K]; 0 where it was never predicted."""
        return ratio(self.hits, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """Recall of each class [K]; 0 where it has no reference."""
        return ratio(self.hits, self.support)

    @property
    def f1(self) -> np.ndarray:
        """F1 of each class [K]."""
        return ratio(2 * self.hits, self.support + self.predicted)


def per_class(counts: ClassCounts, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return a table with label, support, precision, recall and f1 of each class.

    Args:
        counts: of the K classes.
        labels: the K class names.
    """
    columns = zip(labels, counts.support, counts.precision, counts.recall, counts.f1, strict=True)
    return [
        {"label": label, "support": int(support), "precision": float(p), "recall": float(r), "f1": float(f)}
        for label, support, p, r, f in columns
    ]


def _macro(counts: ClassCounts, values: np.ndarray) -> float:
    return float(values[(counts.support + counts.predicted) > 0].mean())


def _mcc(counts: ClassCounts) -> float:
    truth, predicted = counts.support.astype(float), counts.predicted.astype(float)
    total = truth.sum()
    spread = np.sqrt(total**2 - (truth**2).sum()) * np.sqrt(total**2 - (predicted**2).sum())
    if spread == 0:
        return 0.0
    # Rounding may give 1.0000000000000002.
    return float(np.clip((counts.hits.sum() * total - truth @ predicted) / spread, -1, 1))


FROM_COUNTS: dict[str, Callable[[ClassCounts], float]] = {
    "accuracy": lambda counts: float(counts.hits.sum() / counts.support.sum()),
    "balanced_accuracy": lambda counts: float(counts.recall[counts.support > 0].mean()),
    "macro_f1": lambda counts: _macro(counts, counts.f1),
    "macro_precision": lambda counts: _macro(counts, counts.precision),
    "macro_recall": lambda counts: _macro(counts, counts.recall),
    "weighted_f1": lambda counts: float(np.average(counts.f1, weights=counts.support)),
    "mcc": _mcc,
}


# Regression: from predictions and truth, float [N, T], to the mean over targets; NaN where a target makes it
# undefined.


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
