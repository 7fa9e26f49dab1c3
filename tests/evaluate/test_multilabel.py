"""Metrics of several labels per row: equal to scikit-learn; thresholds; constant answers."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from hf_ft.errors import DataError, RecipeError, TrainError
from hf_ft.evaluate.metrics import RegressionMetrics
from hf_ft.evaluate.multilabel import (
    MULTILABEL_DIRECTIONS,
    MultilabelMetrics,
    indicator,
    tune_thresholds,
)

LABELS = ["joy", "悲しみ", "fear", "calm", "never"]
THRESHOLDS = [0.5, 0.4, 0.6, 0.5, 0.5]


@pytest.fixture(scope="module")
def seen():
    rng = np.random.default_rng(0)
    truth = rng.random((60, 5)) < [0.5, 0.3, 0.2, 0.6, 0.0]
    scores = np.clip(0.45 * truth + 0.6 * rng.random((60, 5)), 0, 1).round(2).astype(np.float32)
    metrics = MultilabelMetrics(LABELS, THRESHOLDS)
    for start in range(0, 60, 17):
        part = slice(start, start + 17)
        metrics.update(
            [{"scores": row} for row in scores[part]], [np.flatnonzero(row).tolist() for row in truth[part]]
        )
    return metrics, truth, scores


def test_compute_equals_scikit_learn(seen):
    metrics, truth, scores = seen
    given = scores >= np.float32(THRESHOLDS)
    found = metrics.compute()
    for average in ("micro", "macro", "weighted", "samples"):
        expected = sklearn.metrics.f1_score(truth, given, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    assert found["subset_accuracy"] == pytest.approx((given == truth).all(axis=1).mean())
    assert found["map"] == pytest.approx(
        np.mean([sklearn.metrics.average_precision_score(truth[:, k], scores[:, k]) for k in range(4)])
    )
    assert found["roc_auc"] == pytest.approx(
        np.mean([sklearn.metrics.roc_auc_score(truth[:, k], scores[:, k]) for k in range(4)])
    )
    (note,) = found["notes"]
    assert all(piece in note for piece in ("map", "roc_auc", "1 of 5", "never"))
    row = found["per_class"][1]
    assert (row["label"], row["support"]) == ("悲しみ", int(truth[:, 1].sum()))
    assert row["threshold"] == pytest.approx(0.4)
    assert row["f1"] == pytest.approx(sklearn.metrics.f1_score(truth[:, 1], given[:, 1]))


@pytest.mark.parametrize("name", [name for name in MULTILABEL_DIRECTIONS if name != "loss"])
def test_value_equals_compute_on_all_rows_and_on_a_selection(seen, name):
    metrics, truth, scores = seen
    assert metrics.value(name) == pytest.approx(metrics.compute()[name])
    rows = np.random.default_rng(1).integers(60, size=60)
    again = MultilabelMetrics(LABELS, THRESHOLDS)
    again.update([{"scores": scores[i]} for i in rows], [np.flatnonzero(truth[i]).tolist() for i in rows])
    assert metrics.value(name, rows) == pytest.approx(again.compute()[name])


def test_thresholds_change_the_labels_and_not_the_ranking(seen):
    _, truth, scores = seen
    rows = [{"scores": row} for row in scores], [np.flatnonzero(row).tolist() for row in truth]
    low, high = MultilabelMetrics(LABELS, [0.1] * 5), MultilabelMetrics(LABELS, [0.9] * 5)
    low.update(*rows)
    high.update(*rows)
    assert low.value("macro_recall") > high.value("macro_recall") + 0.5
    assert low.value("map") == high.value("map")


def test_tuned_thresholds_are_the_best_of_all_cuts():
    rng = np.random.default_rng(3)
    truth = rng.random((80, 3)) < [0.5, 0.2, 0.3]
    scores = np.clip(0.3 * truth + 0.7 * rng.random((80, 3)), 0, 1).round(1)  # ties
    for label, threshold in enumerate(tune_thresholds(scores, truth, rarest=1)):
        found = sklearn.metrics.f1_score(truth[:, label], scores[:, label] >= threshold)
        every = [
            sklearn.metrics.f1_score(truth[:, label], scores[:, label] >= cut / 100) for cut in range(1, 100)
        ]
        assert found == pytest.approx(max(every))


def test_rare_labels_share_a_threshold():
    rng = np.random.default_rng(4)
    truth = rng.random((200, 4)) < [0.4, 0.01, 0.02, 0.0]
    scores = np.clip(0.4 * truth + 0.6 * rng.random((200, 4)), 0, 1)
    thresholds = tune_thresholds(scores, truth)
    assert thresholds[1] == thresholds[2] == thresholds[3] != thresholds[0]


def test_a_label_that_no_row_has_keeps_the_threshold_one_half():
    assert tune_thresholds(np.full((5, 1), 0.7), np.zeros((5, 1), dtype=bool)) == [0.5]


def test_unusable_input_is_an_error():
    metrics = MultilabelMetrics(["a", "b"], [0.5, 0.5])
    with pytest.raises(DataError, match="label id 2; expected 0 to 1"):
        metrics.update([{"scores": [0.1, 0.2]}], [[2]])
    with pytest.raises(RecipeError, match=r"evaluate\.extra: 'f1' cannot be measured"):
        MultilabelMetrics(["a", "b"], [0.5, 0.5], ["f1"])
    metrics = MultilabelMetrics(["a", "b"], [0.5, 0.5])
    metrics.update([{"scores": [0.1, float("nan")]}], [[1]])
    with pytest.raises(TrainError, match="not finite"):
        metrics.compute()
    with pytest.raises(RecipeError, match="there is no metric 'accuracy'; found: loss, micro_f1"):
        _one().value("accuracy")
    assert indicator([], 2).tolist() == [False, False]


def _one():
    metrics = MultilabelMetrics(["a"], [0.5])
    metrics.update([{"scores": [0.9]}], [[0]])
    return metrics


def test_correlations_equal_scipy_and_are_undefined_for_constants():
    rng = np.random.default_rng(5)
    truth = rng.normal(size=40).round(1)
    predicted = truth + rng.normal(size=40)
    metrics = RegressionMetrics(["similarity"])
    metrics.update([{"value": [value]} for value in predicted], truth[:, None])
    found = metrics.compute()
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(predicted, truth).statistic)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(predicted, truth).statistic)
    rows = rng.integers(40, size=40)
    assert metrics.value("spearman", rows) == pytest.approx(
        scipy.stats.spearmanr(predicted[rows], truth[rows]).statistic
    )
    constant = RegressionMetrics(["similarity"])
    constant.update([{"value": [1.0]}] * 40, truth[:, None])
    assert "pearson" not in constant.compute() and np.isnan(constant.value("spearman"))
