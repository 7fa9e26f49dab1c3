"""The end of a run: intervals on every split, a verdict on the final split."""

from types import SimpleNamespace

import numpy as np
import points
import pytest

from hf_ft.errors import VerdictError
from hf_ft.evaluate.final import conclude
from hf_ft.recipe.schema import EvaluateSection
from hf_ft.task import Evaluation


class Points(points.Points):
    """Points with a trivial baseline, and a better one that does not answer the first row."""

    def baselines(self, train, rows):
        first = {"class": 0, "scores": np.eye(2)[0]}
        right = [{"class": row % 2, "scores": np.eye(2)[row % 2]} for row in rows]
        return {"the most frequent class of train": [first] * len(rows), "trees": [None, *right[1:]]}


def measured(task, right, split):
    truth = [row % 2 for row in range(len(right))]
    predicted = [klass if good else 1 - klass for klass, good in zip(truth, right, strict=True)]
    results = [{"class": klass, "scores": np.eye(2)[klass]} for klass in predicted]
    metrics = task.metrics()
    metrics.update(results, truth)
    values = {**metrics.compute(), "loss": 0.5}
    return Evaluation(split, [f"{split}/{row}" for row in range(len(right))], results, truth, None, values)


class Rows(list):
    def select(self, indices):
        return Rows(self[index] for index in indices)


class Task(Points):
    def references(self, rows, indices=None):
        return [rows[index] % 2 for index in (range(len(rows)) if indices is None else indices)]


class MajorityOnly(Task):
    def baselines(self, train, rows):
        return {"majority": super().baselines(train, rows)["the most frequent class of train"]}


def concluded(splits, metric="accuracy", greater=True, seen=(), groups=None, task=Task, **section):
    """Return evaluations and verdict; `splits` says which rows of each split are right.

    `seen` are the rows of the final split that are in an earlier split, too.
    """
    task = task()
    task.restore({"labels": ["a", "b"]})
    evaluations = {split: measured(task, right, split) for split, right in splits.items()}
    data = SimpleNamespace(
        rows={"train": None, **{split: Rows(range(len(right))) for split, right in splits.items()}},
        final_split=list(splits)[-1],
        seed=3,
        groups=lambda task, split: groups,
        seen=lambda split: {f"{split}/{row}" for row in seen},
    )
    chosen = EvaluateSection(resamples=200, **section)
    return evaluations, conclude(evaluations, task, chosen, metric=metric, greater=greater, data=data)


def test_every_split_has_an_interval_and_the_final_one_the_verdict():
    evaluations, verdict = concluded({"validation": [True] * 30 + [False] * 10, "test": [True, False] * 30})
    assert set(evaluations["validation"].intervals) == set(evaluations["test"].intervals) == {"accuracy"}
    low, high = evaluations["test"].intervals["accuracy"]
    assert low < 0.5 < high and verdict.interval == (low, high)
    assert (verdict.split, verdict.rows, verdict.selected) == ("test", 60, False)
    found = evaluations["test"]
    assert found.baseline["the most frequent class of train"]["accuracy"] == 0.5
    assert found.baseline["trees"]["accuracy"] == 1 and found.baselines["trees"][0] is None
    assert [result["class"] for result in found.baselines["trees"][1:4]] == [1, 0, 1]


def test_baselines_have_names_and_the_hardest_comes_first():
    _, verdict = concluded({"test": [True, False] * 30})
    assert [one.name for one in verdict.comparisons] == ["trees", "the most frequent class of train"]
    assert verdict.alarming and "Worse than trees" in verdict.text
    assert [one.rows for one in verdict.comparisons] == [59, 60]


def test_a_run_without_test_says_that_validation_chose_the_checkpoint():
    _, verdict = concluded({"validation": [True, False] * 30})
    assert verdict.selected and "validation, which also chose the checkpoint" in verdict.text


def test_with_loss_as_metric_the_verdict_uses_the_task_s_main_metric():
    evaluations, verdict = concluded({"test": [True, False] * 30}, metric="loss", greater=False)
    assert (verdict.metric, verdict.greater, verdict.value) == ("accuracy", True, 0.5)
    assert set(evaluations["test"].intervals) == {"accuracy"}


def test_too_few_rows_for_an_interval_do_not_fail_the_run():
    evaluations, verdict = concluded({"validation": [True] * 9 + [False], "test": [True]})
    assert verdict.interval is None and verdict.outcome == "not compared" and verdict.value == 1.0
    assert evaluations["test"].intervals == {}
    assert "at least 2 rows" in evaluations["test"].metrics["notes"][-1]
    assert evaluations["validation"].intervals


def test_intervals_can_be_switched_off():
    evaluations, verdict = concluded({"test": [True, False] * 30}, intervals="none")
    assert evaluations["test"].intervals == {} and verdict.interval is None


def test_an_accuracy_of_one_on_few_rows_has_an_interval():
    """The bootstrap interval has no width there; Wilson's interval has."""
    evaluations, _ = concluded({"test": [True] * 12})
    low, high = evaluations["test"].intervals["accuracy"]
    assert low == pytest.approx(0.757, abs=0.002) and high == pytest.approx(1.0)


def test_rows_that_are_in_train_too_are_measured_with_and_without():
    """All rows that the model has learned are right, and half of the others."""
    right = [True] * 20 + [True, False] * 20
    evaluations, verdict = concluded({"test": right}, seen=range(20))
    assert verdict.rows == 60 and verdict.value == evaluations["test"].metrics["accuracy"] == 40 / 60
    unseen = verdict.unseen
    assert unseen.rows == 40 and unseen.value == 0.5 and unseen.interval[0] < 0.5 < unseen.interval[1]
    assert {one.name: one.value for one in unseen.comparisons} == {
        "the most frequent class of train": 0.5,
        "trees": 1.0,
    }
    assert "20 of the 60 rows of test are equal to a row of train or validation" in verdict.unseen_text
    assert "Without them: accuracy 50 %" in verdict.unseen_text and "Worse than trees" in verdict.unseen_text
    (entry,) = verdict.without_duplicates().values()
    assert (entry["rows"], entry["metric"], entry["value"]) == (40, "accuracy", 0.5)
    assert evaluations["test"].intervals["accuracy"] == verdict.interval  # of all rows


def test_a_model_must_beat_the_baselines_without_the_duplicates_too():
    """Half of the rows are known by heart: with them the model is better, without them it is not."""
    right = [True] * 40 + [True, False] * 20
    _, verdict = concluded({"test": right}, seen=range(40), task=MajorityOnly)
    assert verdict.outcome == "better" and verdict.unseen.outcome == "not better"
    with pytest.raises(VerdictError, match="on the 40 rows that are in no earlier split"):
        verdict.require("baseline")


def test_groups_are_drawn_whole_without_the_duplicates_too():
    groups = [row // 10 for row in range(60)]
    right = [True] * 20 + [group % 2 == 0 for group in groups[20:]]
    _, verdict = concluded({"test": right}, seen=range(20), groups=groups)
    _, alone = concluded({"test": right}, seen=range(20))
    assert verdict.unseen.value == alone.unseen.value == 0.5

    def width(one):
        return one.unseen.interval[1] - one.unseen.interval[0]

    assert width(verdict) > 1.5 * width(alone)


def test_no_row_is_in_train_too():
    _, verdict = concluded({"test": [True, False] * 30})
    assert verdict.unseen is None and verdict.unseen_text is None and verdict.without_duplicates() == {}
