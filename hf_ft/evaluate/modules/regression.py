"""Regression in the units of the target, as an `evaluate` module over scikit-learn."""

import datasets
import evaluate
import numpy
import scipy.stats
import sklearn.metrics

_DESCRIPTION = """MAE, RMSE, MAPE, R2, explained variance, Pearson's and Spearman's correlation, and MASE
where the scale of a naive error is given."""

_INPUTS = """
Args:
    predictions: float [N], in the units of the target.
    references: float [N].
    scale: mean absolute error of the naive forecast on the training data, for MASE; leave out for no MASE.

Returns:
    mae, rmse: in the units of the target.
    mape: a fraction, over the rows whose reference is not 0; None where all are 0.
    zeros: rows left out of mape because their reference is 0.
    r2, explained_variance: None where the references do not vary.
    pearson, spearman: None where the references or the predictions do not vary.
    mase: mae / scale (Hyndman and Koehler 2006), with `scale` alone.
"""


class Regression(evaluate.Metric):
    """Metrics of numbers against numbers."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions: list, references: list, scale: float | None = None) -> dict:
        predicted = numpy.asarray(predictions)
        truth = numpy.asarray(references)
        counted = truth != 0
        varies = truth.min() < truth.max()
        both = varies and predicted.min() < predicted.max()
        mae = float(sklearn.metrics.mean_absolute_error(truth, predicted))
        values = {
            "mae": mae,
            "rmse": float(sklearn.metrics.root_mean_squared_error(truth, predicted)),
            "mape": (
                float(sklearn.metrics.mean_absolute_percentage_error(truth[counted], predicted[counted]))
                if counted.any()
                else None
            ),
            "zeros": int((~counted).sum()),
            "r2": float(sklearn.metrics.r2_score(truth, predicted)) if varies else None,
            "explained_variance": (
                float(sklearn.metrics.explained_variance_score(truth, predicted)) if varies else None
            ),
            "pearson": float(scipy.stats.pearsonr(truth, predicted).statistic) if both else None,
            "spearman": float(scipy.stats.spearmanr(truth, predicted).statistic) if both else None,
        }
        return values if scale is None else {**values, "mase": mae / scale}
