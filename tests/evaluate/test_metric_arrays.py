"""Stored values of metrics: equal for any number of processes to the last bit, without needless copies."""

import math

import masks
import numpy as np
import pytest
from processes import Processes

from hf_ft.errors import DataError
from hf_ft.evaluate.forecast_metrics import ForecastMetrics
from hf_ft.evaluate.metric_arrays import BatchSums, Column, RowMetrics
from hf_ft.evaluate.metrics import ClassificationMetrics, RegressionMetrics
from hf_ft.evaluate.multilabel import MultilabelMetrics

ROWS, BATCH = 103, 7


def classes(rng):
    scores = rng.random((ROWS, 4)).astype(np.float32)
    return (
        lambda: ClassificationMetrics(list("abcd")),
        [{"class": int(row.argmax()), "scores": row} for row in scores],
        rng.integers(4, size=ROWS).tolist(),
    )


def labels(rng):
    return (
        lambda: MultilabelMetrics(list("abc"), [0.5] * 3),
        [{"scores": row} for row in rng.random((ROWS, 3))],
        [np.flatnonzero(row).tolist() for row in rng.random((ROWS, 3)) < 0.4],
    )


def numbers(rng):
    truth = rng.normal(5, 2, (ROWS, 2))
    return (
        lambda: RegressionMetrics(["a", "b"], scale=[1.0, 2.0]),
        [{"value": row} for row in truth + rng.normal(size=truth.shape)],
        list(truth),
    )


def forecasts(rng):
    truth = rng.normal(1000, 3, (ROWS, 5, 2))
    hours = rng.integers(24, size=(ROWS, 5))
    return (
        lambda: ForecastMetrics(["a", "b"], np.array([1.0, 3.0]), naive=np.ones(2)),
        [{"value": row} for row in truth + rng.normal(size=truth.shape)],
        [{"value": v, "last": v[0] - 0.1, "hour": h} for v, h in zip(truth, hours, strict=True)],
    )


def confusion(rng):
    return masks.MaskMetrics, [{"counts": row} for row in rng.integers(9, size=(ROWS, 3))], [None] * ROWS


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("kind", [classes, labels, numbers, forecasts, confusion])
def test_any_number_of_processes_gives_the_same_bits(kind, processes, monkeypatch):
    """accelerate#226, tf#25939: rows in another order, a partial batch, a rank with fewer rows."""
    make, results, references = kind(np.random.default_rng(0))
    # Like batches of rows of similar length: no batch holds neighbours, and the last one is not full.
    order = np.random.default_rng(1).permutation(ROWS)
    batches = [order[start : start + BATCH] for start in range(0, ROWS, BATCH)]

    def seen(shares):
        metrics = make()
        for batch in shares:
            metrics.update([results[row] for row in batch], [references[row] for row in batch])
        return metrics, np.concatenate(shares)

    alone, rows = seen(batches)
    alone.merge(rows, lambda part: part)
    in_order = make()
    in_order.update(results, references)
    ranks = Processes(processes, monkeypatch)

    def rank(number):
        metrics, rows = seen(batches[number::processes])
        metrics.merge(rows, ranks.gather)
        return metrics

    expected, selection = alone.compute(), np.random.default_rng(2).integers(ROWS, size=ROWS)
    for metrics in ranks.run(rank):
        assert metrics.compute() == expected
        for name, value in expected.items():
            if isinstance(value, float):
                assert metrics.value(name, selection) == alone.value(name, selection)
                # Equal to the last bit where rows are stored; sums depend on which rows share a batch.
                assert math.isclose(value, in_order.value(name), rel_tol=1e-13)
        for name, column in metrics.columns.items():
            if isinstance(column, Column):
                assert np.array_equal(column.array(), in_order.columns[name].array())


def test_a_single_process_with_rows_in_order_copies_nothing():
    metrics = RowMetrics(values=Column(np.float64))
    given = [np.arange(3.0), np.arange(3.0, 5.0)]
    for chunk in given:
        metrics.columns["values"].add(chunk)
    metrics.merge(np.arange(5), lambda part: part)
    stored = metrics.columns["values"].chunks
    assert all(np.shares_memory(one, other) for one, other in zip(stored, given, strict=True))
    assert metrics.columns["values"].array().tolist() == [0, 1, 2, 3, 4]


def test_a_process_without_rows_gets_those_of_the_others(monkeypatch):
    ranks = Processes(2, monkeypatch)

    def rank(number):
        metrics = RowMetrics(values=Column(np.float64), names=Column(object), total=BatchSums())
        if number == 1:
            metrics.columns["values"].add([2.0, np.nan, 1.0])
            metrics.columns["names"].add(["c", "a", "b"])
            metrics.columns["total"].add(np.array([3.0]), 3)
        metrics.merge(np.array([2, 0, 1] if number else [], dtype=np.int64), ranks.gather)
        return metrics.columns

    for columns in ranks.run(rank):
        assert columns["values"].not_finite == 1
        assert np.array_equal(columns["values"].array(), [np.nan, 1.0, 2.0], equal_nan=True)
        assert columns["names"].array().tolist() == ["a", "b", "c"]
        assert columns["total"].total().tolist() == [3.0]


def test_a_row_of_another_shape_is_refused():
    with pytest.raises(DataError, match=r"shape \(3,\); expected \(2,\)"):
        Column(np.float32, (2,)).add(np.zeros((4, 3)))
