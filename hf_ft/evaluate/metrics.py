"""Metrics of classification and regression: accumulators that implement the protocol `hf_ft.task.Metrics`.

`compute` uses scikit-learn. `value` computes the same numbers from counts, fast enough for a thousand
resamples of the bootstrap; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ft.errors import DataError, RecipeError
from hf_ft.evaluate import sklearn_metrics
from hf_ft.evaluate.extra_metrics import ExtraMetric
from hf_ft.evaluate.formulas import (
    FROM_COUNTS,
    FROM_VALUES,
    ClassCounts,
    per_class,
    roc_area,
    roc_area_of_all,
)
from hf_ft.evaluate.metric_arrays import Column, RowMetrics, Scores, check_finite, same_length

# metric -> whether a greater value is better.
CLASSIFICATION_DIRECTIONS = {
    "loss": False,
    "accuracy": True,
    "balanced_accuracy": True,
    "macro_f1": True,
    "macro_precision": True,
    "macro_recall": True,
    "weighted_f1": True,
    "mcc": True,
    "roc_auc": True,
}
REGRESSION_DIRECTIONS = {
    "loss": False,
    "mae": False,
    "rmse": False,
    "mape": False,
    "r2": True,
    "explained_variance": True,
    "pearson": True,
    "spearman": True,
    "mase": False,
}


class ClassificationMetrics(RowMetrics):
    """Metrics of single-label classification.

    A result is `{"class": int, "scores": float32 [K]}` with probabilities; a reference is an int class id.
    Averages follow scikit-learn: macro means are over the classes among references or predictions, balanced
    accuracy is over those among the references, and a class that is never predicted has precision 0.

    Args:
        labels: the K class names, in id order.
        extra: further metrics: names on the Hub, or paths of `evaluate` modules.

    Raises:
        RecipeError: an extra metric cannot be loaded.
    """

    def __init__(self, labels: Sequence[str], extra: Sequence[str] = ()):
        self.labels = list(labels)
        self.extra = [ExtraMetric(name) for name in extra]
        super().__init__(
            classes=Column(np.int64), references=Column(np.int64), scores=Scores(len(self.labels))
        )

    def update(self, results: Sequence[Any], references: Sequence[Any]) -> None:
        """Add B results and their B references."""
        same_length(results, references)
        if not len(results):
            return
        predicted, references = [result["class"] for result in results], list(references)
        for kind, ids in (("reference", references), ("result", predicted)):
            wrong = [klass for klass in ids if not 0 <= klass < len(self.labels)]
            if wrong:
                raise DataError(f"a {kind} is class id {wrong[0]}; expected 0 to {len(self.labels) - 1}")
        self.columns["classes"].add(predicted)
        self.columns["references"].add(references)
        self.columns["scores"].add([result["scores"] for result in results])

    def compute(self) -> dict[str, Any]:
        """Return every metric over all rows seen.

        Returns:
            The scalars of CLASSIFICATION_DIRECTIONS without `loss` (`roc_auc` only where it is defined) and
            those of the extra metrics; the table `per_class` (label, support, precision, recall, f1);
            `confusion` (K lists of K counts; rows are the truth) and `notes` (what was left out).

        Raises:
            TrainError: scores are not finite.
        """
        predicted, truth, scores = self._arrays()
        metrics: dict[str, Any] = dict(sklearn_metrics.classification(predicted, truth))
        area = self._roc_auc(None)
        if not np.isnan(area):
            metrics["roc_auc"] = area
        metrics |= _extra_values(self.extra, set(metrics), predicted, truth, scores)
        classes = len(self.labels)
        pairs = np.bincount(truth * classes + predicted, minlength=classes * classes)
        return {
            **metrics,
            "per_class": per_class(ClassCounts.of(predicted, truth, classes), self.labels),
            "tables": {"per_class": "by class"},
            "confusion": pairs.reshape(classes, classes).tolist(),
            "notes": self._notes(),
        }

    def value(self, name: str, rows: np.ndarray | None = None) -> float:
        """Return one metric over the rows seen, or over a selection of them (indices, repeats allowed).

        Returns:
            The value; NaN where it is undefined on these rows (ROC-AUC with references of one class).

        Raises:
            RecipeError: there is no such metric.
            TrainError: scores are not finite.
        """
        if name == "roc_auc":
            return self._roc_auc(rows)
        predicted, truth, scores = self._arrays()
        if rows is not None:
            predicted, truth = predicted[rows], truth[rows]
        if name in FROM_COUNTS:
            return FROM_COUNTS[name](ClassCounts.of(predicted, truth, len(self.labels)))
        known = list(CLASSIFICATION_DIRECTIONS)[1:]
        chosen = scores if rows is None else scores[rows]
        return _extra_value(self.extra, name, known, predicted, truth, chosen)

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        predicted, truth, scores = (
            self.columns[name].array() for name in ("classes", "references", "scores")
        )
        check_finite(self.columns["scores"])
        return predicted, truth, scores

    def _roc_auc(self, rows: np.ndarray | None) -> float:
        _, truth, scores = self._arrays()
        weight, count = self.columns["scores"].selection_counts(rows), len(self.labels)
        present = np.flatnonzero(np.bincount(truth, weights=weight, minlength=count))
        if len(present) < 2:
            return float("nan")
        positives = [1] if count == 2 else present
        if rows is None:
            areas = [roc_area_of_all(scores[:, klass], truth == klass) for klass in positives]
        else:
            ranks = self.columns["scores"].ranks()
            areas = [roc_area(ranks[klass], truth == klass, weight) for klass in positives]
        return float(np.mean(areas))

    def _notes(self) -> list[str]:
        present = np.bincount(self.columns["references"].array(), minlength=len(self.labels)) > 0
        if present.sum() < 2:
            return ["roc_auc is left out: the references hold fewer than two classes"]
        if not present.all():
            absent = [label for label, there in zip(self.labels, present, strict=True) if not there]
            more = ", ..." if len(absent) > 5 else ""
            named = ", ".join(absent[:5]) + more
            return [f"{len(absent)} of {len(self.labels)} classes have no reference here: {named}"]
        return []


class RegressionMetrics(RowMetrics):
    """Metrics of regression, in the original units.

    A result is `{"value": float [T]}`, a reference is float [T]. With several targets a metric is the mean
    over the targets; where their units differ, a mean of MAE or RMSE has no meaning: they exist per target
    only.

    Args:
        targets: the T names.
        units: the T units ("°C", "" for none).
        scale: the naive forecast's mean absolute error on the training data, float [T], for MASE
            (Hyndman and Koehler 2006); None: no MASE.
        extra: further metrics: names on the Hub, or paths of `evaluate` modules; for one target only.

    Raises:
        RecipeError: an extra metric cannot be loaded, or there are several targets.
        DataError: a scale is not positive.
    """

    def __init__(
        self,
        targets: Sequence[str],
        units: Sequence[str] | None = None,
        scale: Sequence[float] | None = None,
        extra: Sequence[str] = (),
    ):
        self.targets = list(targets)
        self.units = list(units) if units is not None else [""] * len(self.targets)
        self.scale = None if scale is None else np.asarray(scale, dtype=np.float64)
        if self.scale is not None and not (self.scale > 0).all():
            raise DataError(
                f"the naive forecast's error on the training data is {self.scale.tolist()}; MASE needs it "
                f"above 0 (a target that never changes cannot be scaled)"
            )
        if extra and len(self.targets) > 1:
            raise RecipeError(
                f"evaluate.extra: needs a single target, found {len(self.targets)}; remove the key"
            )
        self.extra = [ExtraMetric(name) for name in extra]
        shape = (len(self.targets),)
        super().__init__(values=Column(np.float64, shape), references=Column(np.float64, shape))

    def update(self, results: Sequence[Any], references: Sequence[Any]) -> None:
        """Add B results and their B references."""
        same_length(results, references)
        if len(results):
            self.columns["values"].add([result["value"] for result in results])
            self.columns["references"].add(list(references))

    def compute(self) -> dict[str, Any]:
        """Return every metric over all rows seen.

        Returns:
            The scalars of REGRESSION_DIRECTIONS without `loss`, each only where it is defined; those of the
            extra metrics; the table `per_target` (target, unit and its own metrics) and `notes` (sentences on
            what was left out).

        Raises:
            TrainError: predictions are not finite.
        """
        predicted, truth = self._arrays()
        rows = [self._target_metrics(index, predicted, truth) for index in range(len(self.targets))]
        notes = [
            f"mape of {row['target']} leaves out {row['zeros']} of {len(truth)} rows, whose reference is 0"
            for row in rows
            if row["zeros"]
        ]
        metrics: dict[str, Any] = {}
        for name in self._names():
            values = [row[name] for row in rows]
            if None in values:
                notes.append(f"{name} is left out: it is undefined for {self.targets[values.index(None)]}")
            else:
                metrics[name] = float(np.mean(values))
        if self._units_differ():
            notes.append("mae and rmse are given per target only: the units of the targets differ")
        metrics |= _extra_values(self.extra, set(metrics), predicted[:, 0], truth[:, 0], None)
        return {**metrics, "per_target": rows, "tables": {"per_target": "by target"}, "notes": notes}

    def _target_metrics(self, index: int, predicted: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
        """Compute the metrics of one target with scikit-learn."""
        found = sklearn_metrics.regression(predicted[:, index], truth[:, index])
        row = {"target": self.targets[index], "unit": self.units[index], **found}
        row["zeros"] = int((truth[:, index] == 0).sum())
        if self.scale is not None:
            row["mase"] = float(np.abs(predicted - truth)[:, index].mean() / self.scale[index])
        return row

    def value(self, name: str, rows: np.ndarray | None = None) -> float:
        """Return one metric over the rows seen, or over a selection of them (indices, repeats allowed).

        Returns:
            The value; NaN where it is undefined on these rows.

        Raises:
            RecipeError: there is no such metric.
            TrainError: predictions are not finite.
        """
        predicted, truth = self._arrays()
        if rows is not None:
            predicted, truth = predicted[rows], truth[rows]
        if name not in self._names():
            return _extra_value(self.extra, name, self._names(), predicted[:, 0], truth[:, 0], None)
        if name == "mase":
            return float(np.mean(np.abs(predicted - truth).mean(axis=0) / self.scale))
        return FROM_VALUES[name](predicted, truth)

    def _names(self) -> list[str]:
        left_out = {"loss"} | (set() if self.scale is not None else {"mase"})
        left_out |= {"mae", "rmse"} if self._units_differ() else set()
        return [name for name in REGRESSION_DIRECTIONS if name not in left_out]

    def _units_differ(self) -> bool:
        return len(set(self.units)) > 1

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        predicted, truth = self.columns["values"].array(), self.columns["references"].array()
        check_finite(self.columns["values"])
        return predicted, truth


def _extra_values(
    extra: Sequence[ExtraMetric],
    taken: set[str],
    predicted: np.ndarray,
    truth: np.ndarray,
    scores: np.ndarray | None,
) -> dict[str, float]:
    values: dict[str, float] = {}
    for metric in extra:
        found = metric.compute(predicted, truth, scores)
        double = sorted((taken | set(values)) & set(found))
        if double:
            raise RecipeError(
                f"evaluate.extra: {metric.name!r} gives {double[0]!r}, which is already computed; remove it"
            )
        values |= found
    return values


def _extra_value(
    extra: Sequence[ExtraMetric],
    name: str,
    known: Sequence[str],
    predicted: np.ndarray,
    truth: np.ndarray,
    scores: np.ndarray | None,
) -> float:
    values = _extra_values(extra, set(), predicted, truth, scores)
    if name not in values:
        found = ", ".join([*known, *values])
        raise RecipeError(f"evaluate.metric: there is no metric {name!r}; found: {found}")
    return values[name]
