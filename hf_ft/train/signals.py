"""Signals: a run that is asked to stop writes a checkpoint at the end of its step, and then stops.

Clusters send SIGTERM, SIGUSR1 or SIGHUP some seconds before they kill a job; Ctrl-C is SIGINT.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ft.errors import Stopped
from hf_ft.train.callbacks import ends_epoch
from hf_ft.train.distributed import sum_over_processes

# Those that this system has: Windows has no SIGUSR1 and no SIGHUP.
STOPPING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT") if hasattr(signal, name)
)
_DEFAULT = (signal.SIG_DFL, signal.default_int_handler)


class StopSignals(TrainerCallback):
    """Stops a run at the end of a training step, with a checkpoint; before and after training, at once.

    A second signal stops it at once. All processes stop at the same step, whichever got the signal.
    """

    def __init__(self) -> None:
        self.number = 0
        self.training = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopSignals]:
        """Handle the signals inside the block, except those that are ignored or that the caller handles."""
        # Only the main thread may set handlers.
        is_main = threading.current_thread() is threading.main_thread()
        taken = [number for number in STOPPING if is_main and signal.getsignal(number) in _DEFAULT]
        before = {number: signal.signal(number, self._handle) for number in taken}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self.number or not self.training:
            raise Stopped(number)
        self.number = number
        name = signal.Signals(number).name
        # Not `print`: the signal may come while this thread is writing to the same buffer.
        os.write(2, f"{name}: stops after this step, with a checkpoint; again: stops at once\n".encode())

    def _agreed(self) -> int:
        """Return the signal that any process got, or 0."""
        total = sum_over_processes(self.number)
        return self.number or (signal.SIGTERM if total else 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From now on a signal waits for the end of a step."""
        self.training = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a checkpoint if a process got a signal; the last step of an epoch is evaluated first."""
        control.should_save |= bool(self._agreed()) and not ends_epoch(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a checkpoint; where the epoch is evaluated, the Trainer evaluates before it saves."""
        control.should_save |= bool(self._agreed())

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop, now that the checkpoint is written."""
        number = self._agreed()
        if number:
            raise Stopped(number)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From now on a signal stops the run at once: the last checkpoint holds all of the training."""
        self.training = False
        if self.number:
            raise Stopped(self.number)


def as_worker(index: int) -> None:
    """Set up the signals of a process that loads data: they are for the process that trains.

    A cluster sends a signal to all processes of a job. Without its workers, the run could not end its step.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
