"""Metrics: equal to scikit-learn and to known cases, fast values equal to slow ones, clear errors."""

import os
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics

from hf_ft.errors import DataError, RecipeError, TrainError
from hf_ft.evaluate.extra_metrics import ExtraMetric
from hf_ft.evaluate.metrics import (
    CLASSIFICATION_DIRECTIONS,
    REGRESSION_DIRECTIONS,
    ClassificationMetrics,
    RegressionMetrics,
)

CLASSIFICATION_NAMES = [name for name in CLASSIFICATION_DIRECTIONS if name != "loss"]
REGRESSION_NAMES = [name for name in REGRESSION_DIRECTIONS if name != "loss"]


def classified(rows=300, classes=5, seed=0, present=None):
    """Return random results that are mostly right, with ties among the scores."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(present if present is not None else classes, size=rows)
    scores = rng.random((rows, classes))
    scores[np.arange(rows), truth] += 0.5
    scores = np.round(scores / scores.sum(axis=1, keepdims=True), 2).astype(np.float32)
    return [{"class": int(row.argmax()), "scores": row} for row in scores], truth


def accumulate(metrics, results, references, batch=64):
    for start in range(0, len(results), batch):
        metrics.update(results[start : start + batch], references[start : start + batch])
    return metrics


def names(count):
    return [f"class {index}" for index in range(count)]


@pytest.mark.parametrize(("classes", "present"), [(2, None), (5, None), (43, None), (6, [0, 2, 5])])
@pytest.mark.parametrize("name", CLASSIFICATION_NAMES)
def test_value_equals_compute(classes, present, name):
    results, truth = classified(classes=classes, present=present)
    metrics = accumulate(ClassificationMetrics(names(classes)), results, truth)
    assert metrics.value(name) == pytest.approx(metrics.compute()[name], abs=1e-12)


@pytest.mark.parametrize("name", CLASSIFICATION_NAMES)
def test_value_of_rows_equals_compute_of_those_rows(name):
    results, truth = classified()
    rows = np.random.default_rng(1).integers(len(truth), size=120)
    metrics = accumulate(ClassificationMetrics(names(5)), results, truth)
    chosen = accumulate(ClassificationMetrics(names(5)), [results[row] for row in rows], truth[rows])
    assert metrics.value(name, rows) == pytest.approx(chosen.compute()[name], abs=1e-12)


def test_classification_against_scikit_learn():
    results, truth = classified(classes=4)
    predicted = [result["class"] for result in results]
    scores = np.stack([result["scores"] for result in results])
    found = accumulate(ClassificationMetrics(names(4)), results, truth).compute()
    assert found["accuracy"] == sklearn.metrics.accuracy_score(truth, predicted)
    assert found["balanced_accuracy"] == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(truth, predicted)
    )
    assert found["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(truth, predicted, average="macro"))
    areas = [sklearn.metrics.roc_auc_score(truth == klass, scores[:, klass]) for klass in range(4)]
    assert found["roc_auc"] == pytest.approx(np.mean(areas))
    assert found["confusion"] == sklearn.metrics.confusion_matrix(truth, predicted).tolist()
    report = sklearn.metrics.classification_report(
        truth, predicted, target_names=names(4), output_dict=True, zero_division=0
    )
    for row in found["per_class"]:
        expected = report[row["label"]]
        assert row["support"] == expected["support"]
        assert row["precision"] == pytest.approx(expected["precision"])
        assert row["recall"] == pytest.approx(expected["recall"])
        assert row["f1"] == pytest.approx(expected["f1-score"])


def test_absent_classes_are_noted_and_left_out_of_roc_auc():
    results, truth = classified(classes=6, present=[0, 2, 5])
    found = accumulate(ClassificationMetrics(names(6)), results, truth).compute()
    (note,) = found["notes"]
    assert "3 of 6 classes" in note and "class 1, class 3, class 4" in note
    assert len(found["per_class"]) == 6 and found["tables"] == {"per_class": "by class"}
    scores = np.stack([result["scores"] for result in results])
    areas = [sklearn.metrics.roc_auc_score(truth == klass, scores[:, klass]) for klass in (0, 2, 5)]
    assert found["roc_auc"] == pytest.approx(np.mean(areas))


def test_one_class_has_no_roc_auc():
    results, truth = classified(classes=3, present=[1])
    metrics = accumulate(ClassificationMetrics(names(3)), results, truth)
    found = metrics.compute()
    assert "roc_auc" not in found
    assert "fewer than two classes" in found["notes"][0]
    assert np.isnan(metrics.value("roc_auc"))


def test_more_rows_after_a_value_are_counted():
    results, truth = classified()
    metrics = ClassificationMetrics(names(5))
    metrics.update(results[:100], truth[:100])
    metrics.value("roc_auc")
    metrics.update(results[100:], truth[100:])
    assert metrics.value("roc_auc") == pytest.approx(metrics.compute()["roc_auc"])


def test_results_that_are_not_finite_are_counted():
    results, truth = classified(rows=50)
    for row in (3, 17):
        results[row] = {"class": 0, "scores": np.full(5, np.nan, dtype=np.float32)}
    metrics = accumulate(ClassificationMetrics(names(5)), results, truth, batch=10)
    with pytest.raises(TrainError, match="2 of 50 results are not finite"):
        metrics.compute()
    with pytest.raises(TrainError, match="2 of 50"):
        metrics.value("accuracy")


@pytest.mark.parametrize("wrong", [-1, 5])
def test_class_ids_out_of_range_are_refused(wrong):
    results, truth = classified(rows=10)
    with pytest.raises(DataError, match=f"a reference is class id {wrong}; expected 0 to 4"):
        ClassificationMetrics(names(5)).update(results, [wrong, *truth[1:]])
    with pytest.raises(DataError, match=f"a result is class id {wrong}; expected 0 to 4"):
        ClassificationMetrics(names(5)).update([{**results[0], "class": wrong}, *results[1:]], truth)


def test_lost_rows_are_refused():
    results, truth = classified(rows=10)
    with pytest.raises(DataError, match="9 results came with 10 references"):
        ClassificationMetrics(names(5)).update(results[:9], truth)
    with pytest.raises(DataError, match="no rows"):
        ClassificationMetrics(names(5)).compute()


def test_scores_of_the_wrong_width_are_refused():
    results, truth = classified(rows=10, classes=4)
    with pytest.raises(DataError, match=r"shape \(4,\); expected \(5,\)"):
        ClassificationMetrics(names(5)).update(results, truth)


def test_an_unknown_metric_lists_the_known_ones():
    metrics = accumulate(ClassificationMetrics(names(5)), *classified())
    with pytest.raises(RecipeError, match=r"no metric 'acuracy'; found: accuracy, .*roc_auc"):
        metrics.value("acuracy")


# Regression


def regressed(targets=1, rows=200, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(5, 2, size=(rows, targets)).round(1)
    truth[:4] = 0
    return [{"value": row} for row in truth + rng.normal(0.3, 1, size=truth.shape)], list(truth)


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("name", REGRESSION_NAMES)
def test_regression_value_equals_compute(targets, name):
    results, truth = regressed(targets)
    metrics = accumulate(RegressionMetrics(names(targets), scale=[0.5] * targets), results, truth)
    assert metrics.value(name) == pytest.approx(metrics.compute()[name], abs=1e-12)
    rows = np.random.default_rng(1).integers(200, size=80)
    chosen = RegressionMetrics(names(targets), scale=[0.5] * targets)
    chosen.update([results[row] for row in rows], [truth[row] for row in rows])
    assert metrics.value(name, rows) == pytest.approx(chosen.compute()[name], abs=1e-12)


def test_regression_of_a_known_case():
    metrics = RegressionMetrics(["flow"], ["cars"], scale=[2.0])
    metrics.update([{"value": [1.0]}, {"value": [5.0]}, {"value": [3.0]}], [[0.0], [4.0], [5.0]])
    found = metrics.compute()
    assert found["mae"] == pytest.approx(4 / 3)
    assert found["rmse"] == pytest.approx(np.sqrt(2))
    assert found["mape"] == pytest.approx((1 / 4 + 2 / 5) / 2)
    assert found["mase"] == pytest.approx(2 / 3)
    assert found["r2"] == pytest.approx(1 - 6 / 14)
    assert found["explained_variance"] == pytest.approx(1 - 2 / (14 / 3))
    (note,) = found["notes"]
    assert all(piece in note for piece in ("mape", "flow", "1 of 3", "0"))


def test_undefined_metrics_are_left_out_and_noted():
    metrics = RegressionMetrics(["flow"])
    metrics.update([{"value": [1.0]}, {"value": [2.0]}], [[0.0], [0.0]])
    found = metrics.compute()
    assert set(found) == {"mae", "rmse", "per_target", "tables", "notes"}
    undefined = ["mape", "mape", "r2", "explained_variance", "pearson", "spearman"]
    assert [note.split(" ")[0] for note in found["notes"]] == undefined
    assert np.isnan([metrics.value(name) for name in ("mape", "r2", "explained_variance")]).all()


def test_different_units_are_never_averaged():
    results, truth = regressed(targets=2)
    metrics = accumulate(RegressionMetrics(["heat", "flow"], ["°C", "m³/s"]), results, truth)
    found = metrics.compute()
    assert not {"mae", "rmse"} & set(found)
    assert "units of the targets differ" in found["notes"][-1]
    assert [row["unit"] for row in found["per_target"]] == ["°C", "m³/s"]
    with pytest.raises(RecipeError, match="no metric 'mae'"):
        metrics.value("mae")


def test_a_scale_of_zero_is_refused():
    with pytest.raises(DataError, match="MASE needs it above 0"):
        RegressionMetrics(["flow"], scale=[0.0])


def test_predictions_that_are_not_finite_are_an_error():
    metrics = RegressionMetrics(["flow"])
    metrics.update([{"value": [np.inf]}, {"value": [1.0]}], [[1.0], [1.0]])
    with pytest.raises(TrainError, match="1 of 2 results are not finite"):
        metrics.compute()


# Extra metrics

LOCAL = """
import datasets
import evaluate


