"""Callbacks: log.jsonl, progress bars, and the line of each evaluation."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
from processes import Processes
from transformers import TrainerControl, TrainerState

from hf_ft.evaluate.loop import _progress_bar
from hf_ft.train import callbacks
from hf_ft.train.callbacks import EarlyStopping, EpochLines, LogFile, SaveByTime, is_new_best


class Screen(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self):
        return True


def trained(metric, greater, values, best=None, bar=True):
    """Send the events of a training with one evaluation for each value."""
    lines, control = EpochLines(metric, greater, bar), TrainerControl()
    state = TrainerState(max_steps=10 * len(values), best_metric=best)
    lines.on_train_begin(None, state, control)
    for epoch, value in enumerate(values, start=1):
        for _ in range(10):
            state.global_step += 1
            lines.on_step_end(None, state, control)
        state.epoch = epoch
        lines.on_log(None, state, control, logs={"loss": 0.5})
        metrics = {"eval_loss": 0.25, f"eval_{metric}": value}
        lines.on_evaluate(None, state, control, metrics=metrics)
        if is_new_best(state, metrics, metric, greater):
            state.best_metric = value
    lines.on_train_end(None, state, control)


def test_the_end_of_an_epoch_is_logged(tmp_path):
    """An epoch may be shorter than the steps between two log lines."""
    control = TrainerControl()
    LogFile(tmp_path / "log.jsonl").on_epoch_end(None, TrainerState(), control)
    assert control.should_log


def test_without_a_terminal_lines_are_printed_and_no_bars(capsys):
    trained("accuracy", True, [0.5, 0.4])
    list(_progress_bar([1, 2], "evaluate", True))
    shown = capsys.readouterr()
    assert shown.err == "" and "\r" not in shown.out
    assert shown.out.splitlines() == [
        "  epoch  1.00  loss 0.5000  validation loss 0.2500  accuracy 0.5000  best so far",
        "  epoch  2.00  loss 0.5000  validation loss 0.2500  accuracy 0.4000",
    ]


def test_lines_are_printed_if_bars_are_off(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Screen())
    trained("accuracy", True, [0.5], bar=False)
    assert sys.stderr.getvalue() == "" and "accuracy 0.5000" in capsys.readouterr().out


def test_bars_are_drawn_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    trained("accuracy", True, [0.5])
    assert "/10" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", Screen())
    list(_progress_bar([1, 2], "evaluate", True))
    assert "evaluate" in sys.stderr.getvalue()


@pytest.mark.parametrize(("text", "show"), [(None, True), ("evaluate", False)])
def test_no_bar_is_drawn_without_text_or_on_other_processes(text, show, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    list(_progress_bar([1, 2], text, show))
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize(
    ("greater", "best", "marked"), [(True, None, [1, 3]), (False, None, [1, 2]), (True, 0.8, [3])]
)
def test_the_best_value_is_marked_by_the_direction_of_the_metric(greater, best, marked, capsys):
    """tf PR#31142; a resumed run knows the best value so far."""
    trained("score", greater, [0.7, 0.6, 0.9], best)
    lines = capsys.readouterr().out.splitlines()
    assert [number for number, line in enumerate(lines, start=1) if "best so far" in line] == marked


def test_of_equal_metrics_the_lower_loss_is_best():
    """On few rows many epochs share one accuracy; the first of them may have a much higher loss."""

    def is_best(accuracy, **loss):
        return is_new_best(state, {"eval_accuracy": accuracy, **loss}, "accuracy", True)

    state = TrainerState(best_metric=0.5, best_global_step=20)
    state.log_history = [{"step": 10, "eval_loss": 0.1}, {"step": 20, "loss": 9.0}]
    assert not is_best(0.5, eval_loss=0.9)  # no loss of the best is known
    state.log_history += [{"step": 20, "eval_loss": 1.0}, {"step": 30, "eval_loss": 0.9}]
    assert is_best(0.5, eval_loss=0.9) and not is_best(0.5, eval_loss=1.0)
    assert is_best(0.6, eval_loss=5.0) and not is_best(0.4, eval_loss=0.1)
    assert not is_best(0.5) and not is_best(float("nan"), eval_loss=0.1)
    assert not is_best(0.5, eval_loss=float("nan"))
    state.best_metric = None
    assert is_best(0.0) and not is_best(float("nan"))


