"""Trivial baselines and classical models: their results have the form of a model's results."""

import numpy as np
import pytest
import scipy.sparse
import sklearn.metrics

from hf_ft.evaluate.baselines import frequent_labels, majority_class, mean_value
from hf_ft.evaluate.classical import (
    MOST_ROWS,
    SimpleFeatures,
    fit_classes,
    fit_numbers,
    model_name,
    sample_rows,
)
from hf_ft.evaluate.metrics import ClassificationMetrics, RegressionMetrics
from hf_ft.evaluate.multilabel import MultilabelMetrics


def scored(metrics, result, references):
    metrics.update([result] * len(references), references)
    return metrics.compute()


def test_majority_class():
    found = scored(ClassificationMetrics(["a", "b", "c"]), majority_class([1, 1, 2, 0], 3), [0, 1, 1, 2])
    assert found["accuracy"] == 0.5 and found["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["roc_auc"] == 0.5 and found["mcc"] == 0


@pytest.mark.parametrize("threshold", [0.01, 0.5, 1.0])
def test_frequent_labels_do_not_depend_on_the_threshold(threshold):
    result = frequent_labels([[0], [0, 1], [1], [0], []], 3)
    found = scored(MultilabelMetrics(["a", "b", "c"], [threshold] * 3), result, [[0], [1], [0, 1], []])
    given, truth = np.tile([1, 0, 0], (4, 1)), [[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]]
    expected = sklearn.metrics.f1_score(truth, given, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(expected) and found["roc_auc"] == 0.5
    assert frequent_labels([[0, 2], [0, 2], [0], [1, 2]], 3)["scores"].tolist() == [1, 0, 1]


def test_mean_value():
    result = mean_value(np.array([[1.0], [3.0]]))
    found = scored(RegressionMetrics(["flow"]), result, [np.array([0.0]), np.array([4.0])])
    assert found["mae"] == 2 and found["r2"] == 0


def features(model, count=80):
    values = np.random.default_rng(0).normal(size=(2 * count, 4))
    wrap = scipy.sparse.csr_matrix if model == "sparse linear" else np.asarray
    return values, SimpleFeatures("numbers", wrap(values[:count]), wrap, model)


@pytest.mark.parametrize("model", ["sparse linear", "dense linear", "trees"])
def test_classical_models_learn_classes_labels_and_numbers(model):
    values, given = features(model)
    classes = np.where(values[:, 0] > 0.4, 2, np.where(values[:, 1] > 0, 1, 0))
    scores = fit_classes(given, classes[:80], 3)(values[80:])
    assert scores.shape == (80, 3) and np.allclose(scores.sum(1), 1, atol=1e-5)
    assert (scores.argmax(1) == classes[80:]).mean() > 0.75
    labels = values[:, :3] > 0
    labels[:, 2] = True  # a label that every row has
    scores = fit_classes(given, labels[:80], 3)(values[80:])
    assert ((scores > 0.5) == labels[80:]).mean() > 0.85 and scores[:, 2].min() > 0.5
    numbers = np.stack([2 * values[:, 0], values[:, 1] - 3], axis=1)
    found = fit_numbers(given, numbers[:80])(values[80:])
    assert np.corrcoef(found[:, 0], numbers[80:, 0])[0, 1] > 0.9 and found.shape == (80, 2)


def test_a_class_without_training_rows_has_score_zero():
    values, given = features("sparse linear")
    scores = fit_classes(given, np.arange(80) % 2 * 3, 5)(values[80:])
    assert scores.shape == (80, 5) and not scores[:, [1, 2, 4]].any() and scores[:, [0, 3]].all()


def test_the_sample_depends_on_rows_and_classes():
    assert sample_rows(300).tolist() == list(range(300))
    few = sample_rows(10 * MOST_ROWS)
    assert (
        len(few) == MOST_ROWS
        and (np.diff(few) > 0).all()
        and few.tolist() == sample_rows(10 * MOST_ROWS).tolist()
    )
    assert len(sample_rows(MOST_ROWS, classes=1000)) == 1000


def test_names_of_classical_models():
    _, trees = features("trees")
    _, linear = features("sparse linear")
    assert model_name(trees, classes=True) == "boosted trees on numbers"
    assert model_name(linear, classes=False) == "numbers and ridge regression"
