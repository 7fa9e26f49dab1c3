"""Area under the ROC curve from the scores of all classes, as an `evaluate` module over scikit-learn."""

import datasets
import evaluate
import numpy
import sklearn.metrics

_DESCRIPTION = """ROC-AUC: binary, or the mean of one class against the rest."""

_INPUTS = """
Args:
    predictions: scores of all K classes, float [N, K].
    references: class ids, int [N].

Returns:
    roc_auc: for K = 2 the area with class 1 as the positive one; for K > 2 the mean, over the classes among
        the references, of each class against the rest. None where fewer than two classes are among them.
    classes: how many classes the mean is over.
    absent: ids of the classes that are not among the references, and so are not part of the mean.
"""


class RocAuc(evaluate.Metric):
    """ROC-AUC over scores, explicit about classes without a reference."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: list, references: list) -> dict:
        scores = numpy.asarray(predictions, dtype=numpy.float32)
        truth = numpy.asarray(references)
        count = scores.shape[1]
        present = numpy.unique(truth)
        absent = [klass for klass in range(count) if klass not in present]
        if len(present) < 2:
            return {"roc_auc": None, "classes": 0, "absent": absent}
        positives = [1] if count == 2 else present.tolist()
        areas = [sklearn.metrics.roc_auc_score(truth == klass, scores[:, klass]) for klass in positives]
        return {"roc_auc": float(numpy.mean(areas)), "classes": len(positives), "absent": absent}
