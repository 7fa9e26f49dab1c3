"""The verdict on simulated data with a known truth, and its text, which does not claim too much."""

import json

import numpy as np
import pytest

from hf_ft.errors import VerdictError
from hf_ft.evaluate.metrics import ClassificationMetrics, RegressionMetrics
from hf_ft.evaluate.verdict import Bootstrap, judge
from hf_ft.task import Evaluation

LABELS = ["no", "yes"]


def answers(truth, right):
    """Return class results; `right` says which of them are right."""
    predicted = np.where(right, truth, 1 - truth)
    return [{"class": int(klass), "scores": np.eye(2)[klass]} for klass in predicted]


def numbers(values):
    return [{"value": [float(value)]} for value in values]


def measure_with(new_metrics):
    """Return a function that updates fresh metrics with results and references."""

    def measure(results, references):
        metrics = new_metrics()
        metrics.update(results, references)
        return metrics

    return measure


def verdict(
    results, references, baselines, *, scores=None, split="test", selected=False, metric=None, **options
):
    """Return the verdict on classes, or on numbers if the results are numbers."""
    classes = "class" in results[0]
    evaluation = Evaluation(split, [str(i) for i in range(len(results))], results, references, None, {})
    return judge(
        evaluation,
        measure_with(lambda: ClassificationMetrics(LABELS) if classes else RegressionMetrics(["y"])),
        baselines,
        scores or {},
        Bootstrap(**{"resamples": 400, "seed": 3, **options}),
        metric=metric or ("accuracy" if classes else "rmse"),
        greater=classes,
        selected=selected,
    )


def classes(seed, rows=400, model=0.9, baseline=0.7):
    rng = np.random.default_rng(seed)
    truth = rng.integers(2, size=rows)
    return truth, answers(truth, rng.random(rows) < model), answers(truth, rng.random(rows) < baseline)


def test_coverage_of_the_paired_interval():
    """The true difference lies in the interval about as often as the nominal coverage says."""
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth, hard = rng.integers(2, size=150), rng.random(150)
        # Both are right on the easy rows, so that easy and hard resamples cancel in the difference.
        model, other = (
            answers(truth, hard < 0.85),
            answers(truth, hard < np.where(rng.random(150) < 0.2, 0.6, 0.8)),
        )
        found = verdict(model, truth, {"other": other}, scores={"other": {"accuracy": 0.0}}, resamples=200)
        low, high = found.first.interval
        held += low <= 0.85 - (0.2 * 0.6 + 0.8 * 0.8) <= high
    assert 180 <= held <= 199


def test_the_paired_interval_is_narrower_than_two_intervals():
    rng = np.random.default_rng(0)
    truth, hard = rng.integers(2, size=300), rng.random(300)
    found = verdict(answers(truth, hard < 0.85), truth, {"other": answers(truth, hard < 0.8)})
    assert found.outcome == "better"
    low, high = found.comparisons[0].interval
    # The difference on two independent samples would be wider than the model's own interval.
    assert high - low < found.interval[1] - found.interval[0]


@pytest.mark.parametrize(
    ("model", "baseline", "outcome"), [(0.9, 0.7, "better"), (0.7, 0.9, "worse"), (0.8, 0.8, "not better")]
)
def test_outcomes_where_greater_is_better(model, baseline, outcome):
    truth, results, others = classes(1, model=model, baseline=baseline)
    found = verdict(results, truth, {"the usual answer": others})
    assert (found.outcome, found.alarming) == (outcome, outcome == "worse")
    assert found.text.startswith(f"{outcome.capitalize()} than the usual answer: accuracy ")


@pytest.mark.parametrize(
    ("model", "baseline", "outcome"), [(1, 2, "better"), (2, 1, "worse"), (1, 1, "not better")]
)
def test_outcomes_where_smaller_is_better(model, baseline, outcome):
    rng = np.random.default_rng(5)
    truth = rng.normal(size=300)
    one, other = (truth + rng.normal(scale=scale, size=300) for scale in (model, baseline))
    found = verdict(numbers(one), truth[:, None].tolist(), {"the last value": numbers(other)})
    assert found.outcome == outcome
    comparison = found.comparisons[0]
    assert (comparison.difference < 0) == (comparison.model_value < comparison.value)
    direction = "lower" if comparison.difference < 0 else "higher"
    assert "RMSE" in found.text and f" {direction} (95 % interval: " in found.text


