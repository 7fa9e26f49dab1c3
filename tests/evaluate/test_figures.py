"""Figures: of any size and with any names; a character without a glyph is shown as its code point."""

import io

import numpy as np
import pytest

from hf_ft.evaluate import figure_fonts
from hf_ft.evaluate.figure_fonts import choose_fonts
from hf_ft.evaluate.figures import (
    confusion_figure,
    learning_curve_figure,
    per_class_figure,
    reliability_figure,
    scatter_figure,
)

# A formula that cannot be parsed, markup, right-to-left fonts, a line break, a symbol, a very long name.
NAMES = ["$\\frac{1}", "<script>", "قف", "a\nb", "Überholverbot ☠", "long " * 30]
# A private-use character, which no font has.
NOWHERE = "\U000f1234"


def draw(figure):
    """Render: only then matplotlib notices a missing glyph or a text that it cannot parse."""
    buffer = io.BytesIO()
    figure.figure.savefig(buffer, format="png", dpi=50)
    return buffer.getvalue()


def texts(figure):
    """Return every text of a figure."""
    found = []
    for axes in figure.figure.axes:
        labels = [*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts, axes.title]
        labels += [axes._left_title, axes.xaxis.label, axes.yaxis.label]
        found += [text.get_text() for text in labels]
    return found


def counts(classes, seed=0):
    rng = np.random.default_rng(seed)
    return (np.diag(rng.integers(10, 30, classes)) + (rng.random((classes, classes)) < 0.1)).tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [1, 2, 16, 17, 43])
def test_confusion_of_any_size(classes):
    labels = [f"class {index}" for index in range(classes)]
    figure = confusion_figure(counts(classes), labels)
    assert draw(figure)
    assert set(labels) <= set(texts(figure))


def test_confusion_of_many_classes_shows_the_worst():
    confusion = np.diag(np.full(200, 5))
    confusion[150, 7] = 4
    labels = [f"class {index}" for index in range(200)]
    figure = confusion_figure(confusion.tolist(), labels)
    assert {"class 150", "class 7", "4"} <= set(texts(figure))
    assert "The 48 of 200 classes with most mistakes" in figure.caption


def test_confusion_numbers_are_the_counts():
    figure = confusion_figure([[3, 1], [0, 7]], ["no", "yes"])
    shown = {(text.get_position(), text.get_text()) for text in figure.figure.axes[0].texts}
    assert shown == {((0, 0), "3"), ((1, 0), "1"), ((1, 1), "7")}


@pytest.mark.filterwarnings("error")
def test_any_name_can_be_drawn():
    assert draw(confusion_figure(counts(len(NAMES)), NAMES))
    rows = [{"label": name, "support": 3, "f1": 0.5} for name in NAMES]
    assert draw(per_class_figure(rows))


def test_missing_glyphs_are_spelled_and_the_caption_says_so(monkeypatch):
    """A Chinese name is never drawn as boxes, whatever fonts are installed."""
    only = {"DejaVu Sans": figure_fonts._families()["DejaVu Sans"]}
    for name in ("_families", "_search_families"):
        monkeypatch.setattr(figure_fonts, name, lambda: only)
    figure = confusion_figure(counts(2), ["停 stop", "go"])
    assert "U+505C stop" in texts(figure)
    assert "No installed font has 1 of the characters" in figure.caption
    assert "U+505C" in figure.caption
    assert "No installed font" not in confusion_figure(counts(2), ["stop", "go"]).caption


def test_a_font_installed_after_the_list_was_written_is_found(monkeypatch):
    """matplotlib stores its list of fonts in a file; searching all folders takes 0.3 seconds."""
    every, searched = figure_fonts._families(), []
    only = {name: every[name] for name in ("STIXSizeOneSym",)}
    monkeypatch.setattr(figure_fonts, "_families", lambda: only)
    monkeypatch.setattr(figure_fonts, "_search_families", lambda: searched.append(1) or {**only, **every})
    fonts = choose_fonts(["stop"])
    assert searched == [1] and fonts.families[-1] == "DejaVu Sans" and not fonts.missing
    monkeypatch.setattr(figure_fonts, "_families", lambda: every)
    assert choose_fonts(["stop", "Überholverbot"]).families == ("DejaVu Sans",) and searched == [1]


@pytest.mark.filterwarnings("error")
def test_chinese_names_are_drawn_or_spelled():
    fonts = choose_fonts(["停车", "限速"])
    figure = confusion_figure(counts(2), ["停车", "限速"])
    assert draw(figure)
    if fonts.missing:
        assert "U+505C U+8F66" in texts(figure)
    else:
        assert "停车" in texts(figure)
        assert len(fonts.families) > 1


def test_control_and_private_characters_are_spelled():
    fonts = choose_fonts([f"a\x00b{NOWHERE}"])
    assert fonts.spell(f"a\x00b{NOWHERE}") == "a U+0000 b U+F1234"
    assert fonts.note == ""


def test_long_names_keep_both_ends():
    spelled = choose_fonts(["x"]).spell("beginning of a name that is very long and has an end")
    assert len(spelled) == 28
    assert spelled.startswith("beginning")
    assert spelled.endswith("has an end")


def test_per_class_shows_the_worst_first_and_no_class_without_rows():
    rows = [
        {"label": "good", "support": 5, "f1": 0.9},
        {"label": "absent", "support": 0, "f1": 0.0},
        {"label": "bad", "support": 5, "f1": 0.2},
    ]
    axes = per_class_figure(rows).figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["bad", "good"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_calibration_error_of_a_known_case():
    scores = np.array([[0.9, 0.1]] * 10, dtype=np.float32)
    figure = reliability_figure(scores, [0] * 7 + [1] * 3)
    assert "error 0.200 " in figure.caption
    assert draw(figure)


def test_learning_curve_marks_the_best_step():
    log = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.0},
        {"step": 2, "eval_loss": 1.5, "eval_accuracy": 0.5},
    ]
    figure = learning_curve_figure(log, "accuracy", best_step=2)
    assert [len(axes.lines) for axes in figure.figure.axes] == [3, 2]
    assert "step 2" in figure.caption
    assert draw(figure)
    assert len(learning_curve_figure(log).figure.axes) == 1


@pytest.mark.filterwarnings("error")
def test_learning_curve_of_an_empty_log():
    assert draw(learning_curve_figure([], "accuracy"))


@pytest.mark.filterwarnings("error")
def test_scatter_draws():
    values = np.linspace(0, 5, 30)
    assert draw(scatter_figure(values, values + 1, "temperature $", "°C"))