class Errors(evaluate.Metric):
    def _info(self):
        number = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions, references):
        return {"errors": sum(a != b for a, b in zip(predictions, references))}
"""


def test_extra_metric_from_a_local_path(tmp_path):
    path = tmp_path / "errors.py"
    path.write_text(LOCAL)
    results, truth = classified()
    metrics = accumulate(ClassificationMetrics(names(5), extra=[str(path)]), results, truth)
    found = metrics.compute()
    assert found["errors"] == round(300 * (1 - found["accuracy"]))
    wrong = np.flatnonzero([result["class"] != klass for result, klass in zip(results, truth, strict=True)])
    assert metrics.value("errors", wrong) == len(wrong)


def test_extra_metric_that_gives_a_known_name_is_refused(tmp_path):
    path = tmp_path / "errors.py"
    path.write_text(LOCAL.replace('"errors"', '"accuracy"'))
    metrics = accumulate(ClassificationMetrics(names(5), extra=[str(path)]), *classified())
    with pytest.raises(RecipeError, match="gives 'accuracy', which is already computed"):
        metrics.compute()


def test_extra_metric_with_unknown_inputs(tmp_path):
    path = tmp_path / "errors.py"
    path.write_text(LOCAL.replace('{"predictions": number', '{"sources": number, "predictions": number'))
    with pytest.raises(RecipeError, match="sources"):
        ExtraMetric(str(path))


def test_extra_metric_with_a_missing_package(tmp_path):
    path = tmp_path / "errors.py"
    path.write_text("import package_that_is_not_there\n" + LOCAL)
    with pytest.raises(RecipeError, match="package_that_is_not_there"):
        ExtraMetric(str(path))


def test_extra_metric_that_does_not_exist(tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="there is no such file"):
        ExtraMetric(str(tmp_path / "none.py"))
    with pytest.raises(RecipeError, match="somebody's Space"):
        ExtraMetric("somebody/metric")

    def unreachable(*arguments, **options):
        raise FileNotFoundError("Couldn't find a module script")

    monkeypatch.setattr("evaluate.load", unreachable)
    with pytest.raises(RecipeError, match="the Hub is not reachable, or has no such metric"):
        ExtraMetric("f1")


MANY = """
import sys

from hf_ft.evaluate.metrics import ClassificationMetrics

metrics = ClassificationMetrics(["no", "yes"], extra=sys.argv[1:])
for repeat in range(3):
    metrics.update([{"class": 1, "scores": [0.1, 0.9]}, {"class": 0, "scores": [0.8, 0.2]}], [1, 1])
    print(metrics.compute()["errors"])
"""


@pytest.mark.multi_process
@pytest.mark.slow
def test_processes_on_one_host_do_not_share_cache_files(tmp_path):
    """Four processes with one empty cache each load the same extra module and measure their own rows."""
    path = tmp_path / "errors.py"
    path.write_text(LOCAL)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_EVALUATE_OFFLINE": "1"}
    command = [sys.executable, "-c", MANY, str(path)]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert out.split() == ["1.0", "2.0", "3.0"], error
    assert not list(tmp_path.rglob("*.arrow"))