def test_identical_predictions_are_not_better():
    truth, results, _ = classes(2)
    found = verdict(results, truth, {"a copy": results})
    assert found.outcome == "not better" and not found.alarming
    assert found.comparisons[0].interval == (0.0, 0.0) and "no difference" in found.text


def test_groups_widen_the_interval_of_a_difference():
    rng = np.random.default_rng(7)
    truth = np.zeros(1000, dtype=int)
    model, other = (answers(truth, np.repeat(rng.random(20) < share, 50)) for share in (0.8, 0.6))
    groups = np.repeat(np.arange(20), 50).tolist()
    by_row, by_group = (
        verdict(model, truth, {"other": other}, groups=one).comparisons[0].interval for one in (None, groups)
    )
    assert by_group[1] - by_group[0] > 3 * (by_row[1] - by_row[0])
    assert by_row[0] <= by_group[1] and by_group[0] <= by_row[1]


def test_two_rows_are_too_few_for_better():
    truth = np.array([0, 1])
    found = verdict(answers(truth, [True, True]), truth, {"other": answers(truth, [False, False])})
    assert found.outcome == "not better"
    truth = np.arange(40) % 2
    assert (
        verdict(answers(truth, truth > -1), truth, {"other": answers(truth, truth < 0)}).outcome == "better"
    )


