"""Multi-label classification, as one `evaluate` module over scikit-learn.

Loaded by path, so that it works without a network (evaluate#315).
"""

import datasets
import evaluate
import numpy
import sklearn.metrics

_DESCRIPTION = """Micro, macro, weighted and samples F1, subset accuracy, Hamming loss, mean average
precision and ROC-AUC."""

_INPUTS = """
Args:
    predictions: 1 where a label is given to a row, else 0, int [N, K].
    references: 1 where a label is true of a row, else 0, int [N, K].
    prediction_scores: probabilities, float [N, K].

Returns:
    micro_f1, macro_f1 (mean over all K labels; 0 for a label neither true nor predicted), weighted_f1
    (weighted by the label's references), samples_f1 (mean over rows), macro_precision, macro_recall,
    subset_accuracy (rows whose labels are all right), hamming_loss (share of wrong answers, of N x K).
    map: mean over labels of the average precision; roc_auc: mean area under the ROC curve. Both are over
    the labels that are true of some rows and not of all, and None where there are none.
    absent: ids of the labels left out of map and roc_auc.
"""


class Multilabel(evaluate.Metric):
    """Metrics of label sets against label sets."""

    def _info(self) -> evaluate.MetricInfo:
        sets = datasets.List(datasets.Value("int8"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": sets,
                    "references": sets,
                    "prediction_scores": datasets.List(datasets.Value("float32")),
                }
            ),
        )

    def _compute(self, predictions: list, references: list, prediction_scores: list) -> dict:
        given, truth = numpy.asarray(predictions), numpy.asarray(references)
        scores = numpy.asarray(prediction_scores, dtype=numpy.float32)
        f1 = {
            f"{average}_f1": float(sklearn.metrics.f1_score(truth, given, average=average, zero_division=0))
            for average in ("micro", "macro", "weighted", "samples")
        }
        varies = truth.min(axis=0) < truth.max(axis=0)
        counted = numpy.flatnonzero(varies)
        precisions = [sklearn.metrics.average_precision_score(truth[:, k], scores[:, k]) for k in counted]
        areas = [sklearn.metrics.roc_auc_score(truth[:, k], scores[:, k]) for k in counted]
        return {
            **f1,
            "macro_precision": float(
                sklearn.metrics.precision_score(truth, given, average="macro", zero_division=0)
            ),
            "macro_recall": float(
                sklearn.metrics.recall_score(truth, given, average="macro", zero_division=0)
            ),
            "subset_accuracy": float(sklearn.metrics.accuracy_score(truth, given)),
            "hamming_loss": float(sklearn.metrics.hamming_loss(truth, given)),
            "map": float(numpy.mean(precisions)) if len(counted) else None,
            "roc_auc": float(numpy.mean(areas)) if len(counted) else None,
            "absent": numpy.flatnonzero(~varies).tolist(),
        }
