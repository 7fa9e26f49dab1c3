"""Single-label classification, as one `evaluate` module over scikit-learn.

Loaded by path, so that it works without a network (evaluate#315). One import per line: `evaluate` reads the
imports of a module line by line before running it.
"""

import datasets
import evaluate
import sklearn.metrics

_DESCRIPTION = """Accuracy, balanced accuracy, macro and weighted averages, and Matthews' correlation
coefficient."""

_INPUTS = """
Args:
    predictions: class ids, int [N].
    references: class ids, int [N].

Returns:
    accuracy, balanced_accuracy (mean recall over the classes among the references), macro_f1,
    macro_precision, macro_recall (means over the classes among references or predictions; 0 where a class was
    never predicted), weighted_f1 (weighted by the class's references), mcc (Gorodkin 2004; 0 where it is
    undefined).
"""


class Classification(evaluate.Metric):
    """Metrics of class ids against class ids."""

    def _info(self) -> evaluate.MetricInfo:
        integer = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": integer, "references": integer}),
        )

    def _compute(self, predictions: list, references: list) -> dict:
        precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
            references, predictions, average="macro", zero_division=0
        )
        recalls = sklearn.metrics.recall_score(
            references, predictions, labels=sorted(set(references)), average="macro", zero_division=0
        )
        return {
            "accuracy": float(sklearn.metrics.accuracy_score(references, predictions)),
            "balanced_accuracy": float(recalls),
            "macro_f1": float(f1),
            "macro_precision": float(precision),
            "macro_recall": float(recall),
            "weighted_f1": float(
                sklearn.metrics.f1_score(references, predictions, average="weighted", zero_division=0)
            ),
            "mcc": float(sklearn.metrics.matthews_corrcoef(references, predictions)),
        }
