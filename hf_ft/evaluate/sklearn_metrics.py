"""Metrics over all rows, computed by scikit-learn and scipy; `formulas.py` has the fast formulas."""

from __future__ import annotations

import numpy as np


def classification(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Compute the metrics of single-label classification from class ids, int [N] each.

    Returns:
        accuracy, balanced_accuracy (mean recall over the classes among the references), macro_f1,
        macro_precision, macro_recall (means over the classes among references or predictions; 0 where a class
        was never predicted), weighted_f1 (weighted by the class's references), mcc (Gorodkin 2004; 0 where it
        is undefined).
    """
    from sklearn import metrics

    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        truth, predicted, average="macro", zero_division=0
    )
    present = np.unique(truth)
    recall_of_present = metrics.recall_score(
        truth, predicted, labels=present, average="macro", zero_division=0
    )
    return {
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        "balanced_accuracy": float(recall_of_present),
        "macro_f1": float(f1),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "weighted_f1": float(metrics.f1_score(truth, predicted, average="weighted", zero_division=0)),
        "mcc": float(metrics.matthews_corrcoef(truth, predicted)),
    }


def multilabel(given: np.ndarray, truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Compute the metrics of multi-label classification.

    Args:
        given: whether a label is predicted for a row, bool [N, K].
        truth: whether the row has the label, bool [N, K].
        scores: probabilities, float [N, K].

    Returns:
        micro_f1, macro_f1 (mean over all K labels; 0 for a label that no row has or gets), weighted_f1
        (weighted by the label's references), samples_f1 (mean over rows), macro_precision, macro_recall,
        subset_accuracy (share of rows whose labels are all right), hamming_loss (share of wrong decisions
        among N x K); and, if any label is true of some rows and not of all, over these labels: map (mean of
        the average precisions), roc_auc (mean area under the ROC curve).
    """
    from sklearn import metrics

    found = {
        f"{average}_f1": float(metrics.f1_score(truth, given, average=average, zero_division=0))
        for average in ("micro", "macro", "weighted", "samples")
    }
    for name, score in (("precision", metrics.precision_score), ("recall", metrics.recall_score)):
        found[f"macro_{name}"] = float(score(truth, given, average="macro", zero_division=0))
    found["subset_accuracy"] = float(metrics.accuracy_score(truth, given))
    found["hamming_loss"] = float(metrics.hamming_loss(truth, given))
    varies = np.flatnonzero(truth.min(axis=0) < truth.max(axis=0))
    for name, ranking in (("map", metrics.average_precision_score), ("roc_auc", metrics.roc_auc_score)):
        if len(varies):
            found[name] = float(np.mean([ranking(truth[:, k], scores[:, k]) for k in varies]))
    return found


def regression(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """Compute the metrics of regression from numbers in the unit of the target, float [N] each.

    Returns:
        mae and rmse; mape, a fraction, over the rows whose reference is not 0 (None where all are 0); r2 and
        explained_variance (None where the references do not vary); pearson and spearman (None where the
        references or the predictions do not vary).
    """
    from scipy import stats
    from sklearn import metrics

    counted = truth != 0
    varies = truth.min() < truth.max()
    both = varies and predicted.min() < predicted.max()
    return {
        "mae": float(metrics.mean_absolute_error(truth, predicted)),
        "rmse": float(metrics.root_mean_squared_error(truth, predicted)),
        "mape": (
            float(metrics.mean_absolute_percentage_error(truth[counted], predicted[counted]))
            if counted.any()
            else None
        ),
        "r2": float(metrics.r2_score(truth, predicted)) if varies else None,
        "explained_variance": (float(metrics.explained_variance_score(truth, predicted)) if varies else None),
        "pearson": float(stats.pearsonr(truth, predicted).statistic) if both else None,
        "spearman": float(stats.spearmanr(truth, predicted).statistic) if both else None,
    }
