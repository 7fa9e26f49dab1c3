"""The audit inspects rows before the task is fitted; `Task.check` then finds further bad rows."""

import numpy as np
import pandas
import points
import pytest
import small_tasks

from hf_ft.data.prepare import prepare
from hf_ft.errors import DataError
from hf_ft.recipe.read import load_recipe
from hf_ft.registry import new_task
from hf_ft.task import Inspection, Task


class Lengths(Task):
    """Refuses negative lengths in `inspect`, and in `check` other lengths than that of the first row."""

    name, summary, main_metric, greater_is_better = "lengths", "", "mae", {"mae": False}
    roles = {}  # noqa: RUF012
    fitted_on = None

    def inspect(self, row):
        return Inspection(problem="below zero" if row["length"] < 0 else None)

    def fit(self, train):
        self.fitted_on = train.column("length")
        if 99 in self.fitted_on:
            raise DataError("train: 99 cannot be learned")

    def check(self, split, rows):
        return {
            index: f"{length} steps, not {self.fitted_on[0]}"
            for index, length in enumerate(rows.column("length"))
            if length != self.fitted_on[0]
        }


@pytest.fixture
def ready(monkeypatch, tmp_path):
    from hf_ft.task import Role

    monkeypatch.setattr(Lengths, "roles", {"length": Role("how long")})

    def make(lengths, on_bad="error", validation=20):
        source = {"source": "in memory", "split": {"validation": validation}, "on_bad": on_bad}
        recipe = load_recipe({"task": f"{__name__}:Lengths", "data": source, "model": {"name": "none"}})
        task = Lengths()
        return task, prepare(recipe, task, data=[{"length": one} for one in lengths], cache=tmp_path)

    monkeypatch.setattr("hf_ft.recipe.read.find_task", lambda value, problems: (Lengths, "lengths"))
    return make


def test_a_bad_row_is_a_finding_before_the_task_is_fitted(ready):
    task, found = ready([5] * 60 + [-1] + [7] * 2)
    assert -1 not in task.fitted_on
    reasons = [entry["reason"] for entry in found.findings.bad]
    assert sorted(reasons) == ["7 steps, not 5"] * 2 + ["below zero"]
    assert len(found.findings.errors) >= 2


def test_bad_rows_of_inspect_and_check_are_left_out_together(ready):
    _, found = ready([5] * 998 + [-1] + [7], "skip", validation=400)
    assert found.findings.errors == [] and len(found.findings.bad) == 2
    assert sum(len(part) for part in found.rows.values()) == 998
    assert all(set(part.column("length")) == {5} for part in found.rows.values())
    assert found.info["sizes"] == {split: len(part) for split, part in found.rows.items()}


def test_an_error_in_fit_does_not_hide_the_findings(ready):
    _, found = ready([5] * 60 + [-1] * 3 + [99] * 25)
    assert any("below zero" in error for error in found.findings.errors)
    assert any("99 cannot be learned" in error for error in found.findings.errors)
    with pytest.raises(DataError, match="99 cannot be learned"):
        ready([5] * 60 + [99] * 25)


def test_the_task_is_not_fitted_without_usable_rows(ready):
    task, found = ready([-1] * 60)
    assert task.fitted_on is None and found.findings.errors and found.info["labels"] is None


def test_results_of_check_are_not_cached_with_inspections(tmp_path):
    """`check` depends on the training rows, so its result for a row may differ in another run."""

    def look(lengths):
        rows = pandas.DataFrame(
            {"values": [np.arange(float(length)) + seed for seed, length in enumerate(lengths)]}
        )
        rows["y"] = np.arange(len(rows), dtype=float)
        recipe = load_recipe(
            {
                "task": "time-series-regression",
                "data": {"source": "in memory", "split": {"validation": 4}},
                "model": {"name": "patchtst", "from_scratch": True},
            }
        )
        return prepare(recipe, new_task(recipe), data=rows, cache=tmp_path).findings

    first = look([16] * 20 + [9] * 3)
    assert ["found 9 steps" in entry["reason"] for entry in first.bad] == [True] * 3
    again = look([16] * 20 + [9] * 3)
    assert again.cached and again.bad == first.bad
    # The same rows, but most of the training rows now have another length.
    other = look([16] * 20 + [9] * 30)
    assert ["found 16 steps" in entry["reason"] for entry in other.bad] == [True] * 20


def prepared(data, duplicates, tmp_path, task="points:Points", **section):
    recipe = load_recipe(
        {
            "task": task,
            "data": {"source": "in memory", "duplicates": duplicates, **section},
            "model": {"name": "none"},
        }
    )
    return prepare(recipe, new_task(recipe), data=data, cache=tmp_path)


def test_duplicates_leave_train_and_validation_and_are_recorded(tmp_path):
    points_ = points.rows(60)
    # Rows 0 and 1 of test are in train, row 2 in validation.
    data = {"train": points_[:40], "validation": points_[40:50], "test": points_[50:]}
    data["test"] = [points_[0], points_[1], points_[40], *data["test"]]
    with pytest.raises(DataError, match="test: 2 rows"):
        prepared(data, "error", tmp_path).findings.raise_for_errors()
    found = prepared(data, "drop_from_train", tmp_path)
    assert found.findings.errors == []
    assert found.info["sizes"] == {"train": 38, "validation": 9, "test": 13}
    assert found.info["left_out"] == {
        "train": {"train/0": "test/0", "train/1": "test/1"},
        "validation": {"validation/0": "test/2"},
    }
    assert [line for line in found.info["notes"] if "are left out" in line] == found.findings.decisions
    assert len(found.findings.decisions) == 2 and not found.seen("test")


def test_duplicates_that_are_reported_stay(tmp_path):
    points_ = points.rows(60)
    data = {"train": points_[:40], "test": [points_[0], *points_[40:]]}
    found = prepared(data, "report", tmp_path, split={"validation": 10})
    assert found.info["sizes"]["test"] == 21 and list(found.seen("test")) == ["test/0"]
    assert list(found.info["seen"]["test"]) == ["test/0"] and "left_out" not in found.info


def test_a_class_that_is_lost_with_the_duplicates_is_explained(tmp_path):
    data = {"train": points.rows(40), "test": points.rows(60)[40:]}
    rare = {"point": [9.0, 9.0], "label": "beyond"}
    data = {split: [*rows, rare] for split, rows in data.items()}
    with pytest.raises(DataError, match=r"'beyond' in 1 rows[\s\S]*train: 1 of .* are left out"):
        prepared(data, "drop_from_train", tmp_path, task="points:ComposedPoints")


@pytest.mark.parametrize("setting", ["drop_from_train", "report"])
def test_splits_that_are_wholly_equal_are_refused(setting, tmp_path):
    rows = points.rows(40)
    with pytest.raises(DataError, match=rf"data.duplicates: {setting}: \d+ of \d+ rows of"):
        prepared({"train": rows, "validation": rows[::-1]}, setting, tmp_path)


def test_duplicates_mean_nothing_for_windows_of_a_series(tmp_path):
    recipe, frame = small_tasks.windows(tmp_path)
    recipe |= {"data": {"source": "in memory", "duplicates": "report"}}
    recipe = load_recipe(recipe)
    with pytest.raises(DataError, match=r"data.duplicates: report has no effect.*time-series-forecasting"):
        prepare(recipe, new_task(recipe), data=frame, cache=tmp_path)
