"""The report: safe with names of strangers, self-contained, honest about what was measured on which rows."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from hf_ft.errors import DataError
from hf_ft.evaluate.figures import confusion_figure, learning_curve_figure
from hf_ft.report.report import (
    Check,
    Headline,
    ReportContent,
    WorstRow,
    result_table,
    show,
    show_name,
    show_seconds,
    write_report,
)

ATTACK = "<script>alert(1)</script>"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


class Page(HTMLParser):
    """Tags, attributes, ids and text of a page."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.ids, self.text = [], [], [], ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.ids += [value for key, value in attributes if key == "id"]

    def handle_data(self, data):
        self.text += data + " "

    @property
    def words(self):
        return " ".join(self.text.split())


def content(**changes):
    base = {
        "name": "signs",
        "task": "image-classification",
        "model": "some/model",
        "data": "../data",
        "split": "test",
        "rows": 1234,
        "headlines": [Headline("accuracy", 0.9762, (0.9651, 0.9849), 0.056)],
        "selected_on": "validation",
        "metrics": {"accuracy": 0.9762, "loss": 0.1234},
        "directions": {"accuracy": True, "loss": False},
    }
    return ReportContent(**{**base, **changes})


def rich_content():
    labels = ["stop", ATTACK, "停车"]
    return content(
        name=ATTACK,
        headlines=[Headline("accuracy", 0.9762, (0.9651, 0.9849), 0.056), Headline("macro_f1", 0.97)],
        baseline=ATTACK,
        recipe={"strategy": ATTACK},
        recipe_text=ATTACK,
        splits={"train": 10, "test": 1234},
        warnings=[ATTACK],
        per_class=[
            {"label": label, "support": 4, "precision": 0.5, "recall": 0.5, "f1": score}
            for label, score in zip(labels, (0.9, 0.1, 0.5), strict=True)
        ],
        figures=[confusion_figure(np.diag([3, 4, 5]) + 1, labels)],
        curve=learning_curve_figure([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]),
        worst=[WorstRow(ATTACK, ATTACK, ATTACK, 3.0, PIXEL), WorstRow("b", "stop", "go", 2.0)],
        checks=[Check("same outputs", True, "2e-7"), Check(ATTACK, False, ATTACK)],
        timing={"train": 3725.0},
        environment={"torch": ATTACK},
        usage=["from hf_ft import Predictor", ATTACK],
    )


def write(tmp_path, what):
    path = write_report(tmp_path, what)
    assert path == tmp_path / "report.html"
    source = path.read_text(encoding="utf-8")
    return source, Page(source)


@pytest.mark.parametrize("greater", [True, False])
def test_every_metric_says_which_way_is_better(tmp_path, greater):
    """Of an error less is better, whether the recipe chose by it or not (tf PR#31142)."""
    what = content(
        headlines=[Headline("surprise", 1.5, (1.0, 2.0), 3.0, greater_is_better=greater)],
        metrics={"surprise": 1.5, "mae": 0.25, "r2": 0.75, "other": 1.0},
        directions={"surprise": greater, "mae": False, "r2": True},
    )
    _, page = write(tmp_path, what)
    table = page.words[page.words.index("interval baseline better") :]
    assert re.search(rf"surprise 1\.5\d* .*? {'higher' if greater else 'lower'} MAE", table)
    assert re.search(r"MAE 0\.25\d* lower", table) and re.search(r"R.? ?0\.75\d* higher", table)


def test_names_of_strangers_stay_text(tmp_path):
    source, page = write(tmp_path, rich_content())
    assert "script" not in page.tags
    assert "<script" not in source
    assert page.text.count(ATTACK) >= 12
    assert "停车" in page.text


def test_attributes_cannot_be_escaped_from(tmp_path):
    quote = '" onerror="alert(1)'
    _, page = write(tmp_path, content(worst=[WorstRow(quote, "a", "b", 1.0, PIXEL)]))
    assert ("alt", f"row {quote}") in page.attributes
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
        with pytest.raises(DataError, match="row 'a' begins with"):
            write(tmp_path, content(worst=[WorstRow("a", "b", "c", 1.0, address)]))


def test_ids_of_figures_do_not_meet(tmp_path):
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


def test_headline_and_honest_line(tmp_path):
    _, page = write(tmp_path, content(baseline="always 'stop'"))
    assert "accuracy on test 97.6 %" in page.words
    assert "96.5 % to 98.5 % 95 % bootstrap interval over rows" in page.words
    assert "Measured on 1,234 rows of the test split." in page.words
    assert "The trivial answer (always 'stop') scores 5.6 % on the same rows." in page.words
    assert "selected on validation, never on these rows" in page.words


@pytest.mark.parametrize(
    ("selected_on", "sentence"),
    [
        ("test", "selected on these very rows, so the figure is optimistic"),
        (None, "No checkpoint was selected: this is the last one"),
    ],
)
def test_selection_is_said(tmp_path, selected_on, sentence):
    _, page = write(tmp_path, content(selected_on=selected_on))
    assert sentence in page.words


def test_the_gate_is_said(tmp_path):
    checks = [Check("same outputs", True), Check("frozen unchanged", True)]
    assert "verified: 2 of 2" in write(tmp_path, content(checks=checks))[1].words
    checks.append(Check("label map", False, "3 names differ"))
    words = write(tmp_path, content(checks=checks))[1].words
    assert "verification failed: label map" in words
    assert "fails label map 3 names differ" in words
    assert "not verified" in write(tmp_path, content())[1].words


def test_sections_are_named_after_the_rooms(tmp_path):
    _, page = write(tmp_path, rich_content())
    rooms = ["recipe", "data", "model", "train", "evaluate", "verify", "use"]
    assert [name for name in page.ids if name in rooms] == rooms


def test_classes_are_worst_first(tmp_path):
    _, page = write(tmp_path, rich_content())
    table = page.text[page.text.index("Classes, the worst first") :]
    assert table.index(ATTACK) < table.index("停车") < table.index("stop")


def test_regression_with_a_unit(tmp_path):
    headline = Headline("mae", 7.2134, (6.9, 7.5), 30.0, greater_is_better=False, unit="cars")
    _, page = write(tmp_path, content(headlines=[headline], metrics={"mae": 7.2134}))
    assert "MAE on test 7.213 cars" in page.words
    assert "6.9 to 7.5" in page.words


def test_no_headline_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least one headline"):
        write(tmp_path, content(headlines=[]))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("accuracy", 0.98765, "98.8 %"),
        ("macro_f1", 0.5, "50.0 %"),
        ("mape", 0.123, "12.3 %"),
        ("roc_auc", 0.98765, "0.9877"),
        ("mcc", 0.5, "0.5"),
        ("rmse", 123456.7, "123,457"),
        ("mae", -0.00012345, "-0.0001234"),
    ],
)
def test_show(name, value, expected):
    assert show(name, value) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("macro_f1", "macro F1"), ("roc_auc", "ROC-AUC"), ("rmse", "RMSE"), ("accuracy", "accuracy")],
)
def test_show_name(name, expected):
    assert show_name(name) == expected


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
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(result_table(content(name="[red]signs", metrics={"accuracy": 0.9762, "weird[/]": 0.5})))
    lines = console.export_text().splitlines()
    assert "[red]signs: test, 1,234 rows" in lines[0]
    accuracy = next(line for line in lines if "accuracy" in line)
    assert "97.6 %" in accuracy
    assert "96.5 % to 98.5 %" in accuracy
    assert "5.6 %" in accuracy
    assert any("weird[/]" in line for line in lines)
