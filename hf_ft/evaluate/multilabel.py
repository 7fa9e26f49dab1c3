"""Multi-label classification: metrics, and thresholds that are chosen on validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ft.errors import DataError, RecipeError
from hf_ft.evaluate import sklearn_metrics
from hf_ft.evaluate.formulas import average_precision, ratio, roc_area
from hf_ft.evaluate.metric_arrays import Column, RowMetrics, Scores, check_finite, same_length
from hf_ft.text_utils import listing

# metric -> whether a greater value is better.
MULTILABEL_DIRECTIONS = {
    "loss": False,
    "micro_f1": True,
    "macro_f1": True,
    "weighted_f1": True,
    "samples_f1": True,
    "macro_precision": True,
    "macro_recall": True,
    "subset_accuracy": True,
    "hamming_loss": False,
    "map": True,
    "roc_auc": True,
}
# With fewer positive rows than this, the best threshold of a label is chance; rare labels share a threshold.
FEWEST_POSITIVES = 10


class MultilabelMetrics(RowMetrics):
    """Metrics of multi-label classification.

    A result is `{"scores": float32 [K]}` with a probability for each label; a reference is the list of the
    ids of the row's labels, which may be empty. A row gets a label if its score reaches the label's
    threshold.

    Args:
        labels: the K label names, in id order.
        thresholds: float [K].
        extra: must be empty; metrics of the Hub take one class per row.

    Raises:
        RecipeError: extra metrics are named.
    """

    def __init__(self, labels: Sequence[str], thresholds: Sequence[float], extra: Sequence[str] = ()):
        if extra:
            raise RecipeError(
                f"evaluate.extra: {extra[0]!r} cannot be measured on several labels per row; remove it and "
                f"use one of {', '.join(MULTILABEL_DIRECTIONS)}"
            )
        self.labels = list(labels)
        self.thresholds = np.asarray(thresholds, dtype=np.float32)
        super().__init__(references=Column(np.bool_, (len(self.labels),)), scores=Scores(len(self.labels)))

    def update(self, results: Sequence[Any], references: Sequence[Any]) -> None:
        """Add B results and their B references."""
        same_length(results, references)
        if not len(results):
            return
        self.columns["references"].add([indicator(ids, len(self.labels)) for ids in references])
        self.columns["scores"].add([result["scores"] for result in results])

    def compute(self) -> dict[str, Any]:
        """Return every metric over all rows seen.

        Returns:
            The scalars of MULTILABEL_DIRECTIONS without `loss` (`map` and `roc_auc` only where they are
            defined), the table `per_class` (label, support, threshold, precision, recall, f1), and `notes`.

        Raises:
            TrainError: scores are not finite.
        """
        given, truth, scores = self._arrays()
        return {
            **sklearn_metrics.multilabel(given, truth, scores),
            "per_class": self._per_label(given, truth),
            "tables": {"per_class": "by label"},
            "notes": self._notes(truth),
        }

    def value(self, name: str, rows: np.ndarray | None = None) -> float:
        """Return one metric over the rows seen, or over a selection of them (indices, repeats allowed).

        Returns:
            The value; NaN where it is undefined on these rows.

        Raises:
            RecipeError: there is no such metric.
            TrainError: scores are not finite.
        """
        given, truth, _ = self._arrays()
        if name in ("map", "roc_auc"):
            return self._ranking(name, rows)
        if rows is not None:
            given, truth = given[rows], truth[rows]
        if name == "subset_accuracy":
            return float((given == truth).all(axis=1).mean())
        if name == "hamming_loss":
            return float((given != truth).mean())
        hits, predicted, support = (given & truth).sum(axis=0), given.sum(axis=0), truth.sum(axis=0)
        if name == "micro_f1":
            return float(ratio(2 * hits.sum(keepdims=True), (predicted + support).sum(keepdims=True))[0])
        if name == "macro_f1":
            return float(ratio(2 * hits, predicted + support).mean())
        if name == "weighted_f1":
            return float(ratio(2 * hits, predicted + support) @ support / max(1, support.sum()))
        if name == "samples_f1":
            sizes = given.sum(axis=1) + truth.sum(axis=1)
            return float(ratio(2 * (given & truth).sum(axis=1), sizes).mean())
        if name == "macro_precision":
            return float(ratio(hits, predicted).mean())
        if name == "macro_recall":
            return float(ratio(hits, support).mean())
        raise RecipeError(
            f"evaluate.metric: there is no metric {name!r}; found: {', '.join(MULTILABEL_DIRECTIONS)}"
        )

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores, truth = self.columns["scores"].array(), self.columns["references"].array()
        check_finite(self.columns["scores"])
        return scores >= self.thresholds, truth, scores

    def _ranking(self, name: str, rows: np.ndarray | None) -> float:
        """Compute `map` or `roc_auc`: the mean over labels of a metric of the ranking."""
        truth, weight = self.columns["references"].array(), self.columns["scores"].selection_counts(rows)
        support = weight @ truth
        counted = np.flatnonzero((support > 0) & (support < weight.sum()))
        if not len(counted):
            return float("nan")
        formula, ranks = average_precision if name == "map" else roc_area, self.columns["scores"].ranks()
        return float(np.mean([formula(ranks[label], truth[:, label], weight) for label in counted]))

    def _per_label(self, given: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
        hits, predicted, support = (given & truth).sum(axis=0), given.sum(axis=0), truth.sum(axis=0)
        columns = zip(
            self.labels,
            support,
            self.thresholds,
            ratio(hits, predicted),
            ratio(hits, support),
            ratio(2 * hits, predicted + support),
            strict=True,
        )
        names = ("label", "support", "threshold", "precision", "recall", "f1")
        kinds = (str, int, float, float, float, float)
        return [
            {name: kind(value) for name, kind, value in zip(names, kinds, row, strict=True)}
            for row in columns
        ]

    def _notes(self, truth: np.ndarray) -> list[str]:
        absent = np.flatnonzero(truth.min(axis=0) == truth.max(axis=0))
        if not len(absent):
            return []
        named = listing([self.labels[label] for label in absent], 5)
        return [
            f"map and roc_auc leave out {len(absent)} of {len(self.labels)} labels, which none or all of the "
            f"rows have: {named}"
        ]


def indicator(ids: Sequence[int], labels: int) -> np.ndarray:
    """Turn label ids into an indicator, bool [K], that is True at each of them.

    Raises:
        DataError: an id is out of range.
    """
    wrong = [label for label in ids if not 0 <= label < labels]
    if wrong:
        raise DataError(f"a reference has the label id {wrong[0]}; expected 0 to {labels - 1}")
    row = np.zeros(labels, dtype=bool)
    row[list(ids)] = True
    return row


def tune_thresholds(scores: np.ndarray, truth: np.ndarray, rarest: int = FEWEST_POSITIVES) -> list[float]:
    """Choose for each label the threshold with the best F1 on these rows.

    The search per label is the SCut of Yang (2001), "A study of thresholding strategies for text
    categorization". It overfits on rare labels, where a few rows decide. Labels with fewer than `rarest`
    positive rows therefore share one threshold: that with their best micro-F1. A threshold lies half-way
    between two scores; of equally good thresholds, the one nearest to 0.5 is taken.

    Args:
        scores: probabilities, float [N, K].
        truth: bool [N, K].
        rarest: a label with fewer positive rows is rare.

    Returns:
        K thresholds.
    """
    rare = truth.sum(axis=0) < rarest
    thresholds = np.empty(scores.shape[1])
    if rare.any():
        thresholds[rare] = _best_threshold(scores[:, rare].ravel(), truth[:, rare].ravel())
    for label in np.flatnonzero(~rare):
        thresholds[label] = _best_threshold(scores[:, label], truth[:, label])
    return [float(threshold) for threshold in thresholds]


def _best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the cut between two different scores that has the best F1; 0.5 where no row is positive."""
    if not truth.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    last = np.append(ordered[:-1] > ordered[1:], True)  # a cut must not separate equal scores
    hits = np.cumsum(truth[order])[last]
    given = np.flatnonzero(last) + 1
    f1 = 2 * hits / (given + truth.sum())
    cuts = (ordered[last] + np.append(ordered[1:], 0.0)[last]) / 2
    best = np.flatnonzero(np.isclose(f1, f1.max(), rtol=0, atol=1e-12))
    return float(cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]])
