"""The bootstrap: seeded, with its nominal coverage, wider over groups of similar rows than over rows."""

import numpy as np
import pytest

from hf_ft.errors import DataError
from hf_ft.evaluate.bootstrap import bootstrap_interval
from hf_ft.evaluate.metrics import ClassificationMetrics

LABELS = ["no", "yes"]


def metrics_of(right):
    """Return metrics over rows; `right` says which of them are predicted right."""
    metrics = ClassificationMetrics(LABELS)
    truth = np.arange(len(right)) % 2
    predicted = np.where(right, truth, 1 - truth)
    metrics.update([{"class": klass, "scores": np.eye(2)[klass]} for klass in predicted], truth)
    return metrics


def interval(metrics, rows, name="accuracy", **options):
    return bootstrap_interval(
        metrics, name, rows, **{"resamples": 500, "confidence": 0.95, "seed": 3, **options}
    )


def test_the_seed_decides_the_interval():
    metrics = metrics_of(np.random.default_rng(0).random(200) < 0.9)
    assert interval(metrics, 200) == interval(metrics, 200)
    assert interval(metrics, 200) != interval(metrics, 200, seed=4)


def test_the_width_is_that_of_a_binomial():
    right = np.arange(1000) < 900
    low, high = interval(metrics_of(right), 1000, resamples=2000)
    half = 1.96 * np.sqrt(0.9 * 0.1 / 1000)
    assert low == pytest.approx(0.9 - half, abs=0.004)
    assert high == pytest.approx(0.9 + half, abs=0.004)


def test_more_confidence_is_a_wider_interval():
    metrics = metrics_of(np.random.default_rng(0).random(200) < 0.8)
    (low, high), (lower, higher) = (
        interval(metrics, 200, confidence=0.8),
        interval(metrics, 200, confidence=0.99),
    )
    assert lower < low < high < higher


def test_coverage():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        low, high = interval(metrics_of(rng.random(100) < 0.8), 100, resamples=200, seed=seed)
        covered += low <= 0.8 <= high
    assert covered >= 85


def test_groups_widen_the_interval():
    right = np.repeat(np.random.default_rng(0).random(40) < 0.8, 25)
    metrics = metrics_of(right)
    low, high = interval(metrics, 1000)
    group_low, group_high = interval(metrics, 1000, groups=np.repeat(np.arange(40), 25).tolist())
    assert group_high - group_low > 3 * (high - low)


def test_groups_of_one_row_are_rows():
    metrics = metrics_of(np.random.default_rng(0).random(100) < 0.8)
    assert interval(metrics, 100, groups=list(range(100))) == interval(metrics, 100)


def test_undefined_resamples_are_drawn_again_and_too_many_are_an_error():
    metrics = ClassificationMetrics(LABELS)
    metrics.update([{"class": 0, "scores": [0.6, 0.4]}] * 20, [0] * 18 + [1] * 2)
    low, high = interval(metrics, 20, name="roc_auc")
    assert low == high == 0.5
    metrics = ClassificationMetrics(LABELS)
    metrics.update([{"class": 0, "scores": [0.6, 0.4]}] * 20, [0] * 20)
    with pytest.raises(DataError, match="roc_auc is undefined on 1000 of 1000 resamples of 20 rows"):
        interval(metrics, 20, name="roc_auc")


def test_too_few_rows_or_groups_are_an_error():
    with pytest.raises(DataError, match="at least 2 rows"):
        interval(metrics_of([True]), 1)
    with pytest.raises(DataError, match="at least 2 groups"):
        interval(metrics_of([True, True]), 2, groups=["a", "a"])
    with pytest.raises(DataError, match="1 groups came with 2 rows"):
        interval(metrics_of([True, True]), 2, groups=["a"])
