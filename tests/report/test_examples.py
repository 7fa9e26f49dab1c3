"""Examples: wrong and right, worst and best, of different groups, and in a limited number."""

from functools import partial

import numpy as np
import points
import pytest

from hf_ft.data.scaler import Scaler
from hf_ft.evaluate.loop import measure
from hf_ft.evaluate.verdict import Bootstrap, judge
from hf_ft.report.curves import curve_svg
from hf_ft.report.examples import choose_examples, plain, preview_of, shorten
from hf_ft.report.report import MetricRow, ReportContent, ReportTable, write_report
from hf_ft.task import Evaluation, Preview, Task
from hf_ft.tasks.text_classification import TextClassification
from hf_ft.tasks.time_series_forecasting import TimeSeriesForecasting
from hf_ft.tasks.time_series_regression import TimeSeriesRegression


class Numbers(Task):
    """A task with numbers as answers."""

    name, summary, roles, main_metric, greater_is_better = "numbers", "", {}, "mae", {"mae": False}

    def decode(self, result):
        return {"value": result}


class Texts(points.Points):
    """A task whose rows are texts."""

    def preview(self, row, result, reference):
        return Preview(text=row["text"])


def classified(right, labels=("yes", "no", "maybe"), losses=True):
    """Make a task and its evaluation with the given right rows; the loss decreases from row to row."""
    task = Texts()
    task.restore({"labels": list(labels)})
    count, kinds = len(right), len(labels)
    truth = [row % kinds for row in range(count)]
    said = [klass if good else (klass + 1) % kinds for klass, good in zip(truth, right, strict=True)]
    scores = np.eye(kinds, dtype=np.float32)
    results = [{"class": klass, "scores": scores[klass]} for klass in said]
    metrics = task.metrics()
    metrics.update(results, truth)
    ids = [f"r{row}" for row in range(count)]
    loss = [float(count - row) for row in range(count)] if losses else None
    rows = [{"id": one, "text": f"text of {one}", "label": labels[truth[row]]} for row, one in enumerate(ids)]
    return task, rows, Evaluation("test", ids, results, truth, loss, metrics.compute())


class Tags(Task):
    """A task with several labels as answer."""

    name, summary, roles, main_metric, greater_is_better = "tags", "", {}, "f1", {"f1": True}

    def labels(self):
        return ["a", "b", "c"]

    def decode(self, result):
        return {"labels": result, "scores": {"a": 0.5}}

    def describe(self, result):
        return ", ".join(result) or "no label"


def ids(group):
    return [one.id for one in group.examples]


def test_wrong_answers_come_by_loss_and_right_ones_of_every_class():
    wrong, right, *difficult = choose_examples(*classified([row % 2 == 0 for row in range(60)]))
    assert ids(wrong) == [f"r{row}" for row in range(1, 24, 2)]
    assert all(one.right is False and one.truth not in one.answer for one in wrong.examples)
    assert len(right.examples) == 8 and {one.truth for one in right.examples[:3]} == {"yes", "no", "maybe"}
    assert all(one.right and one.truth in one.answer for one in right.examples)
    assert wrong.examples[0].preview == Preview(text="text of r1")
    assert not wrong.folded and not right.folded and all(group.folded for group in difficult)


def test_difficult_classes_have_their_wrong_rows_and_a_right_one():
    """Rows of 'no' are mostly wrong, the others right."""
    _, _, first, *_ = choose_examples(*classified([row % 3 != 1 or row > 50 for row in range(60)]))
    assert first.title == "Rows of no" and ids(first)[:2] == ["r1", "r4"]
    assert [one.right for one in first.examples] == [False, False, True]


def test_several_labels_are_right_in_any_order_and_wrong_where_one_is_missing():
    given = [["b", "a"], ["a"], [], ["c"]]
    truth = [["a", "b"], ["a", "c"], [], ["c"]]
    per_class = [{"label": "a", "support": 2, "f1": 0.5}, {"label": "c", "support": 2, "f1": 0.9}]
    evaluation = Evaluation("test", list("wxyz"), given, truth, None, {"per_class": per_class})
    wrong, right, of_a, of_c = choose_examples(Tags(), [{}] * 4, evaluation)
    assert [(one.id, one.truth, one.answer) for one in wrong.examples] == [("x", "a, c", "a")]
    assert {one.id for one in right.examples} == {"w", "y", "z"}
    assert {one.answer for one in right.examples} == {"b, a", "no label", "c"}
    assert (set(ids(of_a)), ids(of_c)) == ({"w", "x"}, ["x", "z"])


