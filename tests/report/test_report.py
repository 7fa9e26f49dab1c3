"""The report: untrusted names are escaped, the page is self-contained, the result comes first."""

import io
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console as Terminal

from hf_ft.errors import DataError
from hf_ft.evaluate.figures import confusion_figure, learning_curve_figure, per_class_figure, scatter_figure
from hf_ft.evaluate.verdict import Comparison, Verdict
from hf_ft.report.console import Console, result_table
from hf_ft.report.examples import Example, ExampleGroup, Preview
from hf_ft.report.report import (
    Check,
    MetricRow,
    ReportContent,
    ReportTable,
    show_seconds,
    write_report,
)

ATTACK = "<script>alert(1)</script>"
QUOTE = '" onerror="alert(1)'
PIXEL = "data:image/png;base64,iVBORw0KGgo="
# Tags that have no end tag; those of SVG end themselves.
VOID = {"meta", "img", "br", "path", "use", "rect", "image"}


class Page(HTMLParser):
    """Tags, attributes, ids and text of a page; a tag that is not closed, or closed twice, is an error."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.ids, self.text, self.open, self.terms = [], [], [], "", [], []
        self.folded = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.ids += [value for key, value in attributes if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.ids += [value for key, value in attributes if key == "id"]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data + " "
        if "details" in self.open:
            self.folded += data + " "
        if self.open and self.open[-1] == "dt":
            self.terms.append(data)

    @property
    def words(self):
        return " ".join(self.text.split())


def verdict(outcome="better", name="always 'stop'", **changes):
    value = {"better": 0.056, "worse": 0.99}.get(outcome, 0.976)
    interval = {"better": (0.9, 0.94), "worse": (-0.02, -0.005), "not better": (-0.01, 0.02)}.get(outcome)
    one = Comparison(name, outcome, value, 0.9762, interval, 1234, {"accuracy": value, "macro_f1": 0.01})
    base = {
        "metric": "accuracy",
        "greater": True,
        "unit": "",
        "split": "test",
        "rows": 1234,
        "selected": False,
        "value": 0.9762,
        "interval": (0.9651, 0.9849),
        "confidence": 0.95,
        "comparisons": [one],
    }
    return Verdict(**{**base, **changes})


def metric(name, value, interval=None, **changes):
    return MetricRow(name, value, interval, **{"greater": True, **changes})


def content(**changes):
    base = {
        "name": "signs",
        "task": "image-classification",
        "verdict": verdict(),
        "metrics": [metric("accuracy", 0.9762, (0.9651, 0.9849), baselines={"always 'stop'": 0.056})],
    }
    return ReportContent(**{**base, **changes})


def classes(labels, scores):
    keys = ("support", "precision", "recall", "f1")
    return [
        {"label": label, **dict(zip(keys, (4, 0.5, 0.5, float(score)), strict=True))}
        for label, score in zip(labels, scores, strict=True)
    ]


def example(**changes):
    base = {"id": "a", "truth": "stop", "answer": "go (51%)", "right": False, "loss": 2.0}
    return Example(**{**base, **changes})


def rich_content():
    """Content in every place, with untrusted text wherever it can occur."""
    labels = ["stop", ATTACK, "停车"]
    strange = Example(ATTACK, ATTACK, ATTACK, False, 3.0, Preview(PIXEL, caption=ATTACK))
    text = Example("b", "stop", "stop", True, 0.1, Preview(text=f"{ATTACK} and {QUOTE}"))
    curves = {"history": [1.0, 2.0], "truth": [2.0, 3.0], "forecast": [2.5, float("nan")], QUOTE: [1.0]}
    return content(
        name=ATTACK,
        summary=ATTACK,
        verdict=verdict(name=ATTACK),
        metrics=[
            metric("accuracy", 0.9762, (0.9651, 0.9849), baselines={ATTACK: 0.056}),
            metric(ATTACK, 0.97),
            metric("loss", 0.1, greater=False, headline=False),
        ],
        examples=[
            ExampleGroup("Wrong answers", [strange], "The highest loss first."),
            ExampleGroup(ATTACK, [text, example(preview=Preview(curves=curves))], folded=True),
        ],
        tables=[ReportTable("Classes", classes(labels, (0.9, 0.1, 0.5)), "f1")],
        figures=[confusion_figure(np.diag([3, 4, 5]) + 1, labels)],
        curve=learning_curve_figure([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]),
        splits={"train": (10, ATTACK), "test": (1234, "given")},
        warnings=[ATTACK],
        usage=["from hf_ft import Predictor", ATTACK],
        recipe={"data.source": ATTACK},
        recipe_text=ATTACK,
        model_facts={"parameters": "1,234"},
        train_facts={"precision": f"fp32: {ATTACK}"},
        checks=[Check("same outputs", True, "2e-7"), Check(ATTACK, False, ATTACK)],
        timing={"train": 3725.0},
        environment={"torch": ATTACK},
    )


def write(tmp_path, what):
    path = write_report(tmp_path, what)
    assert path == tmp_path / "report.html"
    source = path.read_text(encoding="utf-8")
    return source, Page(source)


# Safe and self-contained


def test_untrusted_names_are_escaped(tmp_path):
    source, page = write(tmp_path, rich_content())
    assert "script" not in page.tags
    assert "<script" not in source
    assert page.text.count(ATTACK) >= 18
    assert "停车" in page.text and QUOTE in page.text


def test_attributes_cannot_be_escaped_from(tmp_path):
    group = ExampleGroup("Wrong", [example(id=QUOTE, preview=Preview(PIXEL))])
    _, page = write(tmp_path, content(examples=[group, *rich_content().examples]))
    assert ("alt", f"row {QUOTE}") in page.attributes
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_nothing_is_fetched(tmp_path):
    source, page = write(tmp_path, rich_content())
    addresses = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert not re.search(r"url\((?!#)|@import", source)
    assert "default-src 'none'" in source
    assert not {"link", "iframe", "object", "embed", "script"} & set(page.tags)


def test_a_picture_from_elsewhere_is_refused(tmp_path):
    for address in ("https://example.org/x.png", "data:image/svg+xml;base64,AAAA"):
        group = ExampleGroup("Wrong", [example(preview=Preview(address))])
        with pytest.raises(DataError, match="row 'a' begins with"):
            write(tmp_path, content(examples=[group]))


def test_ids_of_figures_are_unique_on_the_page(tmp_path):
    source, page = write(tmp_path, rich_content())
    assert len(page.ids) == len(set(page.ids))
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', source))
    assert {first or second for first, second in used} <= set(page.ids)


def test_figures_take_the_colour_of_the_text(tmp_path):
    source, _ = write(tmp_path, rich_content())
    assert "currentColor" in source
    assert "#1b1d21" not in source[source.index("</style>") :]


def test_figures_are_files_too(tmp_path):
    write(tmp_path, rich_content())
    found = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert set(found) == {"confusion.png", "learning.png"}
    assert all(data.startswith(b"\x89PNG") for data in found.values())
    assert not list(tmp_path.glob("*.partial"))


def test_a_figure_cannot_leave_its_folder(tmp_path):
    figure = confusion_figure([[1]], ["a"], name="../../x y")
    write(tmp_path, content(figures=[figure]))
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["_x_y.png"]


def test_figures_of_one_name_are_refused(tmp_path):
    figures = [confusion_figure([[1]], ["a"]), confusion_figure([[1]], ["a"])]
    with pytest.raises(DataError, match="two figures are named 'confusion'"):
        write(tmp_path, content(figures=figures))


def test_the_same_content_gives_the_same_page(tmp_path):
    first, _ = write(tmp_path, rich_content())
    second, _ = write(tmp_path, rich_content())
    assert first == second


def test_no_metric_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least one metric"):
        write(tmp_path, content(metrics=[]))


# What is said, and where


def test_the_result_comes_first(tmp_path):
    _, page = write(tmp_path, rich_content())
    sections = ["result", "examples", "curves", "data", "use", "details"]
    assert [name for name in page.ids if name in sections] == sections
    places = [page.words.index(text) for text in ("97.6", "Better than", "Wrong answers", "Classes", "fp32:")]
    assert places == sorted(places)


def test_details_are_folded(tmp_path):
    _, page = write(tmp_path, rich_content())
    for text in ("fp32:", "1 h 2 min", "data.source", "same outputs", "2e-7", "parameters", "torch"):
        assert page.text.count(text) == page.folded.count(text) == 1
    for text in ("Better than", "Wrong answers", "97.6"):
        assert text in page.text and text not in page.folded


def test_nothing_is_said_twice(tmp_path):
    _, page = write(tmp_path, rich_content())
    assert page.terms and max(Counter(page.terms).values()) == 1
    metrics = page.words[page.words.index("Metrics") :]
    assert metrics.count("97.6 %") == 1 and metrics.count("macro") == 0
    assert page.words.count("Better than") == 1


def test_no_value_is_shown_as_python_writes_it(tmp_path):
    facts = {"sizes": {"train": 3, "test": [1, 2.50001]}, "flag": True, "none": None, "name": "x"}
    _, page = write(
        tmp_path, content(recipe=facts, tables=[ReportTable("T", [{"a": {"b": 1.5}, "c": False}])])
    )
    assert "train 3, test 1, 2.5" in page.words and "flag yes" in page.words and "b 1.5 no" in page.words
    assert not re.search(r"\{'|\['|True|None", page.words)


def test_the_main_metric_has_its_interval_beside_it(tmp_path):
    _, page = write(tmp_path, content(interval_over="groups of rows"))
    assert "accuracy on test 97.6 %" in page.words
    assert "96.5 to 98.5 % , 95 % interval over groups of rows" in page.words


def test_a_metric_with_a_unit(tmp_path):
    one = metric("mae", 7.2134, (6.9, 7.5), unit="cars", greater=False)
    judged = verdict(
        metric="mae", greater=False, unit="cars", value=7.2134, interval=(6.9, 7.5), comparisons=[]
    )
    _, page = write(tmp_path, content(metrics=[one], verdict=judged))
    assert "MAE on test 7.21 cars" in page.words
    assert "6.90 to 7.50 cars" in page.words


@pytest.mark.parametrize(
    ("outcome", "style", "words"),
    [
        ("better", "better", "Better than always 'stop': accuracy 97.6 % against 5.6 %"),
        ("not better", "unsure", "Not better than always 'stop'"),
        ("worse", "worse", "Worse than always 'stop'"),
        ("not compared", "unsure", "Not compared row by row with always 'stop'"),
    ],
)
def test_the_verdict_stands_out(tmp_path, outcome, style, words):
    _, page = write(tmp_path, content(verdict=verdict(outcome)))
    assert ("class", f"verdict {style}") in page.attributes
    assert words in page.words and "on 1,234 rows of test" in page.words


def test_every_baseline_has_a_line(tmp_path):
    weak = verdict().comparisons[0]
    strong = Comparison("trees", "worse", 0.99, 0.9762, (-0.02, -0.01), 1000, {"accuracy": 0.99})
    _, page = write(tmp_path, content(verdict=verdict(comparisons=[strong, weak])))
    table = page.words[page.words.index("Comparison with the baselines") :]
    assert re.search(r"this model 97\.6 % trees 99\.0 % worse , 1\.4 points lower", table)
    assert "on the 1,000 rows that it answers" in table
    assert re.search(r"always 'stop' 5\.6 % better , 92\.\d points higher", table)


@pytest.mark.parametrize("greater", [True, False])
def test_every_metric_says_which_way_is_better(tmp_path, greater):
    """A lower error is better, whether or not the recipe chose by it (tf PR#31142)."""
    rows = [metric("surprise", 1.5, (1.0, 2.0), greater=greater), metric("mae", 0.25, greater=False)]
    rows += [metric("r2", 0.75), metric("other", 1.0, greater=None)]
    _, page = write(tmp_path, content(metrics=rows))
    table = page.words[page.words.index("better is") :]
    assert re.search(rf"surprise 1\.5\d* .*? {'higher' if greater else 'lower'} MAE", table)
    assert re.search(r"MAE 0\.25\d* lower", table) and re.search(r"R2 0\.75\d* higher", table)
    assert re.search(r"other 1\.0\d*$", table.partition(" Details")[0])


def test_metrics_beside_the_headlines_are_folded(tmp_path):
    rows = [metric("accuracy", 0.5), metric("mcc", 0.25, headline=False), metric("loss", 1.0, headline=False)]
    _, page = write(tmp_path, content(metrics=rows))
    assert (
        "2 more metrics" in page.words
        and "MCC" in page.folded
        and "MCC" not in page.words.replace(" ".join(page.folded.split()), "")
    )


def test_the_items_of_the_gate_are_shown(tmp_path):
    checks = [Check("same outputs", True), Check("frozen unchanged", True)]
    assert "verified: 2 of 2" in write(tmp_path, content(checks=checks))[1].words
    checks.append(Check("label map", False, "3 names differ"))
    _, page = write(tmp_path, content(checks=checks))
    assert "verification failed: label map" in page.words
    assert "failed label map 3 names differ" in page.words and ("open", None) in page.attributes
    assert "not verified" in write(tmp_path, content())[1].words


# Examples


def test_examples_show_what_they_are(tmp_path):
    picture = example(preview=Preview(PIXEL))
    text = example(id="t", right=True, answer="go (90%)", preview=Preview(text="go on"))
    curves = {"history": list(range(300)), "truth": [1.0, 2.0], "forecast": [1.0, 3.0]}
    curve = example(
        id="c", truth="", answer="", right=None, preview=Preview(curves=curves, caption="from June")
    )
    number = example(id="n", truth="3.1", answer="3.4", right=None)
    groups = [ExampleGroup("Some", [picture, text, curve, number], "As they come.")]
    _, page = write(tmp_path, content(examples=groups))
    assert page.tags.count("img") == page.tags.count("blockquote") == 1
    assert {("class", name) for name in curves} <= set(page.attributes)
    assert "✗ model go (51%) truth stop a, loss 2.00" in page.words
    assert "go on ✓ go (90%) t" in page.words
    assert "model 3.4 truth 3.1 n, loss 2.00" in page.words and "from June c, loss 2.00" in page.words
    assert page.words.count("✗") == 1


# Many rows, many classes


def many_classes(count):
    labels = [f"class {number:04d} {ATTACK}" for number in range(count)]
    return labels, classes(labels, np.linspace(0, 1, count))


def test_a_thousand_classes_are_usable(tmp_path):
    """The worst and the best classes are shown, the others are folded, and no figure shows all."""
    labels, rows = many_classes(1000)
    drawn = [per_class_figure(rows), confusion_figure(np.ones((1000, 1000), dtype=int), labels)]
    source, page = write(tmp_path, content(tables=[ReportTable("Classes", rows[::-1], "f1")], figures=drawn))
    table = page.text[page.text.index("Classes, the worst first") :]
    assert "988 more" in table and "988 more" in page.folded
    assert [f"class {number:04d}" in page.folded for number in (0, 7, 8, 995, 996, 999)] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert table.index("class 0000") < table.index("class 0008") < table.index("class 0999")
    assert len(source) < 2_000_000


def test_few_classes_are_shown_whole_and_once(tmp_path):
    _, rows = many_classes(10)
    _, page = write(
        tmp_path, content(tables=[ReportTable("Classes", rows, "f1")], figures=[per_class_figure(rows)])
    )
    assert page.text.count("class 0003") == 1 and "class 0003" not in page.folded
    assert (tmp_path / "figures" / "per_class.png").exists()
    assert page.tags.count("figure") == 0


def test_a_page_stays_small_whatever_the_number_of_rows(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=50_000)
    source, _ = write(
        tmp_path, content(figures=[scatter_figure(truth + rng.normal(size=50_000), truth, "y")])
    )
    assert len(source) < 2_000_000


# Elsewhere


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (3.21, "3.2 s"),
        (59.97, "1 min 0 s"),
        (250, "4 min 10 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_show_seconds(seconds, expected):
    assert show_seconds(seconds) == expected


def test_result_table():
    terminal = Terminal(width=100, record=True, file=io.StringIO())
    what = content(name="[red]signs", metrics=[*content().metrics, metric("weird[/]", 0.5, headline=False)])
    terminal.print(result_table(what))
    lines = terminal.export_text().splitlines()
    assert "[red]signs: test, 1,234 rows" in lines[0]
    accuracy = next(line for line in lines if "accuracy" in line)
    assert all(text in accuracy for text in ("97.6 %", "96.5 to 98.5 %", "5.6 %"))
    assert any("weird[/]" in line for line in lines)


@pytest.mark.parametrize(("outcome", "colour"), [("better", "32"), ("not better", "33"), ("worse", "31")])
def test_the_console_prints_the_verdict_first_and_in_colour(outcome, colour):
    console = Console()
    console.terminal = Terminal(
        width=300, file=io.StringIO(), force_terminal=True, color_system="standard", highlight=False
    )
    console.result(content(verdict=verdict(outcome, name="[b]last")))
    first = console.terminal.file.getvalue().splitlines()[0]
    assert first.startswith(f"\x1b[1;{colour}m") and f"{outcome.capitalize()} than [b]last" in first


def test_the_result_without_duplicates_is_beside_the_verdict(tmp_path):
    unseen = verdict(rows=1000, value=0.9512, interval=(0.93, 0.96))
    page, _ = write(tmp_path, content(verdict=verdict(unseen=unseen)))
    assert "234 of the 1,234 rows of test are equal to a row of train or validation" in page
    assert "Without them: accuracy 95.1 %" in page
    assert "Without them" not in write(tmp_path, content())[0]
