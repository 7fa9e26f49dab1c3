"""Callbacks of the Trainer: early stopping, checkpoints by time, log.jsonl, a printed line per evaluation."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    EarlyStoppingCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hf_ft.causes import naming
from hf_ft.storage.atomic import write_text
from hf_ft.train.distributed import sum_over_processes

# The share by which a validation loss must fall below the lowest one to count as an improvement.
LOSS_IMPROVEMENT = 1e-3


class EarlyStopping(EarlyStoppingCallback):
    """Stop when neither the main metric nor the validation loss improves over several evaluations.

    The metric alone would stop too early: accuracy can stay constant for many epochs while the loss still
    falls, and then rise again. If a threshold is set, only the metric is compared.

    Args:
        early_stopping_patience: evaluations without an improvement after which training ends.
        early_stopping_threshold: by how much the metric must improve to count.
    """

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float = 0.0):
        super().__init__(early_stopping_patience, early_stopping_threshold)
        self.lowest_loss: float | None = None
        self._loss_fell = False

    def on_evaluate(  # type: ignore[override]
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Any,
        **kwargs: Any,
    ) -> None:
        """Compare the loss with the lowest one so far, then compare the metric."""
        loss, lowest = metrics.get("eval_loss"), self.lowest_loss
        self._loss_fell = loss is not None and (
            lowest is None or lowest - loss > LOSS_IMPROVEMENT * abs(lowest)
        )
        if self._loss_fell:
            self.lowest_loss = float(loss)
        super().on_evaluate(args, state, control, metrics, **kwargs)

    def check_metric_value(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metric_value: float
    ) -> None:
        """Update the number of evaluations without an improvement."""
        super().check_metric_value(args, state, control, metric_value)
        if self._loss_fell and not self.early_stopping_threshold:
            self.early_stopping_patience_counter = 0

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, so that a resumed run stops where an uninterrupted one does."""
        stored = super().state()
        stored["attributes"]["lowest_loss"] = self.lowest_loss
        return stored


def ends_epoch(state: TrainerState, control: TrainerControl) -> bool:
    """Tell whether this step is the last one of an epoch, which is evaluated before it is saved."""
    return control.should_training_stop or (state.epoch or 0) % 1 == 0


class SaveByTime(TrainerCallback):
    """Asks for a checkpoint at the end of a step when the last one is some minutes old.

    The checkpoint is not evaluated, so that it changes nothing of the result.

    Args:
        minutes: between two checkpoints.
    """

    def __init__(self, minutes: float):
        self.seconds, self.saved = 60 * minutes, time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count from here."""
        self.saved = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a checkpoint if it is time for one on any process; all of them write it together."""
        if not ends_epoch(state, control):
            due = time.monotonic() - self.saved >= self.seconds
            control.should_save |= sum_over_processes(due) > 0

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count from here again."""
        self.saved = time.monotonic()


class LogFile(TrainerCallback):
    """Append every log entry of the Trainer to log.jsonl at once.

    A resumed run continues after the step of its checkpoint; lines of later steps, which are trained again,
    are deleted.

    Args:
        path: of log.jsonl.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Rewrite the file with the entries up to the step that training starts from."""
        self.rewrite(state)

    def rewrite(self, state: TrainerState) -> None:
        """Write the entries of a state: a run that was killed may have left half a line."""
        if state.is_world_process_zero:
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in state.log_history))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log at the end of an epoch too, so that the line of the epoch shows the loss of its last steps."""
        control.should_log = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Append the newest entry."""
        if state.is_world_process_zero:
            with naming(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")


def is_new_best(state: TrainerState, metrics: Mapping[str, float], metric: str, greater: bool) -> bool:
    """Tell whether an evaluation is the best so far: by the metric, and among equal values by a lower loss.

    On a few hundred validation rows many epochs share one accuracy, and the first of them may have a loss far
    above that of the last.

    Args:
        state: of the Trainer, before it takes this evaluation as the best.
        metrics: of this evaluation, named `eval_NAME`.
        metric: the metric that decides, without `eval_`.
        greater: whether a greater value is better.
    """
    value, best = metrics[f"eval_{metric}"], state.best_metric
    if best is None:
        return not math.isnan(value)
    if value != best or "eval_loss" not in metrics:
        return value > best if greater else value < best
    of_best = [
        entry["eval_loss"]
        for entry in state.log_history
        if entry.get("step") == state.best_global_step and "eval_loss" in entry
    ]
    return bool(of_best) and metrics["eval_loss"] < of_best[-1]


class EpochLines(ProgressCallback):
    """Show a progress bar, and print one line per evaluation in place of the Trainer's dictionaries.

    The bar is drawn on a terminal only: in a file, every update of the bar would leave a line.

    Args:
        metric: the metric that decides which checkpoint is best.
        greater: whether a greater value is better.
        bar: whether to show the bar.
    """

    def __init__(self, metric: str = "loss", greater: bool = False, bar: bool = True):
        super().__init__()
        self.metric, self.greater, self.bar = metric, greater, bar
        self.training_loss: float | None = None
        self.training_bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the bar."""
        from tqdm.auto import tqdm

        self.current_step = 0
        if state.is_world_process_zero:
            # None: tqdm shows no bar where standard error is not a terminal.
            disable = None if self.bar else True
            self.training_bar = tqdm(total=state.max_steps, dynamic_ncols=True, disable=disable)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        **kwargs: Any,
    ) -> None:
        """Store the training loss for the next line."""
        self.training_loss = (logs or {}).get("loss", self.training_loss)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Print the line of an evaluation."""
        if not state.is_world_process_zero or not metrics or self.training_bar is None:
            return
        value = metrics[f"eval_{self.metric}"]
        # The Trainer updates the best value after this event.
        better = is_new_best(state, metrics, self.metric, self.greater)
        loss = "" if self.training_loss is None else f"  loss {self.training_loss:.4f}"
        if "eval_loss" in metrics:  # some tasks have no loss on this split
            loss += f"  validation loss {metrics['eval_loss']:.4f}"
        best = "  best so far" if better else ""
        self.training_bar.write(f"  epoch {state.epoch or 0:5.2f}{loss}  {self.metric} {value:.4f}{best}")