def test_only_one_row_of_a_group_is_shown():
    task, rows, evaluation = classified([False] * 60)
    wrong, *_ = choose_examples(task, rows, evaluation, [row // 20 for row in range(60)])
    assert ids(wrong) == ["r0", "r20", "r40"]


def test_without_wrong_answers_no_wrong_group_is_shown():
    groups = choose_examples(*classified([True] * 30))
    assert groups[0].title == "Right answers" and all(group.examples for group in groups)


def test_without_losses_rows_are_shown_too():
    wrong, *_ = choose_examples(*classified([row % 2 == 0 for row in range(60)], losses=False))
    assert len(wrong.examples) == 12 and wrong.note == "" and wrong.examples[0].loss is None


def test_numbers_have_a_worst_a_typical_and_a_best_row():
    losses = np.random.default_rng(0).permutation(100).astype(float)
    evaluation = Evaluation(
        "test", [f"r{i}" for i in range(100)], [1.5] * 100, [2.0] * 100, losses.tolist(), {}
    )
    groups = choose_examples(Numbers(), [{}] * 100, evaluation)
    found = {group.title: [one.loss for one in group.examples] for group in groups}
    assert found["Worst"] == [99.0, 98.0, 97.0, 96.0, 95.0, 94.0]
    assert found["Best"] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert all(40 < loss < 60 for loss in found["Typical"])
    one = groups[0].examples[0]
    assert (one.truth, one.answer, one.right) == ("2", "1.5", None)


def test_few_numbers_are_shown_once():
    evaluation = Evaluation("test", list("abc"), [1.0] * 3, [2.0] * 3, [0.1, 0.3, 0.2], {})
    (group,) = choose_examples(Numbers(), [{}] * 3, evaluation)
    assert ids(group) == ["b", "c", "a"]


def test_a_forecast_is_shown_as_a_curve():
    options = TimeSeriesForecasting.Options(units={"flow": "m3/s"})
    task = TimeSeriesForecasting(options)
    task.target.scaler = Scaler.none(["flow"])
    row = {
        "history": np.arange(400.0).reshape(200, 2),
        "start": np.datetime64("2024-05-01T06:00", "ns").astype("int64"),
    }
    result, truth = {"value": np.full((24, 1), 7.0)}, {"value": np.full((24, 1), 5.0)}
    preview = preview_of(task, row, result, truth)
    assert {name: len(values) for name, values in preview.curves.items()} == {
        "history": 72,
        "truth": 24,
        "forecast": 24,
    }
    assert preview.curves["history"][-1] == 398.0
    assert "2024-05-01 06:00" in preview.caption and "off by 2 m3/s" in preview.caption
    evaluation = Evaluation("test", ["a"], [{**result, "start": 0}], [truth], [0.5], {})
    (group,) = choose_examples(task, [row], evaluation)
    assert (group.examples[0].truth, group.examples[0].answer) == ("", "")


def test_a_series_a_pair_of_texts_and_what_cannot_be_shown():
    series = preview_of(TimeSeriesRegression(), {"id": "a", "series": [[1, 2], [3, 4]]}, None, None)
    assert series.curves == {"series": [1.0, 2.0]}
    texts = TextClassification()
    texts.input.columns = {"text": ["title", "body", "end"], "pair": "other"}
    assert preview_of(texts, {"text": ["a", None, "b"], "pair": "c " * 400}, None, None).text.startswith(
        "a b / c c"
    )
    assert len(preview_of(texts, {"text": ["a", None, "b"], "pair": "c " * 400}, None, None).text) < 350
    assert preview_of(Numbers(), {"point": [1, 2]}, None, None) == Preview()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1.23456, "b": [1, 2]}, "a 1.235, b 1, 2"),
        ([0.5] * 20, "0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, …"),
        (np.float64(2.5), "2.5"),
        (True, "yes"),
        (None, "none"),
        ("a  b\n c", "a b c"),
    ],
)
def test_plain(value, expected):
    assert plain(value) == expected


def test_texts_are_cut_behind_a_word():
    assert shorten("one two three", 9) == "one two …"
    assert shorten("x" * 50, 10) == "x" * 10 + " …"
    assert shorten("short", 10) == "short"


def test_a_curve_is_drawn_from_numbers_alone():
    svg = str(curve_svg({"history": [0.0, 10.0], "forecast": [5.0, float("nan"), 5.0], '"><script>': [1.0]}))
    assert svg.count("<path") == 3 and "<script" not in svg and "nan" not in svg
    assert ">10.0</text>" in svg and ">0</text>" in svg
    assert "<path" in curve_svg({"forecast": [3.0, 3.0]}) and "<path" in curve_svg({"forecast": []})
    assert len(curve_svg({"history": np.random.default_rng(0).normal(size=100_000)})) < 5000


def test_a_large_split_gives_no_more_examples_and_a_small_page(tmp_path):
    labels = [f"class {number}" for number in range(30)]
    task, rows, evaluation = classified(np.random.default_rng(0).random(50_000) < 0.9, labels)
    judged = judge(
        evaluation,
        partial(measure, task),
        {},
        {},
        Bootstrap(0),
        metric="accuracy",
        greater=True,
        selected=False,
    )
    groups = choose_examples(task, rows, evaluation)
    content = ReportContent(
        name="big",
        task="points",
        verdict=judged,
        metrics=[MetricRow("accuracy", judged.value)],
        examples=groups,
        tables=[ReportTable("Classes", evaluation.metrics["per_class"], "f1")],
    )
    assert sum(len(group.examples) for group in groups) <= 40
    assert write_report(tmp_path, content).stat().st_size < 2_000_000