def perfect(rows, answered=None, **options):
    """Return the verdict on a model that is always right, against one that is always wrong."""
    truth = np.arange(rows) % 2
    other = answers(truth, truth < 0)
    partial = [result if row < (answered or rows) else None for row, result in enumerate(other)]
    return verdict(answers(truth, truth > -1), truth, {"other": partial}, **options)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_perfect_answers_have_an_interval_by_the_number_of_independent_rows(metric):
    """The bootstrap interval of 1 on every row has no width, whatever the number of rows."""
    few, many = perfect(20, metric=metric), perfect(200, metric=metric)
    grouped = perfect(200, metric=metric, groups=[row // 10 for row in range(200)])
    assert few.interval[0] == pytest.approx(0.839, abs=1e-3) and few.interval[1] == pytest.approx(1.0)
    assert many.interval[0] == pytest.approx(0.981, abs=1e-3)
    assert grouped.interval == few.interval
    assert (
        grouped.comparisons[0].interval == few.comparisons[0].interval == pytest.approx((0.678, 1), abs=1e-3)
    )


def test_the_interval_of_a_partial_baseline_counts_its_rows():
    assert perfect(200, answered=20).comparisons[0].interval == perfect(20).comparisons[0].interval


def test_a_baseline_is_compared_on_the_rows_that_it_answers():
    """The model is right only on the first half; the baseline answers only the second half."""
    truth = np.arange(200) % 2
    first = np.arange(200) < 100
    other = answers(truth, np.arange(200) % 5 > 0)
    partial = [None if first[row] else other[row] for row in range(200)]
    comparison = verdict(answers(truth, first), truth, {"partial": partial}).comparisons[0]
    assert (comparison.rows, comparison.model_value, comparison.value) == (100, 0.0, 0.8)
    assert comparison.outcome == "worse" and comparison.interval[1] < -0.6
    found = verdict(answers(truth, first), truth, {"partial": partial})
    assert "on the 100 rows that it answers" in found.text
    silent = verdict(answers(truth, first), truth, {"silent": [None] * 200})
    assert silent.comparisons == [] and silent.undefined == ["silent"]


def test_the_hardest_baseline_decides_and_each_has_its_own_text():
    truth, results, weak = classes(4, model=0.8, baseline=0.5)
    strong = answers(truth, np.random.default_rng(9).random(400) < 0.95)
    found = verdict(results, truth, {"weak": weak, "strong": strong})
    assert [one.name for one in found.comparisons] == ["strong", "weak"]
    assert found.outcome == "worse" and found.first.name == "strong"
    saved = json.loads(json.dumps(found.to_json()))
    assert {"text", "against", "difference", "interval", "outcome"} <= set(saved)
    assert saved["against"] == "strong" and saved["difference"] < saved["interval"][1] < 0
    assert [one["outcome"] for one in saved["baselines"]] == ["worse", "better"]
    assert saved["baselines"][1]["metrics"]["accuracy"] == saved["baselines"][1]["value"]


def test_undefined_resamples_are_drawn_again_for_the_pair():
    """Three of 40 rows are of class 1; some resamples have none, and there ROC-AUC is undefined."""
    rng = np.random.default_rng(0)
    truth = np.array([1, 1, 1, *[0] * 37])
    good, bad = ([{"class": 0, "scores": [1 - s, s]} for s in truth * w + rng.random(40)] for w in (2, 0))
    evaluation = Evaluation("test", [str(i) for i in range(40)], good, truth, None, {})
    found = judge(
        evaluation,
        measure_with(lambda: ClassificationMetrics(LABELS)),
        {"noise": bad},
        {},
        Bootstrap(300),
        metric="roc_auc",
        greater=True,
        selected=False,
    )
    assert not np.isnan(found.comparisons[0].interval).any() and found.outcome == "better"


def test_a_metric_that_is_undefined_for_a_baseline():
    """The correlation of a constant is undefined, whatever the rows."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=100)
    found = judge(
        Evaluation("test", [str(i) for i in range(100)], numbers(truth), truth[:, None].tolist(), None, {}),
        measure_with(lambda: RegressionMetrics(["y"])),
        {"the mean": numbers([0.0] * 100)},
        {},
        Bootstrap(100),
        metric="pearson",
        greater=True,
        selected=False,
    )
    assert found.undefined == ["the mean"] and found.outcome == "not compared" and found.first is None
    assert found.interval is not None and "no baseline has pearson" in found.text


def test_a_baseline_of_which_only_metrics_are_known():
    truth, results, others = classes(1, model=0.7)
    found = verdict(results, truth, {}, scores={"hearsay": {"accuracy": 0.75, "macro_f1": 0.1}, "none": {}})
    assert found.outcome == "not compared" and found.alarming and found.undefined == ["none"]
    assert "Not compared row by row with hearsay" in found.text and "lower" in found.text
    assert found.to_json()["interval"] is None and found.comparisons[0].metrics["macro_f1"] == 0.1
    known = verdict(results, truth, {"hearsay": others}, scores={"hearsay": {"accuracy": 0.7}})
    assert known.outcome == "not better" and known.comparisons[0].metrics == {"accuracy": 0.7}


def test_without_intervals_the_outcome_is_not_compared():
    truth, results, others = classes(1)
    found = verdict(results, truth, {"other": others}, resamples=0)
    assert found.outcome == "not compared" and found.interval is None and not found.alarming


def test_the_text_says_if_the_rows_chose_the_checkpoint():
    truth, results, others = classes(1)
    assert "chose the checkpoint" not in verdict(results, truth, {"other": others}).text
    text = verdict(results, truth, {"other": others}, split="validation", selected=True).text
    assert "400 rows of validation, which also chose the checkpoint" in text


def test_must_beat_requires_every_baseline():
    truth, results, weak = classes(4, model=0.9, baseline=0.5)
    verdict(results, truth, {"weak": weak}).require("baseline")
    verdict(weak, truth, {"strong": results}).require(None)
    with pytest.raises(VerdictError, match=r"evaluate\.must_beat(.|\n)*Not better than a copy") as error:
        verdict(results, truth, {"weak": weak, "a copy": results}).require("baseline")
    assert "weak" not in str(error.value) and "files of the run are kept" in str(error.value)
    with pytest.raises(VerdictError, match="no baseline has accuracy"):
        verdict(results, truth, {}).require("baseline")
    with pytest.raises(VerdictError, match="Not compared row by row with hearsay"):
        verdict(results, truth, {}, scores={"hearsay": {"accuracy": 0.1}}).require("baseline")
