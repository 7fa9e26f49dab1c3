"""What is written and shown while training runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class LogFile(TrainerCallback):
    """Append every logged step to log.jsonl, as it happens.

    A resumed run goes on behind the step of its checkpoint; lines of steps trained again are dropped.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what belongs to the steps that will not be trained again."""
        if state.is_world_process_zero:
            self.path.write_text("".join(json.dumps(line) + "\n" for line in state.log_history))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the last steps of the epoch too, so that no line shows the loss of an earlier one."""
        control.should_log = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the newest line."""
        if state.is_world_process_zero:
            with self.path.open("a") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")


class EpochLines(ProgressCallback):
    """A progress bar, and one readable line per evaluation in place of the Trainer's dictionaries.

    The bar is drawn on a terminal only: in a file, each of its thousands of steps would stay.

    Args:
        metric: the metric that decides which checkpoint is best.
        greater: whether a greater value is better.
        bar: whether there is a bar beside the lines.
    """

    def __init__(self, metric: str = "loss", greater: bool = False, bar: bool = True):
        super().__init__()
        self.metric, self.greater, self.bar = metric, greater, bar
        self.best: float | None = None
        self.training_loss: float | None = None
        self.training_bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the bar, and take over the best value of a run that goes on."""
        from tqdm.auto import tqdm

        self.best, self.current_step = state.best_metric, 0
        if state.is_world_process_zero:
            # None: off where standard error is not a terminal.
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
        """Remember the training loss for the next line."""
        self.training_loss = (logs or {}).get("loss", self.training_loss)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Write the line."""
        if not state.is_world_process_zero or not metrics or self.training_bar is None:
            return
        value = metrics[f"eval_{self.metric}"]
        better = self.best is None or (value > self.best if self.greater else value < self.best)
        self.best = value if better else self.best
        loss = "" if self.training_loss is None else f"  loss {self.training_loss:.4f}"
        measured = f"validation loss {metrics['eval_loss']:.4f}  {self.metric} {value:.4f}"
        self.training_bar.write(
            f"  epoch {state.epoch or 0:5.2f}{loss}  {measured}{'  best so far' if better else ''}"
        )
