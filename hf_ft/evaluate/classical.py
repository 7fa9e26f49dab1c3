"""Classical models that a result is compared with, on features that need no pretrained network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hf_ft.task import SimpleFeatures

# Training rows that such a model sees at most, and rows times classes: its cost stays at a few seconds.
MOST_ROWS = 10_000
MOST_ROWS_TIMES_CLASSES = 1_000_000
# Inverse strength of the penalty of logistic regression; scikit-learn's default of 1 underfits TF-IDF, and
# overfits standardised features of which there are as many as rows.
_INVERSE_PENALTY = {"sparse linear": 10.0, "dense linear": 0.01}
# Training rows in a leaf of a boosted tree: scikit-learn's default from 400 rows on, fewer below, where trees
# could otherwise not split at all.
_LEAF = 20
# Iterations of the solver; standardised features need a few dozen.
_MOST_ITERATIONS = 200


def sample_rows(count: int, classes: int = 1) -> np.ndarray:
    """Choose the training rows that a classical model sees: all, or a fixed sample of many, int [M]."""
    most = max(1, min(MOST_ROWS, MOST_ROWS_TIMES_CLASSES // classes))
    if count <= most:
        return np.arange(count)
    chosen: np.ndarray = np.sort(np.random.default_rng(0).choice(count, most, replace=False))
    return chosen


def fit_classes(features: SimpleFeatures, truth: np.ndarray, classes: int) -> Callable[[Any], np.ndarray]:
    """Fit logistic regression, one class against the rest, or boosted trees.

    Args:
        features: of the training rows.
        truth: class ids, int [M]; or which labels each row has, bool [M, K].
        classes: K.

    Returns:
        From N rows to probabilities, float32 [N, K]; that of a class without a training row is 0.
    """
    import warnings

    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    if features.model == "trees":
        model: Any = HistGradientBoostingClassifier(random_state=0, min_samples_leaf=_leaf(len(truth)))
        model = OneVsRestClassifier(model) if truth.ndim == 2 else model
    else:
        solver = "liblinear" if features.model == "sparse linear" else "lbfgs"
        model = LogisticRegression(
            C=_INVERSE_PENALTY[features.model], solver=solver, max_iter=_MOST_ITERATIONS
        )
        # The solver of sparse features knows two classes alone.
        model = OneVsRestClassifier(model) if truth.ndim == 2 or solver == "liblinear" else model
    with warnings.catch_warnings():
        # A label that all training rows have, or none, is predicted as such.
        warnings.filterwarnings("ignore", "Label .* is present in all", UserWarning)
        model.fit(features.train, truth.astype(int))

    def scores_of(rows: Any) -> np.ndarray:
        scores = np.zeros((len(rows), classes), np.float32)
        scores[:, model.classes_] = model.predict_proba(features.of(rows))
        return scores

    return scores_of


def fit_numbers(features: SimpleFeatures, truth: np.ndarray) -> Callable[[Any], np.ndarray]:
    """Fit ridge regression or boosted trees, one model a number.

    Args:
        features: of the training rows.
        truth: float [M, T].

    Returns:
        From N rows to predictions, float64 [N, T].
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge

    def fit(column: np.ndarray) -> Any:
        trees = HistGradientBoostingRegressor(random_state=0, min_samples_leaf=_leaf(len(truth)))
        return (trees if features.model == "trees" else Ridge()).fit(features.train, column)

    models = [fit(column) for column in truth.T]

    def values_of(rows: Any) -> np.ndarray:
        found = features.of(rows)
        values: np.ndarray = np.stack([model.predict(found) for model in models], axis=1)
        return values

    return values_of


def _leaf(rows: int) -> int:
    return max(1, min(_LEAF, rows // 20))


def model_name(features: SimpleFeatures, *, classes: bool) -> str:
    """Name a classical model in words.

    Args:
        features: what it is fitted on.
        classes: whether it predicts classes, and not numbers.
    """
    if features.model == "trees":
        return f"boosted trees on {features.name}"
    probe = " (linear probe)" if features.model == "dense linear" else ""
    return f"{features.name} and {'logistic' if classes else 'ridge'} regression{probe}"
