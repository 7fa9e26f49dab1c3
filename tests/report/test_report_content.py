"""The content of the report of a run."""

import json
from types import SimpleNamespace

import numpy as np
import points
import pytest

from hf_ft.evaluate.final import conclude
from hf_ft.recipe.read import load_recipe
from hf_ft.recipe.schema import EvaluateSection
from hf_ft.report.report_content import report_content, with_gate
from hf_ft.task import Evaluation
from hf_ft.train.decisions import Decision


@pytest.fixture
def made(tmp_path):
    """The content of a run that was never trained: every point is called 'above'."""
    table = points.rows(40)
    rows = [{"id": str(row), **one} for row, one in enumerate(table)]
    task = points.Points()
    task.restore({"labels": ["above", "below"]})
    truth = [int(row["label"] == "below") for row in rows]
    results = [{"class": 0, "scores": np.array([0.75, 0.25])}] * len(rows)
    metrics = task.metrics()
    metrics.update(results, truth)
    values = {**metrics.compute(), "loss": 0.7, "notes": ["one note"]}
    losses = [0.29 if klass == 0 else 1.39 for klass in truth]
    evaluation = Evaluation("test", [row["id"] for row in rows], results, truth, losses, values)
    recipe = load_recipe(
        {
            "task": "points:Points",
            "data": {"source": {"train": "a.csv", "test": "b.csv"}, "columns": {"point": ["x", "y"]}},
            "model": {"name": "m"},
            "train": {"num_train_epochs": 3},
        }
    )
    data = SimpleNamespace(
        rows={"train": rows, "test": rows},
        info={"splits": {"train": {"origin": "given"}, "test": {"origin": "given, too"}}},
        findings=SimpleNamespace(warnings=["a warning"], decisions=["rows are left out"]),
        final_split="test",
        seed=0,
        groups=lambda task, split: None,
        seen=lambda split: (),
    )
    setup = SimpleNamespace(
        recipe=recipe,
        task=task,
        data=data,
        metric="accuracy",
        greater=True,
        frozen=SimpleNamespace(
            strategy="head", norms_in_eval=0, counts=lambda: [("body", 0, 900), ("head", 100, 100)]
        ),
        decisions={"precision": Decision("fp32", "as asked")},
    )
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 3, "loss": 1.0, "eval_accuracy": 0.5}) + "\n")
    environment = {"packages": {"torch": "2"}, "python": "3.11", "device": "cpu"}
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    section = EvaluateSection(resamples=100)
    verdict = conclude({"test": evaluation}, task, section, metric="accuracy", greater=True, data=data)
    items = [SimpleNamespace(name="reload", passed=True, detail="9 rows")]
    return with_gate(report_content(tmp_path, setup, evaluation, verdict), items, {"train": 1.0})


def test_the_main_metric_comes_first_with_its_interval(made):
    first, *others = made.metrics
    assert first.name == "accuracy" and first.headline and first.greater
    assert first.interval == made.verdict.interval and first.value == made.verdict.value
    assert {one.name for one in others} >= {"macro_f1", "loss"}
    assert {one.name: one.greater for one in others}["loss"] is False
    assert len({one.name for one in made.metrics}) == len(made.metrics)


def test_the_summary_says_what_was_trained(made):
    assert made.summary.startswith("m, fine-tuned on 40 rows of train a.csv, test b.csv")
    assert "10 % of its weights trained (freeze.strategy: head)" in made.summary


def test_the_recipe_lists_keys_that_differ_from_the_defaults(made):
    assert made.recipe["data.columns"] == "point x, y" and made.recipe["train.num_train_epochs"] == "3"
    assert "seed" not in made.recipe and "evaluate.resamples" not in made.recipe


def test_classes_are_listed_with_their_most_frequent_confusion(made):
    (table,) = made.tables
    assert table.title == "Classes" and table.ordered_by == "f1"
    mistakes = {row["label"]: row["most often confused with"] for row in table.rows}
    below = sum(row["label"] == "below" for row in points.rows(40))
    assert mistakes == {"above": "", "below": f"above ({below} of {below})"}


def test_everything_else_that_a_reader_may_ask_for(made):
    assert made.warnings == ["a warning", "rows are left out", "one note"]
    assert made.splits == {"train": (40, "given"), "test": (40, "given, too")}
    assert made.train_facts == {"precision": "fp32: as asked"} and made.curve is not None
    assert [group.title for group in made.examples][:2] == ["Wrong answers", "Right answers"]