def evaluations_until_stop(callback, evaluations):
    """Return how many (accuracy, loss) it takes until the callback ends the training, or None."""
    arguments = SimpleNamespace(metric_for_best_model="accuracy", greater_is_better=True)
    state, control = TrainerState(), TrainerControl()
    for number, (accuracy, loss) in enumerate(evaluations, start=1):
        metrics = {"eval_accuracy": accuracy} | ({} if loss is None else {"eval_loss": loss})
        callback.on_evaluate(arguments, state, control, metrics)
        if state.best_metric is None or accuracy > state.best_metric:
            state.best_metric = accuracy
        if control.should_training_stop:
            return number
    return None


@pytest.mark.parametrize(
    ("evaluations", "stop"),
    [
        ([(0.5, 1.0), (0.5, 0.9), (0.5, 0.8), (0.5, 0.7)], None),
        ([(0.5, 1.0), (0.5, 0.9999), (0.5, 0.9998), (0.5, 0.9997)], 3),
        ([(0.5, 1.0), (0.6, 1.1), (0.7, 1.2), (0.8, 1.3)], None),
        ([(0.5, 1.0), (0.4, 1.1), (0.5, 1.0)], 3),
        ([(0.5, None), (0.5, None), (0.5, None)], 3),
        ([(0.5, -1.0), (0.5, -1.1), (0.5, -1.2), (0.5, -1.3)], None),
        ([(0.5, -1.0), (0.5, -0.9), (0.5, -0.8)], 3),
        ([(0.5, -1.0), (0.5, -1.0), (0.5, -1.0)], 3),
    ],
    ids=[
        "loss falls",
        "loss stands",
        "metric rises",
        "both worse",
        "no loss",
        "negative falls",
        "negative rises",
        "negative stands",
    ],
)
def test_training_ends_when_neither_metric_nor_loss_improves(evaluations, stop):
    assert evaluations_until_stop(EarlyStopping(2), evaluations) == stop


def test_with_a_threshold_the_metric_alone_decides():
    evaluations = [(0.5, 1.0), (0.505, 0.9), (0.51, 0.8)]
    assert evaluations_until_stop(EarlyStopping(2, 0.1), evaluations) == 3


def test_a_resumed_run_remembers_the_lowest_loss():
    first = EarlyStopping(2)
    assert evaluations_until_stop(first, [(0.5, 1.0), (0.5, 0.5), (0.5, 0.6)]) is None
    resumed = EarlyStopping.from_state(json.loads(json.dumps(first.state())))
    assert (resumed.lowest_loss, resumed.early_stopping_patience_counter) == (0.5, 1)
    assert evaluations_until_stop(resumed, [(0.5, 0.55)]) is None  # no best metric yet in this state
    assert resumed.lowest_loss == 0.5


def test_an_evaluation_without_a_loss_has_its_line(capsys):
    """Identities that are not in train have no loss."""
    lines, state, control = EpochLines("tar", True), TrainerState(max_steps=1, epoch=1.0), TrainerControl()
    lines.on_train_begin(None, state, control)
    lines.on_evaluate(None, state, control, metrics={"eval_tar": 0.25})
    assert "epoch  1.00  tar 0.2500  best so far" in capsys.readouterr().out


def test_a_checkpoint_is_asked_for_when_the_last_one_is_old(monkeypatch):
    """Not in the last step of an epoch or of the training: that one is evaluated before it is saved."""
    now = 1000.0
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now)
    saves, state = SaveByTime(2), TrainerState(epoch=0.5)
    saves.on_train_begin(None, state, TrainerControl())

    def asked(at, **given):
        nonlocal now
        now, control = 1000.0 + at, TrainerControl(**given)
        saves.on_step_end(None, state, control)
        return control.should_save

    assert [asked(seconds) for seconds in (0, 119, 120, 500)] == [False, False, True, True]
    assert not asked(500, should_training_stop=True) and asked(0, should_save=True)
    state.epoch = 3.0
    assert not asked(500)
    state.epoch = 3.5
    saves.on_save(None, state, TrainerControl())
    assert [asked(seconds) for seconds in (500, 619, 620)] == [False, False, True]


def test_all_processes_save_when_one_of_them_is_due(monkeypatch):
    """A checkpoint is written by all of them together; clocks differ."""
    two = Processes(2, monkeypatch)
    monkeypatch.setattr(callbacks, "sum_over_processes", lambda value: sum(two.gather([value])))

    def asked(rank):
        saves, control = SaveByTime(1), TrainerControl()
        saves.saved -= 59 + 2 * rank  # seconds ago
        saves.on_step_end(None, TrainerState(epoch=0.5), control)
        return control.should_save

    assert two.run(asked) == [True, True]
