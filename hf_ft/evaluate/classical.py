"""Classical models as baselines: linear models and boosted trees on features that need no neural network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hf_ft.task import SimpleFeatures

# Most training rows of a classical model, and most rows times classes, so that fitting takes a few seconds.
MOST_ROWS = 10_000
MOST_ROWS_TIMES_CLASSES = 1_000_000
# Inverse regularization strength of logistic regression; scikit-learn's default of 1 underfits TF-IDF, and
# overfits standardised features if there are as many of them as rows.
_INVERSE_PENALTY = {"sparse linear": 10.0, "dense linear": 0.01}
# Fewest training rows in a leaf of a boosted tree. It is scikit-learn's default; with less than 400 rows the
# number is smaller, because trees could otherwise not split at all.
_LEAF = 20
# Strengths of the penalty of ridge regression on standardised features, chosen by leave-one-out validation.
_RIDGE_PENALTIES = tuple(10.0**power for power in range(-1, 6))
# Most iterations of the solver; standardised features need a few dozen.
_MOST_ITERATIONS = 200


def sample_rows(count: int, classes: int = 1) -> np.ndarray:
    """Choose the training rows for a classical model: all of them, or a fixed random sample.

    Args:
        count: number of training rows.
        classes: number of classes; the sample is smaller with many classes.

    Returns:
        Positions of the rows, ascending, int [M].
    """
    return draw_rows(count, max(1, min(MOST_ROWS, MOST_ROWS_TIMES_CLASSES // classes)))


def draw_rows(count: int, most: int) -> np.ndarray:
    """Draw a fixed random sample of at most `most` of `count` rows; return positions, ascending, int [M]."""
    if count <= most:
        return np.arange(count)
    chosen: np.ndarray = np.sort(np.random.default_rng(0).choice(count, max(0, most), replace=False))
    return chosen


def fit_classes(features: SimpleFeatures, truth: np.ndarray, classes: int) -> Callable[[Any], np.ndarray]:
    """Fit logistic regression (one class against the rest) or boosted trees.

    Args:
        features: of the training rows.
        truth: class ids, int [M]; or which labels each row has, bool [M, K].
        classes: K.

    Returns:
        A function from N rows to probabilities, float32 [N, K]; the probability of a class without a training
        row is 0.
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
        # The solver for sparse features supports only two classes.
        model = OneVsRestClassifier(model) if truth.ndim == 2 or solver == "liblinear" else model
    with warnings.catch_warnings():
        # For a label that all training rows have, or none, scikit-learn predicts just that and warns.
        warnings.filterwarnings("ignore", "Label .* is present in all", UserWarning)
        model.fit(features.train, truth.astype(int))

    def scores_of(rows: Any) -> np.ndarray:
        scores = np.zeros((len(rows), classes), np.float32)
        scores[:, model.classes_] = model.predict_proba(features.of(rows))
        return scores

    return scores_of


def fit_numbers(features: SimpleFeatures, truth: np.ndarray) -> Callable[[Any], np.ndarray]:
    """Fit ridge regression or boosted trees, one model for each target.

    Args:
        features: of the training rows.
        truth: float [M, T].

    Returns:
        A function from N rows to predictions, float64 [N, T].
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge, RidgeCV

    def fit(column: np.ndarray) -> Any:
        model: Any = Ridge()
        if features.model == "trees":
            model = HistGradientBoostingRegressor(random_state=0, min_samples_leaf=_leaf(len(truth)))
        elif features.model == "dense linear":
            model = RidgeCV(_RIDGE_PENALTIES)
        return model.fit(features.train, column)

    models = [fit(column) for column in truth.T]

    def values_of(rows: Any) -> np.ndarray:
        found = features.of(rows)
        values: np.ndarray = np.stack([model.predict(found) for model in models], axis=1)
        return values

    return values_of


def _leaf(rows: int) -> int:
    return max(1, min(_LEAF, rows // 20))


def model_name(features: SimpleFeatures, *, classes: bool) -> str:
    """Return the name of a classical model in words.

    Args:
        features: that the model is fitted on.
        classes: whether it predicts classes; otherwise numbers.
    """
    if features.model == "trees":
        return f"boosted trees on {features.name}"
    probe = " (linear probe)" if features.model == "dense linear" else ""
    return f"{features.name} and {'logistic' if classes else 'ridge'} regression{probe}"
