"""What is shown and written while training runs."""

import io
import sys

import pytest
from transformers import TrainerControl, TrainerState

from hf_ft.evaluate.loop import _bar
from hf_ft.train.callbacks import EpochLines, LogFile


class Screen(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self):
        return True


def trained(metric, greater, values, best=None, bar=True):
    """Go through the events of a training with one evaluation for each value."""
    lines, control = EpochLines(metric, greater, bar), TrainerControl()
    state = TrainerState(max_steps=10 * len(values), best_metric=best)
    lines.on_train_begin(None, state, control)
    for epoch, value in enumerate(values, start=1):
        for _ in range(10):
            state.global_step += 1
            lines.on_step_end(None, state, control)
        state.epoch = epoch
        lines.on_log(None, state, control, logs={"loss": 0.5})
        lines.on_evaluate(None, state, control, metrics={"eval_loss": 0.25, f"eval_{metric}": value})
    lines.on_train_end(None, state, control)


def test_each_epoch_ends_with_a_line_of_its_last_steps(tmp_path):
    """An epoch may be shorter than the steps between two log lines."""
    control = TrainerControl()
    LogFile(tmp_path / "log.jsonl").on_epoch_end(None, TrainerState(), control)
    assert control.should_log


def test_without_a_terminal_there_are_lines_and_no_bars(capsys):
    trained("accuracy", True, [0.5, 0.4])
    list(_bar([1, 2], "evaluate", True))
    shown = capsys.readouterr()
    assert shown.err == "" and "\r" not in shown.out
    assert shown.out.splitlines() == [
        "  epoch  1.00  loss 0.5000  validation loss 0.2500  accuracy 0.5000  best so far",
        "  epoch  2.00  loss 0.5000  validation loss 0.2500  accuracy 0.4000",
    ]


def test_lines_stay_where_no_bar_is_wanted(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Screen())
    trained("accuracy", True, [0.5], bar=False)
    assert sys.stderr.getvalue() == "" and "accuracy 0.5000" in capsys.readouterr().out


def test_on_a_terminal_there_are_bars(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    trained("accuracy", True, [0.5])
    assert "/10" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", Screen())
    list(_bar([1, 2], "evaluate", True))
    assert "evaluate" in sys.stderr.getvalue()


@pytest.mark.parametrize(("text", "show"), [(None, True), ("evaluate", False)])
def test_no_bar_where_none_is_wanted(text, show, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    list(_bar([1, 2], text, show))
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize(
    ("greater", "best", "marked"), [(True, None, [1, 3]), (False, None, [1, 2]), (True, 0.8, [3])]
)
def test_the_best_is_marked_in_the_metrics_direction(greater, best, marked, capsys):
    """tf PR#31142; a run that goes on knows the best value of its first part."""
    trained("score", greater, [0.7, 0.6, 0.9], best)
    lines = capsys.readouterr().out.splitlines()
    assert [number for number, line in enumerate(lines, start=1) if "best so far" in line] == marked
